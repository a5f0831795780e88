"""A learner averaged over the symmetries of its tasks: rotated inputs and permuted labels.

In randomly projected tasks nothing depends on the basis of the inputs or on the names of the classes, but a
meta-trained black box is only nearly invariant to them. Averaging its predictions over random rotations and
permutations removes that variance. It needs no training and costs one more pass per member. Test-time averaging over
transformed inputs is old (Krizhevsky et al. 2012); TabPFN (Hollmann et al. 2022, arXiv 2207.01848) does it for
in-context learners.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.learner import Labels, Learner, select_classes
from metalearn_models.learners._common import competing_outputs

__all__ = ["averaged"]


def averaged(learner: Learner, members: int, seed: int = 0, classes: int | None = None) -> Learner:
    """Average a learner of classes over `members` random rotations of its inputs and permutations of its labels.

    The first member sees inputs and labels unchanged. The members' probabilities are averaged.

    Args:
        learner: a learner of classes; its theta is used unchanged.
        members: number of passes to average.
        seed: draws rotations and permutations.
        classes: number of classes in the data. Each member gives the other outputs no probability, so that no member
            counts less because it has spent some on them. None: all outputs are classes.

    Returns:
        A learner of the same signature, with `members` times the state. Its logits are log-probabilities.

    Raises:
        ValueError: fewer than one member, a number of classes out of range, or a regression learner, whose labels have
            no permutations.
    """
    if members < 1:
        raise ValueError(f"members must be at least 1, got {members}")
    if learner.signature.regression:
        raise ValueError("averaging permutes class labels: it needs a learner of classes, not of real labels")
    inputs, outputs = learner.signature.inputs, learner.signature.outputs
    compete = competing_outputs(learner.signature, classes)
    rng = np.random.default_rng(seed)
    # Q of the QR decomposition of a Gaussian matrix, with the signs of R's diagonal removed, is uniform over rotations
    # (Mezzadri 2007).
    drawn = [np.linalg.qr(rng.normal(size=(inputs, inputs))) for _ in range(members - 1)]
    rotations = jnp.asarray(np.stack([np.eye(inputs), *(q * np.sign(np.diag(r)) for q, r in drawn)]), jnp.float32)
    permutations = jnp.asarray(
        np.stack([np.arange(outputs), *(rng.permutation(outputs) for _ in range(members - 1))]), jnp.int32
    )

    def average(logits: Float[Array, "M *T C"]) -> Float[Array, "*T C"]:
        renamed = jax.vmap(lambda row, permutation: jnp.take(row, permutation, axis=-1))(logits, permutations)
        log_probs = jax.nn.log_softmax(select_classes(renamed, learner.signature, compete), axis=-1)
        return jax.nn.logsumexp(log_probs, axis=0) - np.log(members).astype(np.float32)

    def start(theta: Any, key: PRNGKeyArray) -> Any:
        return jax.vmap(lambda k: learner.start(theta, k))(jax.random.split(key, members))

    def predict(theta: Any, state: Any, x: Float[Array, "D"]) -> Float[Array, "C"]:
        return average(jax.vmap(lambda s, r: learner.predict(theta, s, x @ r))(state, rotations))

    def observe(theta: Any, state: Any, x: Float[Array, "D"], y: Labels) -> Any:
        return jax.vmap(lambda s, r, p: learner.observe(theta, s, x @ r, p[y]))(state, rotations, permutations)

    def run(theta: Any, xs: Float[Array, "*B T D"], ys: Labels) -> Float[Array, "*B T C"]:
        assert learner.run is not None
        inner = learner.run

        def member(rotation_and_permutation: tuple[Array, Array]) -> Array:
            rotation, permutation = rotation_and_permutation
            return inner(theta, xs @ rotation, permutation[ys])

        return average(jax.lax.map(member, (rotations, permutations)))

    parallel = run if learner.run is not None else None
    return Learner(learner.init, start, predict, observe, parallel, members * learner.state_size, learner.signature)
