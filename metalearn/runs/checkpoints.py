"""Checkpoints of a run: Orbax writes the arrays, a manifest written last makes them trustworthy.

A checkpoint is the folder `checkpoints/<step>` with `state/` (Orbax) and `manifest.json`: the step, the
configuration, the name, shape and dtype of every leaf, and the SHA-256 of every file of `state/`. It is
written under a `saving-` name and renamed last, so a kill never leaves half a checkpoint under a step's name. The
hashes reveal damage by the disk later.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from metalearn.errors import RunError
from metalearn.runs.checkpoint_files import (
    DamagedError,
    place_arrays,
    read_arrays,
    reason_of,
    verified_manifest,
    write_arrays,
)
from metalearn.runs.files import sync_folder
from metalearn.runs.folder import Run, note_on_stderr
from metalearn.runs.processes import all_do, exchange, is_first

__all__ = ["checkpoint_steps", "describe_last_checkpoint", "restore_checkpoint", "restore_for_all", "save_checkpoint"]


def checkpoint_steps(run: Run) -> list[int]:
    """The outer steps that have a checkpoint, readable or not, in ascending order."""
    if not run.checkpoints.is_dir():
        return []
    return sorted(int(p.name) for p in run.checkpoints.iterdir() if re.fullmatch(r"\d+", p.name))


def save_checkpoint(run: Run, step: int, state: Any, keep: int = 3) -> Path:
    """Save a state, then delete the oldest checkpoints beyond `keep`.

    A checkpoint of this or a later step can only be one that was unreadable when the run was resumed. It is moved to
    `unreadable-<step>` and never deleted.

    Args:
        run: the run.
        step: outer steps done.
        state: pytree of arrays; may contain typed keys and empty arrays.
        keep: number of checkpoints to keep, including this one; at least 1.

    Returns:
        The checkpoint's folder.

    Raises:
        RunError: nothing was saved, for instance because the disk is full. The message names the last good
            checkpoint.
        ValueError: `keep` is below 1.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    final = _folder(run, step)
    partial = run.checkpoints / f"saving-{step}"
    try:
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(run)
        write_arrays(partial, run, step, state)
        for later in [s for s in checkpoint_steps(run) if s >= step]:
            _move_aside(run, later)
        partial.rename(final)
        sync_folder(run.checkpoints)
    except Exception as error:  # TensorStore reports a full disk as a ValueError
        shutil.rmtree(partial, ignore_errors=True)
        raise RunError(
            f"could not save step {step} to {final}: {reason_of(error)}. {describe_last_checkpoint(run)}"
        ) from error
    for old in [s for s in checkpoint_steps(run) if s <= step][:-keep]:
        # Renamed first: a kill during the deletion must not leave a damaged checkpoint under a step's name.
        dropped = run.checkpoints / f"dropped-{old}"
        with contextlib.suppress(OSError):  # the new checkpoint is safe, and the next save tries again
            _folder(run, old).rename(dropped)
            shutil.rmtree(dropped)
    return final


def restore_checkpoint(run: Run, template: Any, note: Callable[[str], None] = note_on_stderr) -> Any:
    """Read the newest readable state of a run, bit for bit as it was saved.

    Args:
        run: the run.
        template: a state of the same structure, from the outer loop's `init`. It gives shapes, dtypes, key
            implementations and placement on devices, and is not consumed.
        note: called with a sentence per checkpoint that is damaged and skipped.

    Returns:
        The state in new arrays, which may be donated; `template` itself if the run has no checkpoint.

    Raises:
        RunError: the checkpoint has another configuration or other shapes; or it is whole but cannot be read; or all
            checkpoints are damaged.
    """
    steps, reasons = checkpoint_steps(run), []
    for step in reversed(steps):
        try:
            return place_arrays(read_arrays(_folder(run, step), run, step, template), template)
        except DamagedError as error:
            reasons.append(f"step {step}: {error}")
            note(f"checkpoint of step {step} is damaged ({error}); falling back to the one before")
    if steps:
        raise RunError(
            f"every checkpoint in {run.checkpoints} is damaged, {'; '.join(reasons)}. Start a new run in another folder"
        )
    return template


def restore_for_all(run: Run, template: Any, note: Callable[[str], None] = note_on_stderr) -> Any:
    """Read the state of the newest checkpoint that all processes can read; all must call this at the same place.

    See `restore_checkpoint`, which a single process does instead. A process reads alone and tells the others how that
    went before it makes arrays that belong to all.

    Raises:
        RunError: on every process. There are checkpoints, but none that all can read: names who reads what. Or one of
            them cannot go on, see `restore_checkpoint`.
    """
    if jax.process_count() == 1:
        return restore_checkpoint(run, template, note)
    damaged = {step: _damage(run, step) for step in checkpoint_steps(run)}
    everyone = [json.loads(text) for text in exchange(json.dumps(list(damaged.items())))]
    good = [{step for step, damage in steps if damage is None} for steps in everyone]
    common, newest = set.intersection(*good), max((step for steps in everyone for step, _ in steps), default=None)
    if newest is None:
        return template
    who = "; ".join(f"process {process} {_described(steps)}" for process, steps in enumerate(everyone))
    if not common:
        raise RunError(
            f"no checkpoint in {run.checkpoints} can be read by all processes: {who}. Are all files where all see them?"
        )
    step = max(common)
    if step < newest and is_first():
        note(f"going on from step {step}, the newest checkpoint that all processes can read: {who}")
    return place_arrays(all_do(lambda: _read(run, step, template)), template)


def describe_last_checkpoint(run: Run) -> str:
    """One sentence for error messages: which checkpoint the run still has."""
    steps = checkpoint_steps(run)
    return f"The last good checkpoint is step {steps[-1]} in {run.folder}" if steps else "There is no checkpoint yet"


def _move_aside(run: Run, step: int) -> None:
    aside = run.checkpoints / f"unreadable-{step}"
    shutil.rmtree(aside, ignore_errors=True)
    _folder(run, step).rename(aside)


def _remove_leftovers(run: Run) -> None:
    for pattern in ("saving-*", "dropped-*"):
        for path in run.checkpoints.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def _folder(run: Run, step: int) -> Path:
    return run.checkpoints / f"{step:08d}"


def _damage(run: Run, step: int) -> str | None:
    """Why a checkpoint cannot be read here; None if its files are as they were saved."""
    try:
        verified_manifest(_folder(run, step), step)
    except (DamagedError, RunError) as error:
        return str(error)
    return None


def _described(steps: list[tuple[int, str | None]]) -> str:
    """What one process has: `reads 10, 20; not 30 (manifest.json is missing)`."""
    good = ", ".join(str(step) for step, damage in steps if damage is None) or "nothing"
    bad = ", ".join(f"{step} ({damage})" for step, damage in steps if damage is not None)
    return f"reads {good}" + (f", not {bad}" if bad else "")


def _read(run: Run, step: int, template: Any) -> dict[str, Any]:
    try:
        return read_arrays(_folder(run, step), run, step, template)
    except DamagedError as error:
        raise RunError(f"checkpoint of step {step} is damaged ({error})") from error
