"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner.

Vyas, Morwani, Zhao, Kwun, Shapira, Brandfonbrener, Janson and Kakade 2024, "SOAP: improving and stabilizing Shampoo
using Adam" (arXiv 2409.11321). Each axis i of a tensor has a running mean of `G_i G_i^T`, where G_i is the gradient as
a matrix with that axis in front, and an orthonormal basis Q_i of its eigenvectors. The second moment of Adam is that of
the gradient in these bases; momentum is kept in the original coordinates.

As in the authors' code: the first gradient only starts the preconditioner, from `eigh`, and moves nothing. Every f
steps a basis is renewed by one step of orthogonal iteration, `Q <- qr(P Q)`, after its columns and the second moment
have been sorted by the eigenvalues that they estimate. Tensors of fewer than two axes have no bases, which makes the
rule Adam, and neither have axes that are longer than a limit.

Ours: a step divides by at least 100 units of rounding times the largest root of a second moment in its tensor. In a
direction in which no gradient has ever pointed, Adam would otherwise divide rounding errors by each other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Float, Int

from metalearn_models.optimizers.curvature.damped import eigh
from metalearn_models.optimizers.frame import LARGEST, hold_still, transformation
from metalearn_models.optimizers.wrappers.guard import is_finite

__all__ = ["SoapState", "scale_by_soap", "soap"]

HIGHEST = jax.lax.Precision.HIGHEST


class SoapState(NamedTuple):
    """What SOAP remembers; everything in float32, or float64 for parameters of float64.

    Attributes:
        momentum: running mean of the gradients.
        second_moment: running mean of the squared gradients in the bases of their tensors.
        factors: per parameter, the running means of `G_i G_i^T` of all its axes; None for axes without a basis.
        bases: per parameter, the orthonormal bases, one vector per column.
        step: number of gradients so far.
    """

    momentum: Any
    second_moment: Any
    factors: Any
    bases: Any
    step: Int[Array, ""]


def soap(
    learning_rate: optax.ScalarOrSchedule = 3e-3,
    b1: Any = 0.95,
    b2: Any = 0.95,
    eps: Any = 1e-8,
    weight_decay: Any = 0.01,
    frequency: int = 10,
    max_size: int = 10_000,
) -> optax.GradientTransformationExtraArgs:
    """SOAP as an optimizer, with decoupled weight decay; the defaults are those of the paper.

    Args:
        learning_rate: a number or a schedule.
        b1: as in `scale_by_soap`.
        b2: as in `scale_by_soap`.
        eps: as in `scale_by_soap`.
        weight_decay: each step shrinks parameters by this times the learning rate.
        frequency: as in `scale_by_soap`.
        max_size: as in `scale_by_soap`.

    Raises:
        ValueError: as in `scale_by_soap`.
    """
    return optax.chain(
        scale_by_soap(b1, b2, eps, frequency, max_size),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )


