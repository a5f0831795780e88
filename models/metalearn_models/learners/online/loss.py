"""Networks trained online by a loss of one's choice: a learned one, or one that is being learned.

The setting is that of `network.py`: one update per example. Only the loss that this update descends is another one; the
learner is still judged by cross-entropy or squared error, as every other learner. ML3 (Bechtle et al. 2021, arXiv
1906.05374) learns losses in this way, by a meta-gradient of the predictions that follow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from metalearn.learner import Labels, Learner, Signature
from metalearn_models.learners._common import no_theta
from metalearn_models.learners.online.network import fresh_params, online_learner
from metalearn_models.losses.parametric import LearnableLoss
from metalearn_models.networks.network import Network

__all__ = ["Loss", "online_with_learnable_loss", "online_with_loss"]

Loss = Callable[[Float[Array, "C"], Array], Float[Array, ""]]
"""`(logits[C], label) -> scalar`: the loss of one example."""


def online_with_loss(signature: Signature, network: Network, tx: optax.GradientTransformation, loss: Loss) -> Learner:
    """Any network trained online by any optimizer on any loss, from a fresh draw of its parameters.

    Args:
        signature: shapes of the task.
        network: maps `x[D]` to `signature.outputs` values.
        tx: any optax transformation; it is given the loss as `value`.
        loss: of one example, for instance `metalearn_models.losses.load("...")` or a loss of optax.

    Returns:
        A learner without meta-parameters: `init` returns `()`.

    Raises:
        ValueError: the loss does not give one float for one example of the signature.
        TypeError, ValueError: what the loss itself raises for such an example.
    """
    _check_loss(signature, loss)

    def loss_of_outputs(theta: tuple[()], outputs: Float[Array, "C"], y: Labels) -> Float[Array, ""]:
        del theta
        return loss(outputs, y)

    return online_learner(signature, network, lambda theta: tx, no_theta, fresh_params(network), loss_of_outputs)


def online_with_learnable_loss(
    signature: Signature, network: Network, tx: optax.GradientTransformation, learnable: LearnableLoss
) -> Learner:
    """The same with a loss that is to be meta-learned: its parameters are the learner's theta.

    Args:
        signature: shapes of the task.
        network: maps `x[D]` to `signature.outputs` values.
        tx: any optax transformation; it is given the loss as `value`. Backpropagation needs one that can be
            differentiated through.
        learnable: `metalearn_models.losses.free_coefficients(...)`, `ml3(...)`, `taylor_glo(...)`.

    Returns:
        A learner whose `init` is that of the loss.

    Raises:
        ValueError: the loss does not give one float for one example of the signature.
        TypeError, ValueError: what the loss itself raises for such an example.
    """
    theta = jax.eval_shape(learnable.init, jax.random.key(0))
    _check_loss(signature, lambda outputs, y, theta: learnable.apply(theta, outputs, y), theta)
    return online_learner(signature, network, lambda theta: tx, learnable.init, fresh_params(network), learnable.apply)


def _check_loss(signature: Signature, loss: Callable[..., Any], *args: Any) -> None:
    outputs = jax.ShapeDtypeStruct((signature.outputs,), jnp.float32)
    label = jax.ShapeDtypeStruct((), jnp.float32 if signature.regression else jnp.int32)
    value = jax.eval_shape(loss, outputs, label, *args)
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        got = f"{value.dtype}{list(value.shape)}" if hasattr(value, "shape") else type(value).__name__
        raise ValueError(
            f"the loss must give one float for logits [{signature.outputs}] and one label, got {got}: "
            "use a loss of each example, without a mean over a batch"
        )
