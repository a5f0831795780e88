"""The mean of two learners' probabilities: one that is meta-trained, and one that fits each task anew.

Two learners that err on different queries can be better together than either is alone. On MNIST the mean was level with
the better of the two (`docs/results.md`). Averaging different classifiers is old (Hansen and Salamon 1990).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.learner import Labels, Learner, select_classes
from metalearn_models.learners._common import competing_outputs

__all__ = ["SHARPNESS", "mixed"]

SHARPNESS = 6.0
"""Factor on fitted values of one-hot labels, which lie between about 0 and 1, before their softmax. Our choice."""


def mixed(learner: Learner, other: Learner, sharpness: float = SHARPNESS, classes: int | None = None) -> Learner:
    """Mix the probabilities of a learner, half and half, with those of another one that has no meta-parameters.

    Args:
        learner: a learner of classes; theta is its own.
        other: a learner of the same tasks without meta-parameters, such as `kernel_ridge`.
        sharpness: factor on the logits of `other` before their softmax.
        classes: number of classes in the data; the other outputs get no probability. None: all outputs are classes.

    Returns:
        A learner of the same signature. Its logits are log-probabilities.

    Raises:
        ValueError: the learners are not of the same tasks, or of regression, `sharpness` is not positive, or the number
            of classes is out of range.
    """
    signature = learner.signature
    if signature != other.signature or signature.regression:
        raise ValueError(f"mixed needs two learners of the same classes, got {signature} and {other.signature}")
    if not 0 < sharpness < np.inf:
        raise ValueError(f"sharpness must be positive and finite, got {sharpness}")
    compete = competing_outputs(signature, classes)

    def mix(ours: Float[Array, "*T C"], theirs: Float[Array, "*T C"]) -> Float[Array, "*T C"]:
        each = [jax.nn.log_softmax(select_classes(x, signature, compete)) for x in (ours, sharpness * theirs)]
        return jnp.logaddexp(*each) - np.log(2).astype(np.float32)

    def start(theta: Any, key: PRNGKeyArray) -> tuple[Any, Any]:
        return learner.start(theta, key), other.start((), key)

    def predict(theta: Any, state: tuple[Any, Any], x: Float[Array, "D"]) -> Float[Array, "C"]:
        return mix(learner.predict(theta, state[0], x), other.predict((), state[1], x))

    def observe(theta: Any, state: tuple[Any, Any], x: Float[Array, "D"], y: Labels) -> tuple[Any, Any]:
        return learner.observe(theta, state[0], x, y), other.observe((), state[1], x, y)

    def run(theta: Any, xs: Float[Array, "*B T D"], ys: Labels) -> Float[Array, "*B T C"]:
        assert learner.run is not None and other.run is not None
        return mix(learner.run(theta, xs, ys), other.run((), xs, ys))

    parallel = None if learner.run is None or other.run is None else run
    return Learner(learner.init, start, predict, observe, parallel, learner.state_size + other.state_size, signature)
