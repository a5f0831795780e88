"""Kernel ridge regression (Saunders, Gammerman and Vovk 1998), refitted after every example.

The kernel is Gaussian, and its width follows the examples: `k(a, b) = exp(-|a - b|^2 / (width s))`, with s the mean
squared distance between two of them. So nothing depends on the scale of the inputs, nor on their basis. In
classification the targets are one-hot labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from metalearn.learner import Labels, Learner, Signature, batch_run, encode_label
from metalearn.ranges import Positive
from metalearn_models.learners._common import check_settings, dot, no_theta

__all__ = ["KernelRidgeConfig", "KernelRidgeState", "kernel_ridge"]


class KernelRidgeState(NamedTuple):
    """The examples so far and the fit to them; rows `stored` and later are empty.

    Attributes:
        xs: inputs.
        targets: labels as `encode_label` encodes them.
        stored: number of examples.
        fit: of these examples.
    """

    xs: Float[Array, "T D"]
    targets: Float[Array, "T C"]
    stored: Int[Array, ""]
    fit: _Fit


class _Fit(NamedTuple):
    """`y = mean + sum_i k(x, x_i) dual_i`, with `scale` dividing the squared distances of the kernel."""

    mean: Float[Array, "C"]
    dual: Float[Array, "T C"]
    scale: Float[Array, ""]


@dataclass(frozen=True)
class KernelRidgeConfig:
    """A Gaussian kernel on the distances between examples."""

    width: Positive = 0.6
    """The kernel is exp(-1) where a squared distance is this times its mean over pairs of examples. The default is our
    choice, by its accuracy on projected MNIST images of meta-training."""
    penalty: Positive = 0.02
    """Added to the diagonal of the kernel matrix, which is 1. The default is our choice, as that of the width."""


def kernel_ridge(signature: Signature, config: KernelRidgeConfig = KernelRidgeConfig()) -> Learner:
    """Kernel ridge regression on all examples so far, whose targets are taken less their mean.

    With one example the prediction is its target; before any it is 0. The memory holds `signature.length` examples;
    later ones are not stored.

    Args:
        signature: shapes of the task. Labels are classes (fitted one-hot; the logits are the fitted values) or real.
        config: width of the kernel, and penalty.

    Returns:
        A learner without meta-parameters, with a parallel `run` that computes all distances once.

    Raises:
        ValueError: a field of `config` or of `signature` is out of range, which is named. `run` raises it for a
            sequence longer than the memory.
    """
    check_settings(signature, config)
    inputs, outputs, length, _ = signature

    def fit(squared: Float[Array, "T T"], known: Bool[Array, "T"], targets: Float[Array, "T C"]) -> _Fit:
        pairs = known[:, None] & known[None, :]
        n = known.sum(dtype=jnp.float32)
        # A single example has no distance to another, and all may be the same: then any scale will do.
        scale = jnp.where(pairs, squared, 0).sum() / jnp.maximum(n * (n - 1), 1) * config.width
        scale = jnp.where(scale > 0, scale, 1.0)
        mean = jnp.where(known[:, None], targets, 0).sum(0) / jnp.maximum(n, 1)
        # Rows that are not known are those of the identity, with targets 0: their dual variables are 0.
        kernel = jnp.where(pairs, jnp.exp(-squared / scale), 0) + jnp.diag(jnp.where(known, config.penalty, 1.0))
        factor = jax.scipy.linalg.cho_factor(kernel, lower=True)
        dual = jax.scipy.linalg.cho_solve(factor, jnp.where(known[:, None], targets - mean[None], 0))
        return _Fit(mean, dual, scale)

    def answer(fitted: _Fit, squared: Float[Array, "T"]) -> Float[Array, "C"]:
        return fitted.mean + dot(jnp.exp(-squared / fitted.scale), fitted.dual)

    def start(theta: Any, key: PRNGKeyArray) -> KernelRidgeState:
        del theta, key
        targets = jnp.zeros((length, outputs), jnp.float32)
        nothing = _Fit(jnp.zeros(outputs, jnp.float32), jnp.zeros((length, outputs), jnp.float32), jnp.float32(1))
        return KernelRidgeState(jnp.zeros((length, inputs), jnp.float32), targets, jnp.int32(0), nothing)

    def predict(theta: Any, state: KernelRidgeState, x: Float[Array, "D"]) -> Float[Array, "C"]:
        del theta
        return answer(state.fit, jnp.square(state.xs - x[None]).sum(1))

    def observe(theta: Any, state: KernelRidgeState, x: Float[Array, "D"], y: Labels) -> KernelRidgeState:
        del theta
        xs = state.xs.at[state.stored].set(x, mode="drop")
        targets = state.targets.at[state.stored].set(encode_label(y, outputs), mode="drop")
        stored = state.stored + 1
        return KernelRidgeState(xs, targets, stored, fit(_distances(xs), jnp.arange(length) < stored, targets))

    def run(theta: Any, xs: Float[Array, "T D"], ys: Labels) -> Float[Array, "T C"]:
        del theta
        if xs.shape[0] > length:
            raise ValueError(f"the memory holds {length} examples, got a sequence of {xs.shape[0]}")
        squared, targets, rows = _distances(xs), encode_label(ys, outputs), jnp.arange(xs.shape[0])
        return jax.lax.map(lambda t: answer(fit(squared, rows < t, targets), squared[t]), rows)

    size = length * (inputs + 2 * outputs) + outputs + 1
    return Learner(no_theta, start, predict, observe, batch_run(run), size, signature)


def _distances(xs: Float[Array, "T D"]) -> Float[Array, "T T"]:
    """Squared distances between all rows."""
    # Distances do not depend on the origin, but their rounding does.
    xs = xs - xs[:1]
    gram = dot(xs, xs.T)
    norms = jnp.diagonal(gram)
    return jnp.maximum(norms[:, None] + norms[None, :] - 2 * gram, 0)
