"""The exact natural gradient of a batch, by a system of as many equations as the batch has examples.

Benzing (ICML 2022, arXiv 2201.12250), eq. (20) to (23). The Fisher matrix of a batch is `F = J J^T`, one column of J
per example and label, divided by the root of the number of examples. Then

    (lambda I + F)^-1 u = (u - J (lambda I + J^T J)^-1 J^T u) / lambda

and `J^T J` is the sum over layers of `(A A^T) * (E E^T)`, elementwise, from inputs and output gradients. All layers are
preconditioned together: nothing is block diagonal. It is the control of KFAC, which should approximate it.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jaxtyping import Array, Float

from metalearn_models.optimizers.curvature._layerwise import accumulator, check_positive
from metalearn_models.optimizers.curvature._matching import Matching
from metalearn_models.optimizers.curvature.damped import damped_inverse
from metalearn_models.optimizers.curvature.layers import KernelLayout, LayerStatistics
from metalearn_models.optimizers.frame import transformation

__all__ = ["natural_gradient", "scale_by_natural_gradient"]


def natural_gradient(
    learning_rate: optax.ScalarOrSchedule,
    damping: Any = 1.0,
    momentum: Any = None,
    *,
    fallback: optax.GradientTransformation | None = None,
    layers: Mapping[str, KernelLayout] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The natural gradient as a whole optimizer.

    Args:
        learning_rate: a number or a schedule of optax.
        damping: see `scale_by_natural_gradient`.
        momentum: decay of the heavy ball, on the gradient before the preconditioner. None: no momentum.
        fallback: see there; its updates are multiplied by the learning rate, too.
        layers: see there.

    Returns:
        The transformation; `update` needs `statistics`.

    Raises:
        ValueError: the damping is not positive.
    """
    before = () if momentum is None else (optax.trace(momentum),)
    scale = scale_by_natural_gradient(damping, fallback=fallback, layers=layers)
    return optax.chain(*before, scale, optax.scale_by_learning_rate(learning_rate))


def scale_by_natural_gradient(
    damping: Any = 1.0,
    *,
    fallback: optax.GradientTransformation | None = None,
    layers: Mapping[str, KernelLayout] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Multiply the gradient of all kernels by the damped inverse Fisher matrix of one batch.

    With statistics of another batch than the gradient's, the two are independent, as in the paper. The statistics
    decide which Fisher matrix is meant: K B columns for B examples and K of their labels.

    Args:
        damping: lambda, in the units of the Fisher matrix.
        fallback: updates parameters without statistics, such as biases. None: their gradient is passed on as it is.
        layers: path and layout of the kernels; see `scale_by_foof`.

    Returns:
        The transformation. Its `update` takes `statistics`, and ignores extra arguments that it does not know. Its
        state is that of the fallback.

    Raises:
        ValueError: the damping is not positive. By `update`: the statistics are missing, of another model, or of
            layers that count different numbers of examples.
    """
    check_positive("damping", damping)
    matching = Matching("scale_by_natural_gradient", fallback, layers)

    def update(
        updates: Any, state: Any, params: Any = None, *, statistics: Any = None, **extra: Any
    ) -> tuple[Any, Any]:
        known = matching.match(updates, statistics)
        new, state = matching.update_fallback(updates, state, params, {"statistics": statistics, **extra})
        if known:
            with jax.default_matmul_precision("highest"):  # the direction is a difference, which rounded factors spoil
                found = _solve(known, updates, damping)
            new = jax.tree_util.tree_map_with_path(lambda p, g: found.get(jax.tree_util.keystr(p), g), new)
        return new, state

    return transformation(None, matching.init_fallback, update)


def _solve(known: dict[str, LayerStatistics], updates: Any, damping: Any) -> dict[str, Array]:
    leaves = {jax.tree_util.keystr(path): g for path, g in jax.tree_util.tree_leaves_with_path(updates)}
    counts = {path: layer.inputs.shape[0] for path, layer in known.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"scale_by_natural_gradient needs layers whose first axis counts the same examples, got {counts}"
        )
    dtype = jnp.float64 if any(accumulator(leaves[path]) == jnp.float64 for path in known) else jnp.float32
    gradients = {path: layer.layout.to_matrix(leaves[path].astype(dtype)) for path, layer in known.items()}
    factors = {path: _Factors(layer, dtype) for path, layer in known.items()}
    gram = functools.reduce(operator.add, (x.gram() for x in factors.values()))
    seen = functools.reduce(operator.add, (factors[path].scores(g) for path, g in gradients.items()))
    weights = damped_inverse(gram, damping) @ seen
    found = {}
    for path, layer in known.items():
        direction = (gradients[path] - factors[path].combine(weights)) / jnp.asarray(damping, dtype)
        found[path] = layer.layout.from_matrix(direction).astype(leaves[path].dtype)
    return found


class _Factors:
    """The columns of J that belong to one layer, as inputs `a[K B, P, m]` and gradients `e[K B, P, n]`."""

    def __init__(self, layer: LayerStatistics, dtype: Any):
        columns = layer.output_grads[None] if layer.fisher_grads is None else layer.fisher_grads
        e = columns.astype(dtype) / len(layer.inputs) ** 0.5
        e = e if e.ndim == 4 else e[:, :, None]
        a = layer.inputs.astype(dtype)
        a = jnp.broadcast_to((a if a.ndim == 3 else a[:, None])[None], (len(e), *e.shape[1:3], a.shape[-1]))
        self.a, self.e = (rearrange(x, "k b p d -> (k b) p d") for x in (a, e))

    def gram(self) -> Float[Array, "N N"]:
        """`J^T J`."""
        if self.a.shape[1] == 1:
            return (self.a[:, 0] @ self.a[:, 0].T) * (self.e[:, 0] @ self.e[:, 0].T)
        columns = jnp.einsum("bpm,bpn->bmn", self.a, self.e).reshape(len(self.a), -1)
        return columns @ columns.T

    def scores(self, gradient: Float[Array, "m n"]) -> Float[Array, "N"]:
        """`J^T u`."""
        return jnp.sum(jnp.einsum("bpm,mn->bpn", self.a, gradient) * self.e, axis=(1, 2))

    def combine(self, weights: Float[Array, "N"]) -> Float[Array, "m n"]:
        """`J w`."""
        return jnp.einsum("bpm,bpn->mn", self.a * weights[:, None, None], self.e)
