"""Training a classifier as an optimisation problem: what a learned optimizer is meta-trained and judged on.

The 8x8 image problem of one hidden layer of 32 units is the meta-training task of Metz, Freeman, Harrison,
Maheswaranathan and Sohl-Dickstein 2022 (arXiv 2203.11860).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn_models.online import relu_network
from metalearn_tasks.datasets import Split
from metalearn_tasks.objectives.objective import Objective, nothing_drawn


def mlp_classification(inputs: int, hidden: int | tuple[int, ...], classes: int, batch: int = 64) -> Objective:
    """A multilayer perceptron with ReLU on labelled examples, mean cross-entropy in nats.

    Args:
        inputs: D, the width of an example.
        hidden: widths of the hidden layers; may be `()`.
        classes: C.
        batch: examples a batch, drawn with replacement.

    Returns:
        An objective over a `Split`. Its parameters are those of `metalearn_models.online.relu_network`: weights
        truncated normal of variance 1 / fan_in, biases 0.

    Raises:
        ValueError: when a size is not positive.
    """
    if batch < 1:
        raise ValueError(f"a batch needs at least one example, got batch={batch}")
    network = relu_network(inputs, (hidden,) if isinstance(hidden, int) else hidden, classes)

    def init(problem: tuple[()], key: PRNGKeyArray) -> Any:
        del problem
        return network.init(key)

    def loss(problem: tuple[()], params: Any, examples: Split) -> Float[Array, ""]:
        del problem
        logits = jax.vmap(network.apply, (None, 0))(params, jnp.asarray(examples.inputs))
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, examples.labels).mean()

    def sample(problem: tuple[()], data: Split, key: PRNGKeyArray) -> Split:
        del problem
        rows = jax.random.randint(key, (batch,), 0, data.labels.shape[0])
        return Split(jnp.asarray(data.inputs)[rows], jnp.asarray(data.labels)[rows])

    return Objective(nothing_drawn, init, loss, sample)
