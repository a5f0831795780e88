"""Networks trained online by a loss of one's choice: a learned one, or one that is being learned.

The setting is that of `online.py`: a fresh network for every sequence, each example predicted before the one optimizer
step that is taken on it. What changes is the loss which that step descends; how well the learner predicts is judged
by cross-entropy or squared error as for every other learner. Learning the loss in this way, by any meta-gradient of
what is predicted next, follows ML3 (Bechtle et al. 2021, arXiv 1906.05374).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.learner import Learner, Signature
from metalearn_models.learners.online.online import trained_online
from metalearn_models.losses.parametric import LearnableLoss
from metalearn_models.networks.network import Network

Loss = Callable[[Float[Array, "C"], Array], Float[Array, ""]]


def online_by(signature: Signature, network: Network, tx: optax.GradientTransformation, loss: Loss) -> Learner:
    """Any network trained online by any optimizer on any loss, from a fresh draw of its parameters.

    Args:
        signature: shapes of the task.
        network: maps `x[D]` to `signature.outputs` values.
        tx: any optax transformation; it is given the loss as `value`.
        loss: `(logits[C], label) -> scalar`, for instance `metalearn_models.losses.load("...")` or a loss of optax.

    Returns:
        A learner without meta-parameters: `init` returns `()`.

    Raises:
        ValueError: the loss does not give one float for one example of the signature.
        TypeError, ValueError: what the loss itself says of such an example.
    """
    _check_loss(signature, loss)

    def init(key: PRNGKeyArray) -> tuple[()]:
        del key  # nothing is meta-learned
        return ()

    def by(theta: tuple[()], outputs: Float[Array, "C"], y: Array) -> Float[Array, ""]:
        del theta
        return loss(outputs, y)

    return trained_online(signature, network, lambda theta: tx, init, _fresh(network), by)


def online_by_learnable(
    signature: Signature, network: Network, tx: optax.GradientTransformation, learnable: LearnableLoss
) -> Learner:
    """The same with a loss that is to be meta-learned: its parameters are the learner's theta.

    Args:
        signature: shapes of the task.
        network: maps `x[D]` to `signature.outputs` values.
        tx: any optax transformation that can be differentiated through, where backpropagation is to be used; it is
            given the loss as `value`.
        learnable: `metalearn_models.losses.free_coefficients(...)`, `ml3(...)`, `taylor_glo(...)`.

    Returns:
        A learner whose `init` is that of the loss.

    Raises:
        ValueError: the loss does not give one float for one example of the signature.
        TypeError, ValueError: what the loss itself says of such an example.
    """
    theta = jax.eval_shape(learnable.init, jax.random.key(0))
    _check_loss(signature, lambda outputs, y, theta: learnable.apply(theta, outputs, y), theta)
    return trained_online(signature, network, lambda theta: tx, learnable.init, _fresh(network), learnable.apply)


def _fresh(network: Network) -> Callable[[Any, PRNGKeyArray], Any]:
    def initial(theta: Any, key: PRNGKeyArray) -> Any:
        del theta  # of the loss
        return network.init(key)

    return initial


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
