"""M-FAC: the gradient times the inverse Fisher matrix of the last m gradients, without the matrix.

Frantar, Kurtic and Alistarh 2021, "M-FAC: efficient matrix-free approximations of second-order information" (arXiv
2107.03356). `F = damping I + (1/m) sum_i g_i g_i^T` is made of the gradients that the training meets anyway, each the
mean over a batch. They are kept in a ring buffer G of m rows, which starts with zeros, and so are their inner products
K. A step replaces one row of G, and one row and column of K.

The paper multiplies by `F^-1` with a factorisation that depends on the order of the rows. We solve with
`A = m damping I + K` instead. The newest gradient is a row of G, g_i, and for a row the Woodbury identity becomes

    F^-1 g_i = m G^T A^-1 e_i

where nothing is divided by the damping. A step reads G twice, once for the row of K and once for this product.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from metalearn.costs.memory import available_bytes, format_bytes
from metalearn.errors import NotEnoughMemoryError
from metalearn_models.optimizers.curvature.mfac_inverse import HIGHEST, check_damping, factorise
from metalearn_models.optimizers.frame import LARGEST, transformation
from metalearn_models.optimizers.learned.parts.placement import is_spread
from metalearn_models.optimizers.wrappers.guard import is_finite

__all__ = ["Include", "MfacState", "mfac", "scale_by_mfac"]

Include = Callable[[str, Any], bool]
"""`(path, parameter) -> bool`: whether a parameter belongs to the window; the path is made by `keystr`."""


class MfacState(NamedTuple):
    """What M-FAC remembers.

    Attributes:
        window: the last m gradients of each parameter, [m, *shape], in float32 (float64 for such parameters); None for
            parameters that do not belong to it.
        gram: inner products of the rows of the window.
        momentum: running mean of the updates; None without momentum.
        step: number of gradients that have entered the window.
    """

    window: Any
    gram: Float[Array, "m m"]
    momentum: Any
    step: Int[Array, ""]


def mfac(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    window: int = 1024,
    damping: Any = 1e-5,
    momentum: float | None = None,
    weight_decay: float = 0.0,
    max_norm: float | None = None,
    include: Include | None = None,
) -> optax.GradientTransformationExtraArgs:
    """M-FAC as an optimizer; the defaults are those of the authors' code.

    Args:
        learning_rate: a number or a schedule.
        window: as in `scale_by_mfac`.
        damping: as in `scale_by_mfac`.
        momentum: as in `scale_by_mfac`.
        weight_decay: times the parameters it is added to the gradient before that enters the window.
        max_norm: as in `scale_by_mfac`.
        include: as in `scale_by_mfac`.

    Raises:
        ValueError: as in `scale_by_mfac`.
    """
    decays = not (isinstance(weight_decay, int | float) and weight_decay == 0)
    return optax.chain(
        optax.add_decayed_weights(weight_decay) if decays else optax.identity(),
        scale_by_mfac(window, damping, momentum, max_norm, include),
        optax.scale_by_learning_rate(learning_rate),
    )


def scale_by_mfac(
    window: int = 1024,
    damping: Any = 1e-5,
    momentum: Any = None,
    max_norm: Any = None,
    include: Include | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The gradient times the inverse Fisher matrix of the last `window` gradients, itself among them.

    With a single gradient g in the window, the update is `g / (damping + |g|^2 / m)`. It is long, about `m / |g|`, and
    becomes shorter as gradients fill the window. `max_norm` bounds it; the authors' later code uses 10.

    A step whose gradient is not finite is left out: the state stays as it was and the update is 0.

    Args:
        window: number m of gradients. Their memory is m times that of the parameters.
        damping: positive; a number, or a traced scalar such as a meta-parameter. The authors use 1e-7 to 5e-5.
        momentum: b in `v = b v + (1 - b) F^-1 g`, in [0, 1). None or 0: without.
        max_norm: an update that is longer, before momentum and over all parameters of the window, is shortened to this
            length. None: never.
        include: which parameters belong to the window. The authors' later code leaves those of normalisation layers
            out: `lambda path, x: x.ndim > 1` leaves out these and biases. The update of what is left out is its
            gradient. None: all belong to it.

    Returns:
        The transformation, which ignores extra arguments. Its `init` raises TypeError if a parameter is not
        floating-point, and `NotEnoughMemoryError` if the window does not fit into memory.

    Raises:
        ValueError: `window` is less than 1, or `damping`, `momentum` or `max_norm` is out of range.
        TypeError: `window` is no whole number of Python: it decides what is compiled.
    """
    check_damping(damping)
    _check_window(window)
    if isinstance(momentum, float | int) and not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1), got {momentum}")
    if isinstance(max_norm, float | int) and not max_norm > 0:
        raise ValueError(f"max_norm must be greater than 0, or None for updates of any length, got {max_norm}")
    beta = 0.0 if momentum is None else momentum
    with_momentum = not isinstance(beta, float | int) or beta > 0

    def start(params: Any) -> MfacState:
        kept = _keep(params, params, include)
        _check_memory(window, kept)
        dtype = _accumulator(jax.tree.leaves(kept))
        return MfacState(
            jax.tree.map(lambda x: _zeros(x, (window, *x.shape)), kept),
            jnp.zeros((window, window), dtype),
            jax.tree.map(lambda x: _zeros(x, x.shape), params) if with_momentum else None,
            jnp.int32(0),
        )

    def update(updates: Any, state: MfacState, params: Any, **extra: Any) -> tuple[Any, MfacState]:
        del params, extra
        row, dtype = state.step % window, state.gram.dtype
        chosen = jnp.arange(window, dtype=jnp.int32) == row
        new = jax.tree.map(lambda w, g: _read(g, w.dtype), *_match(state.window, updates))
        pairs = list(zip(*map(jax.tree.leaves, (state.window, new)), strict=True))
        inner = sum((_inner(w, g).astype(dtype) for w, g in pairs), jnp.zeros(window, dtype))
        square = sum((_inner(g[None], g)[0].astype(dtype) for _, g in pairs), jnp.zeros((), dtype))
        inner = jnp.where(chosen, square, inner)
        gram = state.gram.at[row].set(inner).at[:, row].set(inner)
        factor = factorise(gram, jnp.asarray(damping, dtype))
        weights = window * jax.scipy.linalg.cho_solve((factor, True), chosen.astype(dtype))
        # The new row is added to what the others give. The window is then written when nothing reads it any more, which
        # saves a copy of it.
        others = jnp.where(chosen, 0, weights)
        steps = jax.tree.map(lambda w, g: _combine(others, w) + weights[row].astype(w.dtype) * g, state.window, new)
        finite = is_finite(updates) & is_finite(steps)
        gradients = jax.tree.map(lambda w, g: w.at[row].set(jnp.where(finite, g, w[row])), state.window, new)
        gram = jnp.where(finite, gram, state.gram)
        steps = _merge(steps if max_norm is None else _shorten(steps, max_norm), updates)
        memory = None
        if with_momentum:
            mixed = jax.tree.map(lambda v, u: beta * v + (1 - beta) * u, state.momentum, steps)
            memory = steps = jax.tree.map(lambda new, old: jnp.where(finite, new, old), mixed, state.momentum)
        moved = jax.tree.map(lambda u, g: jnp.where(finite, u, 0).astype(g.dtype), steps, updates)
        return moved, MfacState(gradients, gram, memory, state.step + finite.astype(jnp.int32))

    return transformation(damping, start, update)


