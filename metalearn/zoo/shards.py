"""One file of checkpoints: safetensors, read through memory mapping, refused if it is not whole.

Shapes: R runs, S recorded steps, P parameters, L losses.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from jaxtyping import Float, Int

from metalearn.errors import RunError
from metalearn.runs.files import write_atomically

__all__ = ["Shard", "open_shard", "write_shard"]

_AGAIN = "Remove it, and `fill_zoo` with the same configuration makes it again; the other shards are safe"
_TYPES = {"F32": np.float32, "I32": np.int32}


class Shard(NamedTuple):
    """Checkpoints of some runs.

    Attributes:
        params: float32, flat.
        losses: float32, in the order of the zoo's names.
        runs: the number of each run in the zoo; runs that diverged are missing.
    """

    params: Float[np.ndarray, "R S P"]
    losses: Float[np.ndarray, "R S L"]
    runs: Int[np.ndarray, "R"]


def write_shard(path: Path, shard: Shard, about: dict[str, Any]) -> None:
    """Write a shard in one step.

    Args:
        path: the file.
        shard: its arrays.
        about: provenance, JSON values; kept in the header.

    Raises:
        RunError: the disk refused; what was there before is unchanged.
    """
    arrays = {name: np.ascontiguousarray(x) for name, x in shard._asdict().items()}
    try:
        write_atomically(path, safetensors.numpy.save(arrays, {"about": json.dumps(about)}))
    except OSError as error:
        raise RunError(f"cannot write {path}: {error}; the shards before it are safe") from error


def open_shard(path: Path) -> tuple[Shard, dict[str, Any]]:
    """Map a shard into memory, without reading it, and its provenance.

    Raises:
        RunError: the file is missing, truncated, or not one of `write_shard`.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= size else {}
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing: `fill_zoo` with the same configuration makes it again") from error
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is not a shard of checkpoints: {error}. {_AGAIN}") from error
    start = 8 + length
    try:
        entries = {name: header[name] for name in Shard._fields}
        end = start + max(entry["data_offsets"][1] for entry in entries.values())
        about = json.loads(header["__metadata__"]["about"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{path} is truncated or not a shard of checkpoints: its header lacks {error}. {_AGAIN}"
        ) from error
    if size != end:
        raise RunError(f"{path} is truncated or damaged: it has {size} bytes, its header promises {end}. {_AGAIN}")
    return Shard(**{name: _map(path, start, entry) for name, entry in entries.items()}), about


def _map(path: Path, start: int, entry: dict[str, Any]) -> np.ndarray:
    shape, kind = tuple(entry["shape"]), _TYPES[entry["dtype"]]
    if 0 in shape:  # nothing to map: all runs of this shard diverged
        return np.zeros(shape, kind)
    return np.memmap(path, kind, "r", start + entry["data_offsets"][0], shape)