def scale_by_soap(
    b1: Any = 0.95, b2: Any = 0.95, eps: Any = 1e-8, frequency: int = 10, max_size: int = 10_000
) -> optax.GradientTransformationExtraArgs:
    """Scale gradients by SOAP. A step whose gradient is not finite is left out: the state stays, the update is 0.

    Args:
        b1: decay of the momentum, in [0, 1).
        b2: decay of the second moment and of the preconditioner, in [0, 1).
        eps: added to the root of the second moment.
        frequency: f, steps per renewal of the bases. Under `vmap` every step pays for a renewal.
        max_size: longer axes have no basis.

    Returns:
        The transformation, which ignores extra arguments. Its `init` raises TypeError if a parameter is not
        floating-point.

    Raises:
        ValueError: a decay, `frequency` or `max_size` is out of range.
        TypeError: `frequency` or `max_size` is an array: it decides what is compiled.
    """
    for name, value in (("b1", b1), ("b2", b2)):
        if isinstance(value, float | int) and not 0 <= value < 1:
            raise ValueError(f"{name} must be in [0, 1), got {value}")
    for name, value in (("frequency", frequency), ("max_size", max_size)):
        if isinstance(value, jax.Array):
            raise TypeError(
                f"{name} must be a Python number, got an array: with optax.inject_hyperparams, pass "
                "static_args=('frequency', 'max_size')"
            )
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")

    def start(params: Any) -> SoapState:
        zeros = lambda x: jnp.zeros_like(x, _accumulator(x))  # noqa: E731
        sized = lambda x: tuple(n if x.ndim > 1 and n <= max_size else None for n in x.shape)  # noqa: E731
        square = lambda x, fill: tuple(None if n is None else fill(n, dtype=_accumulator(x)) for n in sized(x))  # noqa: E731
        return SoapState(
            jax.tree.map(zeros, params),
            jax.tree.map(zeros, params),
            jax.tree.map(lambda x: square(x, lambda n, dtype: jnp.zeros((n, n), dtype)), params),
            jax.tree.map(lambda x: square(x, jnp.eye), params),
            jnp.int32(0),
        )

    def update(updates: Any, state: SoapState, params: Any, **extra: Any) -> tuple[Any, SoapState]:
        del params, extra
        finite, first = is_finite(updates), state.step == 0

        def one(
            g: Float[Array, "*S"], m: Array, v: Array, factors: tuple[Any, ...], bases: tuple[Any, ...]
        ) -> tuple[Array, Array, Array, tuple[Any, ...], tuple[Any, ...]]:
            dtype = m.dtype
            decay1, decay2, small = (jnp.asarray(x, dtype) for x in (b1, b2, eps))
            read = jnp.clip(g.astype(dtype), -LARGEST, LARGEST)
            new_m = decay1 * m + (1 - decay1) * read
            new_v = decay2 * v + (1 - decay2) * jnp.square(_rotate(read, bases))
            count = jnp.maximum(state.step, 1).astype(dtype)
            root = jnp.sqrt(new_v / (1 - decay2**count))
            root = jnp.maximum(root, 100 * jnp.finfo(dtype).eps * root.max())
            step = _rotate(_rotate(new_m / (1 - decay1**count), bases) / (root + small), bases, back=True)
            step = hold_still(step, read, [new_m])
            new_factors = tuple(
                None if p is None else decay2 * p + (1 - decay2) * _gram(read, axis) for axis, p in enumerate(factors)
            )
            return step, new_m, new_v, new_factors, bases

        tree = jax.tree.structure(updates)
        found = [one(*part) for part in zip(*map(tree.flatten_up_to, (updates, *state[:4])), strict=True)]
        steps, m, v, factors, bases = (tree.unflatten([x[i] for x in found]) for i in range(5))
        keep = lambda condition, new, old: jax.tree.map(lambda x, y: jnp.where(condition, x, y), new, old)  # noqa: E731
        m, v = keep(~first, (m, v), (state.momentum, state.second_moment))
        renewed = (~first) & (state.step % frequency == 0)
        bases = jax.lax.cond(first, _decompose, lambda factors, bases: bases, factors, bases)
        bases, v = jax.lax.cond(renewed, _renew, lambda factors, bases, v: (bases, v), factors, bases, v)
        new = SoapState(m, v, factors, bases, state.step + 1)
        steps = jax.tree.map(lambda u, g: jnp.where(finite & ~first, u, 0).astype(g.dtype), steps, updates)
        return steps, keep(finite, new, state)

    return transformation((b1, b2, eps), start, update)


def _decompose(factors: Any, bases: Any) -> Any:
    """Eigenvectors of all factors, those of the largest eigenvalues first."""
    return jax.tree.map(lambda p, q: eigh(_unit(p))[1][:, ::-1], factors, bases)


def _renew(factors: Any, bases: Any, second_moments: Any) -> tuple[Any, Any]:
    """One step of orthogonal iteration per basis, and the second moments in the order of the new vectors."""
    leaves, tree = jax.tree.flatten(second_moments)
    new_bases, new_moments = [], []
    for v, own, old in zip(leaves, *map(tree.flatten_up_to, (factors, bases)), strict=True):
        renewed = []
        for axis, (p, q) in enumerate(zip(own, old, strict=True)):
            if p is None:
                renewed.append(None)
                continue
            product = jnp.matmul(p, q, precision=HIGHEST)
            order = jnp.argsort(-(q * product).sum(0))
            renewed.append(_orthonormal(_unit(product)[:, order]))
            v = jnp.take(v, order, axis)
        new_bases.append(tuple(renewed))
        new_moments.append(v)
    return tree.unflatten(new_bases), tree.unflatten(new_moments)


def _unit(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The matrix over its largest entry, so that decompositions neither overflow nor underflow."""
    return matrix / jnp.maximum(jnp.abs(matrix).max(), jnp.finfo(matrix.dtype).tiny)


@sequential_vmap
def _orthonormal(matrix: Array) -> Array:
    return jnp.linalg.qr(matrix)[0]


def _rotate(x: Float[Array, "*S"], bases: tuple[Any, ...], back: bool = False) -> Float[Array, "*S"]:
    """The tensor in the bases of its axes, or back in the original coordinates."""
    for axis, basis in enumerate(bases):
        if basis is not None:
            turned = jnp.tensordot(x, basis, ((axis,), (1 if back else 0,)), precision=HIGHEST)
            x = jnp.moveaxis(turned, -1, axis)
    return x


def _gram(x: Float[Array, "*S"], axis: int) -> Float[Array, "n n"]:
    others = tuple(i for i in range(x.ndim) if i != axis)
    return jnp.tensordot(x, x, (others, others), precision=HIGHEST)


def _accumulator(x: Array) -> Any:
    return jnp.float64 if x.dtype == jnp.float64 else jnp.float32
