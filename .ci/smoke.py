"""Use an installed metalearn from outside its repository: everything shipped loads, the command line trains.

    python -I .ci/smoke.py

`-I` keeps the present folder and PYTHONPATH off the import path, so that what is tested is what is installed.
"""

import importlib
import subprocess
import sys
from pathlib import Path

from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split

COMMAND = Path(sys.executable).with_name("metalearn")
TINY = ["--run", "tiny", "--steps", "4", "--steps-per-call", "2", "--batch", "2", "--eval-tasks", "2"]
TINY += ["--outer-optimizer.warmup", "1", "--learner.width", "8", "--learner.layers", "1", "--learner.heads", "2"]


def check_imports() -> None:
    """Packages come from the installation and not from a checkout."""
    for name in ("metalearn", "metalearn_models", "metalearn_tasks"):
        found = Path(importlib.import_module(name).__file__ or "")
        assert "site-packages" in found.parts, f"{name} was imported from {found}"


def check_shipped() -> None:
    """Everything that was meta-trained and packaged can be loaded."""
    for kind in ("learners", "optimizers", "losses"):
        library = importlib.import_module(f"metalearn_models.{kind}.library")
        assert library.shipped(), f"no {kind} are in the wheel"
        for name in library.shipped():
            library.load(name)
        print(f"{kind}: {', '.join(library.shipped())}")


def check_classifier() -> None:
    """The shipped learner classifies data that it has never seen, far above chance (1/3)."""
    from metalearn_models import InContextClassifier

    x_train, x_test, y_train, y_test = train_test_split(*load_iris(return_X_y=True), train_size=75, random_state=0)
    accuracy = InContextClassifier().fit(x_train, y_train).score(x_test, y_test)
    print(f"InContextClassifier on iris: {accuracy:.3f}")
    assert accuracy > 0.8, f"accuracy {accuracy}"


def check_command_line() -> None:
    """Help, list, and a training run of four steps that leaves its result."""
    for words in (["--help"], ["list"], ["train", "digits", *TINY]):
        print("+ metalearn", *words, flush=True)
        subprocess.run([COMMAND, *words], check=True, stdout=subprocess.DEVNULL)
    for name in ("result.json", "theta.safetensors"):
        assert Path("tiny", name).exists(), f"the run has left no {name}"


if __name__ == "__main__":
    check_imports()
    check_shipped()
    check_classifier()
    check_command_line()
