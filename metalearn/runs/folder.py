"""A run's folder: which configuration, which code, and everything the run has produced so far.

    config.json     the configuration, and for the start and each resume: versions, git commit, command line
    metrics.jsonl   one JSON object a logged step, and one an evaluation (`metrics.py`)
    tensorboard/    the same numbers as event files
    checkpoints/    the last few states (`checkpoints.py`)
    *.png           pictures, written by whoever draws them
    result.json     what the run came to, written at its end
    theta.safetensors  meta-parameters to take home, written at the end by commands that make them
    lock            held by the process that writes the run (`lock.py`); means nothing by being there

The folder is the only state: a run that was killed goes on from its folder alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metalearn.errors import RunError
from metalearn.runs.environment import environment
from metalearn.runs.files import write_atomically
from metalearn.runs.lock import LOCK, only_writer

FORMAT = 1


def note_on_stderr(text: str) -> None:
    """Say something to the person who watches the run."""
    print(text, file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class Run:
    """A folder that exists and holds a `config.json`.

    Attributes:
        folder: where everything of the run lies.
        config: the configuration as JSON values.
        free: names of the fields of `config` that may change when the run is resumed, dotted where nested.
        upgrade: turns the configuration that an older version of the code wrote into the values that this one writes;
            applied to whatever was written before.
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
    """Begin a new run in a folder that is new or empty.

    Args:
        folder: created with its parents.
        config: numbers, strings, lists, paths, nested mappings and dataclasses; the seed under `"seed"`.
        free: the fields that may change on resume (see `Run`).
        overwrite: remove an older *run* in that folder first. Anything else in it is never touched.

    Raises:
        RunError: the folder holds something already, cannot be written, or holds an older run that another process
            is writing.
        TypeError: a value of `config` has no JSON form.
    """
    folder, values = Path(folder), as_json(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        older = open_run(folder) if (folder / "config.json").exists() and overwrite else None
        # only a run has a writer: no lock file is put into a folder of other things
        with only_writer(folder) if older else contextlib.nullcontext():
            if older:
                foreign = sorted(p.name for p in folder.iterdir() if not _is_of_a_run(p))
                if foreign:  # said before anything is removed
                    raise RunError(f"{folder} holds {', '.join(foreign[:5])} beside its run: choose another folder")
                _remove_run(older)
            # a kill may leave a temporary file, and a lock stays
            left = sorted(p.name for p in folder.iterdir() if p.suffix != ".tmp" and p.name != LOCK)
            if "config.json" in left:
                raise RunError(f"{folder} holds a run already: resume it, overwrite it, or choose another folder")
            if left:
                raise RunError(
                    f"{folder} is no run folder but holds {', '.join(left[:5])}: choose a new or an empty folder"
                )
            run = Run(folder, values, tuple(sorted(free)))
            _write_config(run, [environment()])
    except OSError as error:
        raise RunError(f"cannot begin a run in {folder}: {error}") from error
    return run


def open_run(folder: str | Path, upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict) -> Run:
    """Read a run's folder, changing nothing.

    Args:
        folder: of the run.
        upgrade: see `Run`.

    Raises:
        RunError: there is no `config.json`, or it cannot be read.
    """
    folder = Path(folder)
    content = _read_config(folder)
    return Run(folder, upgrade(content["config"]), tuple(content["free"]), upgrade)


def resume_run(
    folder: str | Path,
    config: Mapping[str, Any],
    *,
    free: Collection[str] = ("steps",),
    upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    note: Callable[[str], None] = note_on_stderr,
) -> Run:
    """Go on with a run under the same configuration, the `free` fields excepted.

    The new configuration and the present environment are added to `config.json`. A change of what decides the
    last bit of a result (versions of metalearn and jax, the commit, the devices) is allowed and said.

    Args:
        folder: of an earlier run.
        config: what to go on with.
        free: fields that may differ from the earlier run's. They must not change the numbers of the steps
            already done: `steps` is one, as long as no schedule is computed from it.
        upgrade: see `Run`.
        note: gets a sentence for each thing a person should know.

    Raises:
        RunError: no run there, another process is writing it, or other fields differ; each is named with its old
            and its new value.
    """
    content, values = _read_config(Path(folder)), as_json(config)
    check_same_config(upgrade(content["config"]), values, free, f"{folder} was run with another configuration")
    run = Run(Path(folder), values, tuple(sorted(free)), upgrade)
    now, before = environment(), content["environments"][-1]
    for name in ("metalearn", "jax", "commit", "devices"):
        if now[name] != before.get(name):
            note(f"{name} was {before.get(name)} and is {now[name]}: the result may differ in the last bits")
    try:
        with only_writer(run.folder):
            _write_config(run, [*content["environments"], now])
    except OSError as error:
        raise RunError(f"cannot write {run.folder / 'config.json'}: {error}; nothing saved before is lost") from error
    return run


def check_same_config(old: dict[str, Any], new: dict[str, Any], free: Collection[str], what: str) -> None:
    """Compare two configurations of JSON values.

    Raises:
        RunError: beginning with `what`, when they differ in a field that is neither in `free` nor inside one.
    """
    old_fields, new_fields = _fields(old), _fields(new)
    differing = [
        f"{name}: {_shown(old_fields, name)} -> {_shown(new_fields, name)}"
        for name in sorted(old_fields.keys() | new_fields.keys())
        if not _same(old_fields, new_fields, name) and not any(name == f or name.startswith(f + ".") for f in free)
    ]
    if differing:
        raise RunError(f"{what}, old -> new: {'; '.join(differing)}. Use the old values, or another folder")


def write_result(run: Run, result: Mapping[str, Any], name: str = "result.json") -> None:
    """Write a run's numbers to a JSON file in its folder, replacing earlier ones; null where one is not finite.

    Raises:
        RunError: the disk refused.
    """
    try:
        write_atomically(run.folder / name, _dumps(finite_or_null(as_json(result))))
    except OSError as error:
        raise RunError(f"cannot write {run.folder / name}: {error}; the checkpoints and metrics are safe") from error


def as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """The same values as they come back from JSON: tuples are lists, paths strings, dataclasses mappings.

    Raises:
        TypeError: naming a value that has no such form.
    """

    def convert(value: Any) -> Any:
        if not isinstance(value, type) and dataclasses.is_dataclass(value):
            return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, Mapping):
            return dict(value)
        if isinstance(value, np.ndarray | np.generic | jax.Array):  # arrays and scalars of NumPy and JAX
            return value.tolist()
        raise TypeError(
            f"{value!r} of type {type(value).__name__} has no JSON form: use numbers, strings, lists, dicts"
        )

    return json.loads(json.dumps(dict(value), default=convert))


