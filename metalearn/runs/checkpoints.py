"""Checkpoints of a run: Orbax writes the arrays, a manifest written last makes them trustworthy.

A checkpoint is the folder `checkpoints/<step>` with `state/` (Orbax) and `manifest.json`: the step, the
configuration, the name, shape and dtype of every leaf, and the SHA-256 of every file of `state/`. It is
written under a `saving-` name and renamed last, so a kill never leaves half a checkpoint under a step's name. The
hashes reveal damage by the disk later.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from metalearn.errors import RunError
from metalearn.runs.files import file_sha256, sync_folder, write_atomically
from metalearn.runs.folder import Run, note_on_stderr
from metalearn.runs.json_values import check_same_config

__all__ = ["checkpoint_steps", "copy_state", "describe_last_checkpoint", "restore_checkpoint", "save_checkpoint"]


class _DamagedError(Exception):
    """Files of a checkpoint are not as they were saved; the one before it may be whole."""


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
    final = run.checkpoints / f"{step:08d}"
    partial = run.checkpoints / f"saving-{step}"
    try:
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(run)
        _write(partial, run, step, state)
        for later in [s for s in checkpoint_steps(run) if s >= step]:
            _move_aside(run, later)
        partial.rename(final)
        sync_folder(run.checkpoints)
    except Exception as error:  # TensorStore reports a full disk as a ValueError
        shutil.rmtree(partial, ignore_errors=True)
        raise RunError(
            f"could not save step {step} to {final}: {_reason(error)}. {describe_last_checkpoint(run)}"
        ) from error
    for old in [s for s in checkpoint_steps(run) if s <= step][:-keep]:
        # Renamed first: a kill during the deletion must not leave a damaged checkpoint under a step's name.
        dropped = run.checkpoints / f"dropped-{old}"
        with contextlib.suppress(OSError):  # the new checkpoint is safe, and the next save tries again
            (run.checkpoints / f"{old:08d}").rename(dropped)
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
        folder = run.checkpoints / f"{step:08d}"
        try:
            return _read(folder, run, step, template)
        except _DamagedError as error:
            reasons.append(f"step {step}: {error}")
            note(f"checkpoint of step {step} is damaged ({error}); falling back to the one before")
    if steps:
        raise RunError(
            f"every checkpoint in {run.checkpoints} is damaged, {'; '.join(reasons)}. Start a new run in another folder"
        )
    return template


def describe_last_checkpoint(run: Run) -> str:
    """One sentence for error messages: which checkpoint the run still has."""
    steps = checkpoint_steps(run)
    return f"The last good checkpoint is step {steps[-1]} in {run.folder}" if steps else "There is no checkpoint yet"


def _write(folder: Path, run: Run, step: int, state: Any) -> None:
    import orbax.checkpoint as ocp  # slow to import, and needed by training only

    leaves = _leaves(state)
    arrays: dict[str, Any] = {f"{i:05d}": x for i, (_, x) in enumerate(leaves) if x.size}  # Orbax refuses empty arrays
    if jax.process_count() > 1:
        arrays = jax.tree.map(np.asarray, arrays)  # Orbax takes no array of one process among several
    folder.mkdir()
    with _without_logs(), _checkpointer() as checkpointer:
        checkpointer.save((folder / "state").absolute(), args=ocp.args.PyTreeSave(arrays))
    files = sorted(p for p in (folder / "state").rglob("*") if p.is_file())
    manifest = {
        "step": step,
        "config": run.config,
        "leaves": [_description(name, x) for name, x in leaves],
        "files": {p.relative_to(folder).as_posix(): file_sha256(p) for p in files},
    }
    write_atomically(folder / "manifest.json", json.dumps(manifest, indent=1).encode())


def _read(folder: Path, run: Run, step: int, template: Any) -> Any:

    manifest = _verified_manifest(folder, step)
    check_same_config(run.upgrade(manifest["config"]), run.config, run.free, f"{folder} has another configuration")
    leaves = _leaves(template)
    saved, wanted = manifest["leaves"], [_description(name, x) for name, x in leaves]
    if saved != wanted:
        differing = [f"{s} -> {w}" for s, w in zip(saved, wanted, strict=False) if s != w][:5]
        raise RunError(
            f"{folder} holds another state: {len(saved)} arrays saved, {len(wanted)} wanted; "
            f"saved -> wanted: {'; '.join(differing) or 'the first ones agree'}. "
            "Has the configuration or the library changed?"
        )
    arguments = _restore_arguments({f"{i:05d}": x for i, (_, x) in enumerate(leaves) if x.size})
    try:
        with _without_logs(), _checkpointer() as checkpointer:
            arrays = checkpointer.restore((folder / "state").absolute(), args=arguments)
    except Exception as error:  # Orbax and TensorStore share no exception class for "cannot be read"
        encoding = sys.getfilesystemencoding()
        hint = "" if str(folder).isascii() else f"; names of files are in {encoding} here: set PYTHONUTF8=1"
        raise RunError(
            f"{folder} is whole, its checksums agree, but Orbax cannot read it: {_reason(error)}{hint}. Nothing is lost"
        ) from error
    data = [_place_like(arrays.get(f"{i:05d}", x), x) for i, (_, x) in enumerate(leaves)]
    data = [_wrap_key_like(x, old) for x, old in zip(data, jax.tree.leaves(template), strict=True)]
    return copy_state(jax.tree.unflatten(jax.tree.structure(template), data))


def _checkpointer() -> Any:
    """Orbax's, which works in this process alone: only process 0 writes, and each reads for itself."""
    import orbax.checkpoint as ocp

    if jax.process_count() == 1:
        return ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(me, {me}, f"process-{me}")
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(multiprocessing_options=alone), multiprocessing_options=alone)


