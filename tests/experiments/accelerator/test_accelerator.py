"""The command for a machine with an accelerator, at toy size: each part, what it keeps, what fails, few packages."""

import json
import subprocess
import sys

import numpy as np
import pytest

from experiments.accelerator import _smoke, _throughput, _updates, experiment
from experiments.accelerator.experiment import AcceleratorConfig, format_result, run
from experiments.accelerator.few_packages import _AnyShape
from metalearn import gradients
from metalearn.runs.progress import Silent


class Notes(Silent):
    """Keeps what it is told."""

    def __init__(self):
        self.texts = []

    def note(self, text):
        self.texts.append(text)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("accelerator")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_throughput, "LAYERS", 1)  # of four that are alike
        yield folder, run(AcceleratorConfig(dry_run=True, out=folder))


def test_every_part_measures(measured):
    folder, result = measured
    parts = result["parts"]
    assert [row["error"] for row in parts["smoke"].values()] == [""] * len(_smoke.KINDS)
    for row in parts["throughput"]["rows"]:
        assert row["share"] > 0 and row["sequences"] == pytest.approx(row["batch"] / row["seconds"])
    assert {row["optimizer"] for row in parts["updates"]["updates"]} == {"adam", "small-fc", "star"}
    assert all(row["rate"] > 0 for row in parts["updates"]["pes"])
    assert [point["step"] for point in parts["learning"]["curve"]][-1] == 4
    text = format_result(result)
    assert "Toy sizes" in text and "4 of 4 cases ran" in text and "| 64 | bfloat16 |" in text
    assert json.loads((folder / "result.json").read_text()) == result
    assert (folder / "accelerator.md").exists() and (folder / "accelerator.png").exists()


def test_what_was_measured_is_kept_and_what_failed_is_tried_again(measured, monkeypatch):
    folder, before = measured

    def fail(*_, **__):
        raise RuntimeError("the device fell off the bus\nand more lines")

    for module, name in ((_smoke, "smoke_test"), (_throughput, "time_steps"), (_updates, "time_pes")):
        monkeypatch.setattr(module, name, fail)
    (folder / "throughput.json").unlink()
    notes = Notes()
    result = run(AcceleratorConfig(dry_run=True, out=folder), notes)
    assert result["parts"]["smoke"] == before["parts"]["smoke"]  # not measured, so it did not fail
    assert result["parts"]["throughput"] == {"error": "RuntimeError: the device fell off the bus"}
    assert result["parts"]["learning"] == before["parts"]["learning"]
    assert "Failed: RuntimeError: the device fell off the bus" in format_result(result)
    assert "throughput failed: RuntimeError: the device fell off the bus" in notes.texts
    assert not (folder / "throughput.json").exists()


def test_what_is_refused(measured):
    with pytest.raises(ValueError, match="--minutes must be positive, got 0"):
        run(AcceleratorConfig(minutes=0))
    with pytest.raises(ValueError, match=r"smoke.json was measured with .*'dry_run': True.*choose another --out"):
        run(AcceleratorConfig(out=measured[0]))
    with pytest.raises(ValueError, match=r"learning.json was measured with .*'mnist'.*now it is .*'mine.npz'"):
        run(AcceleratorConfig(dry_run=True, out=measured[0], data="mine.npz"))  # as after digits took its place


def test_a_case_that_fails_or_is_not_finite_is_named(monkeypatch):
    monkeypatch.setattr(_smoke, "_cases", lambda: {"losses": iter([("a", lambda: np.nan), ("b", lambda: 1 // 0)])})
    errors = [row["error"] for row in _smoke.smoke_test().values()]
    assert errors == ["not finite", "ZeroDivisionError: integer division or modulo by zero"]


def test_digits_take_the_place_of_mnist_that_is_not_prepared(tmp_path):
    config, name = experiment._learning.paper_config("mnist", str(tmp_path))
    assert config.data.source == "digits" and name.startswith("digits in the place of MNIST")
    with pytest.raises(FileNotFoundError):
        experiment._learning.paper_config(str(tmp_path / "mine.npz"), None)


def test_it_starts_without_the_packages_that_such_a_machine_lacks():
    """Every module is imported, and the options are read."""
    script = """
import importlib.util, runpy, sys
lacking = {"tyro", "jaxtyping", "optuna", "orbax", "tensorflow_datasets", "beartype", "array_record", "pandas"}
class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in lacking:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Lacking())
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in lacking else find_spec(name, *more)
sys.argv = ["experiments", "accelerator", "--minutes", "-1"]
runpy.run_module("experiments", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (1, "accelerator: --minutes must be positive, got -1.0")


def test_the_stand_in_for_jaxtyping_is_the_class_of_the_array():
    assert _AnyShape[int, "n m"] is int


def test_every_estimator_is_in_the_smoke_test():
    """By what the functions of `metalearn.gradients` say that they return; three of them change other estimators."""
    known = {name: vars(gradients)[name] for name in gradients.__all__}
    makers = {name for name, f in known.items() if getattr(f, "__annotations__", {}).get("return") == "Estimator"}
    called = {name for case in _smoke._estimators().values() for name in case.__code__.co_names}
    assert makers - {"together", "with_curriculum", "with_schedule"} == called & makers
