"""Meta-parameters in a safetensors file, to ship or to share, and a hash that identifies them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jax.tree_util import DictKey, SequenceKey, keystr, tree_flatten_with_path

from metalearn.errors import RunError
from metalearn.runs.files import write_atomically

__all__ = ["load_weights", "save_weights", "theta_sha256"]


def theta_sha256(theta: Any) -> str:
    """SHA-256 over name, dtype, shape and bytes of every array of `theta`, in the order of the names.

    Two thetas have the same hash if and only if all their bits are equal. It does not depend on machine or process.
    """
    digest = hashlib.sha256()
    for name, x in sorted(_arrays_by_name(theta).items()):
        digest.update(f"{name} {x.dtype} {x.shape}\n".encode())
        digest.update(x.tobytes())
    return digest.hexdigest()


def save_weights(path: str | Path, theta: Any, metadata: dict[str, Any]) -> None:
    """Write `theta` to a safetensors file in one step, so that a kill never leaves half a file.

    Args:
        path: the file; its folder must exist.
        theta: nested dicts and lists of arrays. Tuples are read back as lists.
        metadata: JSON values: what the weights are and how they were made.

    Raises:
        ValueError: a name contains `/`, or the tree has nodes other than dicts, lists and tuples.
        RunError: the file cannot be written; an older file at `path` is unchanged.
    """
    header = {
        "metadata": json.dumps(metadata),
        "nodes": json.dumps(_describe_tree(theta)),
        "sha256": theta_sha256(theta),  # safetensors itself has no checksum
    }
    try:
        write_atomically(Path(path).expanduser(), safetensors.numpy.save(_arrays_by_name(theta), metadata=header))
    except OSError as error:
        raise RunError(f"cannot write {path}: {error}; the file that was there before is unchanged") from error


def load_weights(path: str | Path) -> tuple[Any, dict[str, Any]]:
    """Read a file of `save_weights`: `theta` in NumPy arrays, and the metadata.

    The arrays become JAX arrays where they are used, so that weights can be loaded inside any trace.

    Raises:
        FileNotFoundError: there is no such file.
        RunError: the file is damaged, was not written by `save_weights`, or holds 64-bit numbers that JAX would
            truncate to 32 bits.
    """
    try:
        with safetensors.safe_open(Path(path).expanduser(), "numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RunError(f"cannot read {path}: {error}") from error
    except (ValueError, safetensors.SafetensorError) as error:
        raise RunError(f"{path} is damaged or not a safetensors file: {error}") from error
    if not {"metadata", "nodes", "sha256"} <= header.keys():
        raise RunError(f"{path} was not written by metalearn's save_weights: its header needs metadata, nodes, sha256")
    wide = [name for name, x in arrays.items() if jax.dtypes.canonicalize_dtype(x.dtype) != x.dtype]
    if wide:
        raise RunError(f"{path} holds 64-bit numbers ({', '.join(wide[:3])}): set jax_enable_x64 to read it")
    try:
        metadata, nodes = json.loads(header["metadata"]), json.loads(header["nodes"])
        theta = _build(nodes, arrays, "")
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged: its header does not match its arrays ({error})") from error
    if not isinstance(metadata, dict):
        raise RunError(f"{path} is damaged: its metadata must be a mapping, got {metadata!r}")
    if theta_sha256(theta) != header["sha256"]:
        raise RunError(f"{path} is damaged: its weights have changed since they were saved (SHA-256 differs)")
    return theta, metadata


def _arrays_by_name(theta: Any) -> dict[str, np.ndarray]:
    leaves = tree_flatten_with_path(theta)[0]
    named = {keystr(path, simple=True, separator="/"): _array(x) for path, x in leaves}
    if len(named) != len(leaves):
        raise ValueError("two arrays have the same name: a key holds a '/', or 1 and '1' are keys of one dict")
    return named


def _array(x: Any) -> np.ndarray:
    # np.array makes the array contiguous and keeps scalars as arrays, as safetensors needs
    return np.array(jax.random.key_data(x) if _is_key(x) else x, order="C")


def _is_key(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _describe_tree(theta: Any) -> Any:
    """The tree in JSON: null for an array, and a list of pairs for a dict, since its keys may be integers."""
    for path, x in tree_flatten_with_path(theta)[0]:
        if _is_key(x):
            raise ValueError(f"{keystr(path)} is a random key and not a weight: save a run's state as a checkpoint")
        for entry in path:
            if not isinstance(entry, DictKey | SequenceKey):
                raise ValueError(
                    f"weights must be nested dicts and lists of arrays, got {keystr(path)}: convert them first"
                )
            if isinstance(entry, DictKey) and (not isinstance(entry.key, str | int) or "/" in str(entry.key)):
                raise ValueError(f"key {entry.key!r} cannot be part of a name: use strings without '/' or integers")
    return _describe_node(theta)


def _describe_node(node: Any) -> Any:
    if isinstance(node, dict):
        return {"dict": [[key, _describe_node(node[key])] for key in node]}
    if isinstance(node, list | tuple):
        return {"list": [_describe_node(child) for child in node]}
    return None if node is not None else {"none": []}


def _build(node: Any, arrays: dict[str, np.ndarray], name: str) -> Any:
    if node is None:
        return arrays[name]
    if "none" in node:
        return None
    prefix = f"{name}/" if name else ""
    if "list" in node:
        return [_build(child, arrays, f"{prefix}{i}") for i, child in enumerate(node["list"])]
    return {key: _build(child, arrays, f"{prefix}{key}") for key, child in node["dict"]}
