"""A run's folder: the configuration, the code's version, and everything that the run has produced so far.

    config.json     the configuration, and for the start and each resume: versions, git commit, command line
    metrics.jsonl   one JSON object per logged step and one per evaluation (`metrics.py`)
    tensorboard/    the same numbers as event files
    checkpoints/    the last few states (`checkpoints.py`)
    *.png           pictures
    result.json     the final numbers, written at the end
    theta.safetensors  the meta-parameters
    lock            locked by the process that writes the run (`lock.py`); the file alone means nothing

A run has no other state: after a kill it is resumed from its folder alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from metalearn.errors import RunError
from metalearn.runs.environment import environment
from metalearn.runs.files import write_atomically
from metalearn.runs.json_values import as_json, check_same_config, finite_or_null
from metalearn.runs.lock import LOCK, only_writer
from metalearn.runs.processes import is_first

__all__ = [
    "FORMAT",
    "Run",
    "create_run",
    "note_from_first",
    "note_on_stderr",
    "open_run",
    "resume_run",
    "write_result",
]

FORMAT = 1
"""Version of the form of `config.json`."""


def note_on_stderr(text: str) -> None:
    """Print a sentence for the person who watches the run."""
    print(text, file=sys.stderr, flush=True)


def note_from_first(text: str) -> None:
    """Print a sentence for the person who watches the run, in process 0 alone."""
    if is_first():
        note_on_stderr(text)


@dataclasses.dataclass(frozen=True)
class Run:
    """A folder that exists and holds a `config.json`.

    Attributes:
        folder: the folder.
        config: the configuration as JSON values.
        free: names of the fields of `config` that may change when the run is resumed, with dots if nested.
        upgrade: turns a configuration that an older version of the code wrote into the values that this one writes;
            applied to everything that was written before.
    """

    folder: Path
    config: dict[str, Any]
    free: tuple[str, ...] = ("steps",)
    upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict

    @property
    def metrics(self) -> Path:
        """The file of JSON lines."""
        return self.folder / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """The folder of event files."""
        return self.folder / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.folder / "checkpoints"

    @property
    def result(self) -> Path:
        """The file of final numbers."""
        return self.folder / "result.json"


def create_run(
    folder: str | Path,
    config: Mapping[str, Any],
    *,
    free: Collection[str] = ("steps",),
    overwrite: bool = False,
) -> Run:
    """Begin a new run in a new or empty folder.

    Args:
        folder: created with its parents.
        config: numbers, strings, lists, paths, nested mappings and dataclasses; the seed under `"seed"`.
        free: fields that may change when the run is resumed, see `Run`.
        overwrite: remove an older *run* in that folder first. Nothing else in it is ever touched.

    Raises:
        RunError: the folder is not empty, cannot be written, or holds an older run that another process is writing.
        TypeError: a value of `config` has no JSON form.
    """
    folder, values = Path(folder), as_json(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        older = open_run(folder) if (folder / "config.json").exists() and overwrite else None
        # Only a run has a writer. A folder of other things gets no lock file.
        with only_writer(folder) if older else contextlib.nullcontext():
            if older:
                foreign = sorted(p.name for p in folder.iterdir() if not _belongs_to_run(p))
                if foreign:  # refused before anything is removed
                    raise RunError(f"{folder} holds {', '.join(foreign[:5])} beside its run: choose another folder")
                _remove_run(older)
            # A kill may leave a temporary file, and the lock file always stays.
            left = sorted(p.name for p in folder.iterdir() if p.suffix != ".tmp" and p.name != LOCK)
            if "config.json" in left:
                raise RunError(
                    f"{folder} already holds a run: continue it with --resume {folder}, replace it with --overwrite, "
                    "or choose another folder with --run"
                )
            if left:
                raise RunError(
                    f"{folder} is not a run folder but holds {', '.join(left[:5])}: choose a new or an empty folder"
                )
            run = Run(folder, values, tuple(sorted(free)))
            _write_config(run, [environment()])
    except OSError as error:
        raise RunError(f"cannot begin a run in {folder}: {error}") from error
    return run


def open_run(folder: str | Path, upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict) -> Run:
    """Read a run's folder without changing it.

    Args:
        folder: the folder.
        upgrade: see `Run`.

    Raises:
        RunError: there is no `config.json`, or it cannot be read.
    """
    folder = Path(folder)
    content = _read_config(folder)
    try:
        return Run(folder, upgrade(content["config"]), tuple(content["free"]), upgrade)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{folder / 'config.json'} is not as metalearn wrote it: {error!r}") from error


def resume_run(
    folder: str | Path,
    config: Mapping[str, Any],
    *,
    free: Collection[str] = ("steps",),
    upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    note: Callable[[str], None] = note_on_stderr,
) -> Run:
    """Continue a run with the same configuration, except for the `free` fields.

    The new configuration and the present environment are added to `config.json`. What decides the last bits of a result
    (versions of metalearn and jax, the commit, the devices) may have changed; each change is noted.

    Args:
        folder: the folder of an earlier run.
        config: the configuration to continue with.
        free: fields that may differ from those of the earlier run. They must not change the numbers of the steps that
            are done: `steps` is one of them unless a schedule is computed from it.
        upgrade: see `Run`.
        note: called with a sentence per change of the environment.

    Raises:
        RunError: there is no run; another process is writing it; or other fields differ. The message names each with
            its old and its new value.
    """
    content, values = _read_config(Path(folder)), as_json(config)
    check_same_config(upgrade(content["config"]), values, free, f"{folder} was begun with another configuration")
    run = Run(Path(folder), values, tuple(sorted(free)), upgrade)
    now, before = environment(), content["environments"][-1]
    for name in ("metalearn", "jax", "commit", "devices"):
        if now[name] != before.get(name):
            note(f"{name} was {before.get(name)} and is now {now[name]}: the result may differ in the last bits")
    try:
        with only_writer(run.folder):
            _write_config(run, [*content["environments"], now])
    except OSError as error:
        raise RunError(f"cannot write {run.folder / 'config.json'}: {error}; nothing saved before is lost") from error
    return run


def write_result(run: Run, result: Mapping[str, Any], name: str = "result.json") -> None:
    """Write a run's numbers to a JSON file in its folder, in place of earlier ones; null for those not finite.

    Raises:
        RunError: the file cannot be written.
    """
    try:
        write_atomically(run.folder / name, _dumps(finite_or_null(as_json(result))))
    except OSError as error:
        raise RunError(f"cannot write {run.folder / name}: {error}; the checkpoints and metrics are safe") from error


def _write_config(run: Run, environments: list[dict[str, Any]]) -> None:
    content = {
        "format": FORMAT,
        "config": run.config,
        "seed": run.config.get("seed"),
        "free": run.free,
        "environments": environments,
    }
    write_atomically(run.folder / "config.json", _dumps(content))


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise RunError(f"{folder} is not a run folder: {_describe_other(folder)}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict) or not {"config", "free", "environments"} <= content.keys():
        raise RunError(f"{path} was not written by metalearn: it must hold config, free and environments")
    environments = content["environments"]
    if not (
        isinstance(content["config"], dict)
        and isinstance(content["free"], list)
        and isinstance(environments, list)
        and environments
        and all(isinstance(entry, dict) for entry in environments)
    ):
        raise RunError(f"{path} is not as metalearn wrote it: config, free or environments have other types")
    return content


def _describe_other(folder: Path) -> str:
    """What a folder without a `config.json` is, and which command reads it."""
    if (folder / "search.json").exists() or (folder / "loss.json").exists():
        return (
            f"it is the search of `metalearn search-loss --out {folder}`; `metalearn loss show {folder}` shows the "
            "loss that it found"
        )
    if (folder / "sweep.db").exists() or (folder / "sweep.json").exists():
        return (
            f"it is the sweep of `metalearn sweep --out {folder}`, whose table is in sweep.json; its runs are the "
            f"folders in {folder / 'cells'}"
        )
    return f"there is no {folder / 'config.json'}"


def _belongs_to_run(path: Path) -> bool:
    names = {"config.json", "metrics.jsonl", "result.json", "theta.safetensors", "tensorboard", "checkpoints", LOCK}
    return path.name in names or path.suffix in (".png", ".tmp") or path.match("evaluate-*.json")


def _remove_run(run: Run) -> None:
    # config.json is removed last, so that after a kill the folder is still known to be a run's. The lock file stays.
    pictures, weights = run.folder.glob("*.png"), run.folder / "theta.safetensors"
    others = [*run.folder.glob("evaluate-*.json"), *run.folder.glob("*.tmp")]
    for path in [*pictures, *others, run.result, run.metrics, weights]:
        path.unlink(missing_ok=True)
    for path in (run.tensorboard, run.checkpoints):
        if path.exists():
            shutil.rmtree(path)
    os.unlink(run.folder / "config.json")


def _dumps(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