def _check_window(window: Any) -> None:
    """Check the number of gradients; the errors are those of `scale_by_mfac`."""
    if isinstance(window, jax.Array):
        raise TypeError(
            "window must be a Python number, got an array: with optax.inject_hyperparams, pass static_args=('window',)"
        )
    if not isinstance(window, numbers.Integral):
        raise TypeError(f"window must be a whole number of gradients, such as 1024, got {window!r}")
    if window < 1:
        raise ValueError(f"window must be at least 1 gradient, got {window}")


def _keep(tree: Any, params: Any, include: Include | None) -> Any:
    """The tree with None for what does not belong to the window."""
    if include is None:
        return tree
    return jax.tree_util.tree_map_with_path(
        lambda path, x, p: x if include(jax.tree_util.keystr(path), p) else None, tree, params
    )


def _match(window: Any, updates: Any) -> tuple[Any, Any]:
    """The window, and the updates with None where the window has None."""
    return window, jax.tree.map(lambda w, g: None if w is None else g, window, updates, is_leaf=lambda x: x is None)


def _merge(steps: Any, updates: Any) -> Any:
    """The steps, and the updates where there is none."""
    return jax.tree.map(
        lambda u, g: None if g is None else _read(g, _accumulator([g])) if u is None else u,
        steps,
        updates,
        is_leaf=lambda x: x is None,
    )


def _read(g: Float[Array, "*S"], dtype: Any) -> Float[Array, "*S"]:
    """A gradient in the dtype of the window; squares of larger ones than `LARGEST` have no sum in float32."""
    return jnp.clip(g.astype(dtype), -LARGEST, LARGEST)


def _accumulator(leaves: list[Any]) -> Any:
    return jnp.float64 if any(x.dtype == jnp.float64 for x in leaves) else jnp.float32


def _zeros(x: Array, shape: tuple[int, ...]) -> Array:
    """Zeros that are spread over devices as the parameter is; `shape` may have a leading axis more."""
    zeros = jnp.zeros_like(x, _accumulator([x]))
    return jnp.broadcast_to(zeros, shape) if len(shape) == x.ndim else jnp.broadcast_to(zeros[None], shape)


def _inner(window: Float[Array, "m *S"], g: Float[Array, "*S"]) -> Float[Array, " m"]:
    if is_spread(g):  # a product over axes that are split by name asks where its result lies; a sum knows
        return (window * g[None]).sum(tuple(range(1, window.ndim)))
    return jnp.tensordot(window, g, g.ndim, precision=HIGHEST)


def _combine(weights: Float[Array, " m"], window: Float[Array, "m *S"]) -> Float[Array, "*S"]:
    return jnp.tensordot(weights.astype(window.dtype), window, 1, precision=HIGHEST)


def _shorten(tree: Any, max_norm: Any) -> Any:
    leaves = jax.tree.leaves(tree)
    dtype = _accumulator(leaves)
    length = jnp.sqrt(sum((jnp.square(x).sum().astype(dtype) for x in leaves), jnp.zeros((), dtype)))
    factor = jnp.minimum(1, max_norm / jnp.maximum(length, jnp.finfo(dtype).tiny))
    return jax.tree.map(lambda x: x * factor.astype(x.dtype), tree)


def _check_memory(window: int, kept: Any) -> None:
    leaves = jax.tree.leaves(kept)
    if any(map(is_spread, leaves)):
        return  # each device holds a share that the type of an array does not always tell
    each = sum(x.size * jnp.dtype(_accumulator([x])).itemsize for x in leaves)
    free = available_bytes()
    if free is None or window * each <= free:
        return
    raise NotEnoughMemoryError(
        f"window={window} gradients of {sum(x.size for x in leaves)} parameters need {format_bytes(window * each)}, "
        f"{format_bytes(free)} are free: a window of {free // each} would fit, and `include` can leave parameters out",
        needed=window * each,
        available=free,
        largest=free // each,
    )
