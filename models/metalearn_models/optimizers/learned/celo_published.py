"""The meta-parameters of Celo that its authors published, read from their file (`theta.state`, 149,216 bytes).

Moudgil, Knyazev, Lajoie and Belilovsky 2025, "Celo: Training Versatile Learned Optimizers on a Compute Diet" (TMLR,
arXiv 2501.12670). The file holds theta of their code in flax's msgpack form. It is in the repository amoudgl/celo
(algoperf/submissions/celo) under the MIT licence; this package does not contain it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.serialization import msgpack_restore
from jax.tree_util import keystr, tree_flatten_with_path

from metalearn.errors import RunError
from metalearn_models.optimizers.learned.celo import CeloSchedule, CeloTheta
from metalearn_models.optimizers.learned.parts.per_tensor import LSTMState

__all__ = ["PUBLISHED_SHAPES", "celo_theta"]

_PARTS = (1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3)
"""The first layer's weights are split into this many arrays, one per kind of feature, with this many features each."""

_LAYERS = {"linear": (18, 64), "linear_1": (18, 64), "linear_2": (18, 64), "rnn/linear": (128, 256)}
_LAYERS |= {"rnn_to_controls": (64, 1), "step_size": (64, 1)}

PUBLISHED_SHAPES: dict[str, tuple[int, ...]] = {
    **{f"ff_mod_stack/~/w0__{i}": (1, rows, 4) for i, rows in enumerate(_PARTS)},
    **{f"ff_mod_stack/~/{name}": (1, *shape) for name, shape in {"w1": (4, 4), "w2": (4, 3)}.items()},
    **{f"ff_mod_stack/~/b{i}": (1, size) for i, size in enumerate((4, 4, 3))},
    **{f"lstm_init_state/{name}": (1, 64) for name in ("cell", "hidden")},
    **{f"rnn_params/{name}/w": shape for name, shape in _LAYERS.items()},
    **{f"rnn_params/{name}/b": shape[1:] for name, shape in _LAYERS.items()},
}
"""The shape of every array of the file by its path in the tree, joined by `/`; together 37,089 float32 numbers."""


def celo_theta(source: bytes | str | os.PathLike[str]) -> CeloTheta:
    """The published meta-parameters as theta of `celo()`.

    1,286 of the file's numbers have no influence on any update and are left out: the first of two mixing layers
    (`linear`), whose result the published code drops; the choice among networks (`rnn_to_controls`), of which there is
    only one; the network's third output. 35,803 numbers remain.

    Args:
        source: the bytes of the file, or its path.

    Raises:
        FileNotFoundError: there is no such file.
        RunError: the file is damaged, or it holds something else or a Celo of another size.
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    name = f"these {len(data)} bytes" if isinstance(source, bytes) else os.fspath(source)
    arrays = _arrays(data, name)
    layers = {layer: _layer(arrays, layer) for layer in ("linear_1", "linear_2", "rnn/linear", "step_size")}
    rule = {key.rpartition("/")[2]: x[0] for key, x in arrays.items() if key.startswith("ff_mod_stack")}
    first = jnp.concatenate([rule[f"w0__{i}"] for i in range(len(_PARTS))])
    return CeloTheta(
        (
            {"weight": first, "bias": rule["b0"]},
            {"weight": rule["w1"], "bias": rule["b1"]},
            {"weight": rule["w2"][:, :2], "bias": rule["b2"][:2]},
        ),
        CeloSchedule(
            skip=layers["linear_2"],
            mix=layers["linear_1"],
            lstm=layers["rnn/linear"],
            readout=layers["step_size"],
            start=LSTMState(arrays["lstm_init_state/hidden"][0], arrays["lstm_init_state/cell"][0]),
        ),
    )


def _layer(arrays: dict[str, Any], name: str) -> dict[str, Any]:
    return {"weight": arrays[f"rnn_params/{name}/w"], "bias": arrays[f"rnn_params/{name}/b"]}


def _arrays(data: bytes, name: str) -> dict[str, Any]:
    """All arrays of the file by name, after checking every name, shape and dtype."""
    try:
        tree = msgpack_restore(data)
    except Exception as error:  # bytes that are not msgpack fail in too many ways to name
        raise RunError(f"{name}: damaged, or not in flax's msgpack form ({error})") from error
    arrays = {keystr(path, simple=True, separator="/"): x for path, x in tree_flatten_with_path(tree)[0]}
    wanted = {key: f"float32{list(shape)}" for key, shape in PUBLISHED_SHAPES.items()}
    has = {key: f"{x.dtype}{list(x.shape)}" if isinstance(x, np.ndarray) else repr(x)[:40] for key, x in arrays.items()}
    differ = sorted(key for key in wanted.keys() | has.keys() if wanted.get(key) != has.get(key))
    if differ:
        first = differ[0]
        raise RunError(
            f"{name}: not the published theta of Celo; {len(differ)} of its {len(wanted)} arrays differ, the first is "
            f"{first!r}: expected {wanted.get(first, 'no such array')}, got {has.get(first, 'no such array')}"
        )
    return {key: jnp.asarray(x) for key, x in arrays.items()}