def finite_or_null(value: Any) -> Any:
    """The same JSON values with None for numbers that JSON cannot write: infinities and NaN."""
    if isinstance(value, dict):
        return {k: finite_or_null(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite_or_null(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
        raise RunError(f"{folder} is no run folder: there is no {path}") from error
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict) or not {"config", "free", "environments"} <= content.keys():
        raise RunError(f"{path} was not written by metalearn: it must hold config, free and environments")
    return content


def _is_of_a_run(path: Path) -> bool:
    names = {"config.json", "metrics.jsonl", "result.json", "theta.safetensors", "tensorboard", "checkpoints", LOCK}
    return path.name in names or path.suffix in (".png", ".tmp") or path.match("evaluate-*.json")


def _remove_run(run: Run) -> None:
    # config.json goes last: until then a kill leaves a folder that still says what it is; the lock stays
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


def _fields(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    parts = [_fields(v, f"{prefix}.{k}" if prefix else k) for k, v in value.items()]
    return {name: v for part in parts for name, v in part.items()}


def _same(old: dict[str, Any], new: dict[str, Any], name: str) -> bool:
    if name not in old or name not in new:
        return False
    return old[name] == new[name] or repr(old[name]) == repr(new[name])  # by its text, NaN equals itself


def _shown(fields: dict[str, Any], name: str) -> str:
    return repr(fields[name]) if name in fields else "absent"
