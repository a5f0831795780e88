"""The files of one checkpoint: Orbax writes and reads the arrays, a manifest with their SHA-256 shows damage."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from metalearn.errors import RunError
from metalearn.runs.files import file_sha256, write_atomically
from metalearn.runs.folder import Run
from metalearn.runs.json_values import check_same_config

__all__ = [
    "DamagedError",
    "copy_state",
    "place_arrays",
    "read_arrays",
    "reason_of",
    "verified_manifest",
    "write_arrays",
]


class DamagedError(Exception):
    """Files of a checkpoint are not as they were saved; the one before it may be whole."""


def write_arrays(folder: Path, run: Run, step: int, state: Any) -> None:
    """Write the arrays of a state and then their manifest into a new folder. Errors are those of the disk."""
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


def read_arrays(folder: Path, run: Run, step: int, template: Any) -> dict[str, Any]:
    """Read the arrays of a checkpoint, of its numbered leaves; no other process takes part.

    Raises:
        DamagedError: files are not as they were saved.
        RunError: the checkpoint has another configuration or other shapes; or it is whole but cannot be read.
    """
    manifest = verified_manifest(folder, step)
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
            return checkpointer.restore((folder / "state").absolute(), args=arguments)
    except Exception as error:  # Orbax and TensorStore share no exception class for "cannot be read"
        encoding = sys.getfilesystemencoding()
        hint = "" if str(folder).isascii() else f"; names of files are in {encoding} here: set PYTHONUTF8=1"
        raise RunError(
            f"{folder} is whole, its checksums agree, but Orbax cannot read it: {reason_of(error)}{hint}. "
            "Nothing is lost"
        ) from error


def place_arrays(arrays: dict[str, Any], template: Any) -> Any:
    """The state of these arrays, in new buffers where the template has its own."""
    data = [_place_like(arrays.get(f"{i:05d}", x), x) for i, (_, x) in enumerate(_leaves(template))]
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


def verified_manifest(folder: Path, step: int) -> dict[str, Any]:
    """The manifest of a checkpoint whose files are all as they were saved.

    Raises:
        DamagedError: a file is missing or has changed, or the manifest is none.
        RunError: a file cannot be read, for instance because it belongs to another user.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        if manifest["step"] != step or not {"leaves", "config"} <= manifest.keys():
            raise DamagedError("its manifest belongs to another checkpoint")
        saved = {p.relative_to(folder).as_posix() for p in (folder / "state").rglob("*") if p.is_file()}
        if not saved or not saved <= manifest["files"].keys():
            raise DamagedError("its manifest does not name the files that are there")
        for name, sha256 in manifest["files"].items():
            if file_sha256(folder / name) != sha256:
                raise DamagedError(f"{name} has changed since it was saved")
    except FileNotFoundError as error:
        raise DamagedError(f"{Path(error.filename).name} is missing") from error
    except OSError as error:
        raise RunError(f"cannot read {error.filename or folder}: {error.strerror}. Nothing is lost") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"its manifest is not as it was written: {error}") from error
    if not isinstance(manifest["config"], dict) or not isinstance(manifest["leaves"], list):
        raise DamagedError("its manifest is not as it was written: config and leaves have other types")
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


def reason_of(error: Exception) -> str:
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
