import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn_models.sparsity.selection import largest


def _sorted(scores, count, among):
    """The same by a stable sort: of equal scores the first."""
    order = [i for i in np.argsort(-scores.ravel(), kind="stable") if among.ravel()[i]]
    taken = np.zeros(scores.size, bool)
    taken[order[:count]] = True
    return taken.reshape(scores.shape)


@pytest.fixture(scope="module")
def program():
    return jax.jit(largest)


def test_exactly_as_many_as_asked_for_are_taken_as_a_stable_sort_takes_them(program):
    rng = np.random.default_rng(0)
    ties = rng.integers(-2, 3, size=(3, 4, 5)).astype(np.float32)
    zeros = np.where(rng.random((3, 4, 5)) < 0.5, np.float32(0.0), np.float32(-0.0))
    tiny = rng.normal(size=(3, 4, 5)).astype(np.float32) * np.float32(1e-39)  # below the smallest normal number
    far = (rng.normal(size=(3, 4, 5)) * 10.0 ** rng.integers(-37, 37, size=(3, 4, 5))).astype(np.float32)
    for scores in (rng.normal(size=(3, 4, 5)).astype(np.float32), ties, zeros, far, tiny):
        for among in (np.ones(scores.shape, bool), rng.random(scores.shape) < 0.4):
            for count in {0, 1, 7, among.sum() - 1, among.sum()}:
                found = np.asarray(program(scores, jnp.int32(count), among))
                assert found.sum() == count and not (found & ~among).any()
                np.testing.assert_array_equal(found, _sorted(scores, count, among))


def test_one_program_serves_many_counts_at_once(program):
    scores, counts = jax.random.normal(jax.random.key(0), (3, 4, 5)), jnp.arange(5)
    found = jax.jit(jax.vmap(largest, (None, 0, None)))(scores, counts, jnp.ones((3, 4, 5), bool))
    for i, mask in enumerate(found):
        np.testing.assert_array_equal(mask, program(scores, jnp.int32(i), np.ones((3, 4, 5), bool)))