def _restore_arguments(leaves: dict[str, jax.Array]) -> Any:
    """Read each leaf to its own place, or as NumPy where places belong to several processes: each reads for itself."""
    import orbax.checkpoint as ocp

    if jax.process_count() > 1:
        names = dict.fromkeys(leaves, ocp.RestoreArgs(restore_type=np.ndarray))
        return ocp.args.PyTreeRestore(restore_args=names)
    like = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for name, x in leaves.items()}
    return ocp.args.PyTreeRestore(item=like, restore_args=ocp.checkpoint_utils.construct_restore_args(like))


def _place_like(data: Any, leaf: jax.Array) -> jax.Array:
    if isinstance(data, jax.Array):
        return data
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: data[index])


def _verified_manifest(folder: Path, step: int) -> dict[str, Any]:
    """The manifest of a checkpoint whose files are all as they were saved.

    Raises:
        _DamagedError: a file is missing or has changed, or the manifest is none.
        RunError: a file cannot be read, for instance because it belongs to another user.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        if manifest["step"] != step or not {"leaves", "config"} <= manifest.keys():
            raise _DamagedError("its manifest belongs to another checkpoint")
        saved = {p.relative_to(folder).as_posix() for p in (folder / "state").rglob("*") if p.is_file()}
        if not saved or not saved <= manifest["files"].keys():
            raise _DamagedError("its manifest does not name the files that are there")
        for name, sha256 in manifest["files"].items():
            if file_sha256(folder / name) != sha256:
                raise _DamagedError(f"{name} has changed since it was saved")
    except FileNotFoundError as error:
        raise _DamagedError(f"{Path(error.filename).name} is missing") from error
    except OSError as error:
        raise RunError(f"cannot read {error.filename or folder}: {error.strerror}. Nothing is lost") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _DamagedError(f"its manifest is not as it was written: {error}") from error
    if not isinstance(manifest["config"], dict) or not isinstance(manifest["leaves"], list):
        raise _DamagedError("its manifest is not as it was written: config and leaves have other types")
    return manifest


@jax.jit
def copy_state(state: Any) -> Any:
    """Copy a state into new buffers, so that the original may be donated."""
    return jax.tree.map(jnp.copy, state)


def _leaves(state: Any) -> list[tuple[str, jax.Array]]:
    """Name and array of every leaf; typed keys as their integer data."""
    named = []
    for path, x in tree_flatten_with_path(state)[0]:
        x = x if isinstance(x, jax.Array) else jnp.asarray(x)
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        named.append((keystr(path, simple=True, separator="/"), jax.random.key_data(x) if is_key else x))
    return named


def _wrap_key_like(data: jax.Array, leaf: Any) -> jax.Array:
    if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    return data


def _description(name: str, x: jax.Array) -> str:
    return f"{name} {x.dtype}{list(x.shape)}"


def _reason(error: Exception) -> str:
    """An error of Orbax or TensorStore in one line; their own messages fill a page."""
    full = os.strerror(errno.ENOSPC)
    return f"{full}, the disk is full" if full in str(error) else str(error).partition("\n")[0][:200]


@contextlib.contextmanager
def _without_logs() -> Iterator[None]:
    """Silence Orbax, which logs pages about each error that it also raises."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio", "concurrent.futures")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _move_aside(run: Run, step: int) -> None:
    aside = run.checkpoints / f"unreadable-{step}"
    shutil.rmtree(aside, ignore_errors=True)
    (run.checkpoints / f"{step:08d}").rename(aside)


def _remove_leftovers(run: Run) -> None:
    for pattern in ("saving-*", "dropped-*"):
        for path in run.checkpoints.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
