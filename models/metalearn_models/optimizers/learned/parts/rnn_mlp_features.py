"""What the two-level optimizer `rnn_mlp` reads: running losses, accumulators, statistics of tensors.

Metz, Maheswaranathan, Freeman, Poole and Sohl-Dickstein 2020, "Tasks, stability, architecture, and compute: training
more effective learned optimizers, and using them to train themselves" (arXiv 2009.11243), after the authors' published
code (`RNNMLPLOpt`).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from metalearn_models.optimizers.contract import TIMESCALES
from metalearn_models.optimizers.learned.parts.per_tensor import log_size, variance

__all__ = [
    "DECAYS",
    "STATISTICS",
    "RunningLoss",
    "accumulate",
    "relative_losses",
    "tensor_sizes",
    "tensor_statistics",
    "time_sines",
    "update_loss",
]

DECAYS = (0.5, 0.9, 0.99, 0.999, 0.9999)
"""Decays of the momenta and of the second moments, per step."""

STATISTICS = 18
"""Number of statistics of a tensor that the LSTM reads, besides messages."""

TRAIN_DECAY, VALID_DECAY = 0.9, 0.95
"""Decays of the running training loss and of the running validation loss, per update."""


class RunningLoss(NamedTuple):
    """Mean and variance of a loss over the recent past, before bias correction."""

    mean: Float[Array, ""]
    variance: Float[Array, ""]
    updates: Int[Array, ""]


def update_loss(running: RunningLoss, loss: Float[Array, ""], decay: float) -> RunningLoss:
    """The running loss with one more loss in it."""
    mean = decay * running.mean + (1 - decay) * loss
    return RunningLoss(mean, decay * running.variance + (1 - decay) * jnp.square(mean - loss), running.updates + 1)


def relative_losses(train: RunningLoss, valid: RunningLoss, loss: Float[Array, ""]) -> list[Float[Array, ""]]:
    """The loss and the running validation loss, each relative to the recent training losses.

    Both in standard deviations from the running mean, clipped to [-5, 5].
    """
    return [_relative(train, loss), _relative(train, valid.mean * _correction(valid, VALID_DECAY))]


def accumulate(
    g: Float[Array, "*S"], m: Float[Array, "5 *S"], v: Float[Array, "5 *S"]
) -> tuple[Float[Array, "5 *S"], Float[Array, "5 *S"]]:
    """The momenta and second moments of a tensor with one more gradient in them."""
    decays, mixing = (jnp.array(xs, jnp.float32).reshape(-1, *[1] * g.ndim) for xs in (DECAYS, [1 - d for d in DECAYS]))
    return decays * m + mixing * g[None], decays * v + mixing * (g * g)[None]


def tensor_statistics(
    shape: tuple[int, ...],
    p: Float[Array, "*S"],
    g: Float[Array, "*S"],
    m: Float[Array, "5 *S"],
    v: Float[Array, "5 *S"],
    losses: list[Float[Array, ""]],
) -> Float[Array, "18"]:
    """What the LSTM reads of one tensor, ordered by the names in the published code.

    `shape` is that of the tensor; the arrays may be raveled.
    """
    mean_m, mean_v, mean_p = m.mean(), v.mean(), p.mean()
    sizes = jnp.log(jnp.array((*shape, 1, 1, 1, 1)[:4], jnp.float32)) - 1
    scalar = jnp.float32(-1 if shape else 1)
    norms = log_size(_norm(g)), log_size(_norm(p))
    means = [f(x) for x in (mean_m, mean_v, mean_p) for f in (log_size, jnp.sign)]
    variances = [log_size(variance(x, mean)) for x, mean in ((m, mean_m), (v, mean_v), (p, mean_p))]
    return jnp.stack([norms[0], scalar, *means, norms[1], *sizes, *losses, *variances])


def time_sines(step: Int[Array, ""]) -> Float[Array, "11"]:
    """`sin(t / (pi T))` for each timescale T."""
    return jnp.sin(step.astype(jnp.float32) / (jnp.array(TIMESCALES, jnp.float32) * jnp.pi))


def tensor_sizes(p: Float[Array, "*S"], tensors: int) -> Float[Array, "3"]:
    """Logarithms of the number of tensors (less 1), of the tensor's norm and of its number of entries."""
    return jnp.stack([jnp.log(jnp.float32(tensors)) - 1, jnp.log(_norm(p) + 1e-8), jnp.log(jnp.float32(p.size))])


def _correction(running: RunningLoss, decay: float) -> Float[Array, ""]:
    """The factor that corrects the bias of a running mean towards 0, where it started."""
    # A maximum, not a sum: compiled, 1 - x + 1e-8 becomes (1 + 1e-8) - x, which is 0 before the first update.
    return 1 / jnp.maximum(1 - decay ** running.updates.astype(jnp.float32), 1e-8)


def _relative(train: RunningLoss, loss: Float[Array, ""]) -> Float[Array, ""]:
    """A loss in standard deviations from the running mean of the training losses, clipped to [-5, 5]."""
    c = _correction(train, TRAIN_DECAY)
    return jnp.clip((loss - c * train.mean) * jax.lax.rsqrt(c * train.variance + 1e-8), -5, 5)


def _norm(x: Float[Array, "*S"]) -> Float[Array, ""]:
    """The Euclidean norm; its gradient at 0 is 0, while that of the square root is NaN."""
    square = jnp.square(x).sum()
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
