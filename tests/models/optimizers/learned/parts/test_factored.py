"""The shared features of small_fc and STAR on tensors that are processed in blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn_models.optimizers.learned.parts import fused
from metalearn_models.optimizers.learned.star import star


def _updates(shape, monkeypatch, block):
    monkeypatch.setattr(fused, "BLOCK", block)
    rng = np.random.default_rng(0)
    optimizer = star((2,))  # blocks are cut in the same way for any network
    shapes = jax.eval_shape(optimizer.init, jax.random.key(0))
    theta = jax.tree.map(lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), shapes)
    small = {name: 0.1 * getattr(theta, name) for name in ("momentum", "second_moment", "factored")}
    transform = optimizer.transform(theta._replace(**small))
    params = jnp.asarray(rng.normal(size=shape), jnp.float32)
    gradients = jnp.asarray(rng.normal(size=(2, *shape)), jnp.float32)

    @jax.jit
    def steps(params, gradients):
        return jax.lax.scan(lambda s, g: transform.update(g, s, params)[::-1], transform.init(params), gradients)

    return steps(params, gradients)


# Whole blocks not along the first axis, a rest along it, more axes.
@pytest.mark.parametrize("shape", [(8, 40), (37, 8), (3, 3, 12, 10)])
def test_a_tensor_in_blocks_is_updated_like_a_whole_one(shape, monkeypatch):
    whole, blocks = (_updates(shape, monkeypatch, block) for block in (10**6, 48))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7), whole, blocks)


def test_blocks_cover_an_axis_once(monkeypatch):
    monkeypatch.setattr(fused, "BLOCK", 16)
    for length in (9, 20, 31):
        zeros = jnp.zeros((length, 4))
        seen = fused.over_blocks(zeros, 0, lambda b, c: b.put(c, b.of(c, 0) + 1, 0), zeros)
        np.testing.assert_array_equal(seen, 1)


def test_wide_layers_are_the_same_sums(monkeypatch):
    rng = np.random.default_rng(0)
    xs = [jnp.asarray(rng.normal(size=(3, 2)), jnp.float32) for _ in range(4)]
    weight = jnp.asarray(rng.normal(size=(4, 5)), jnp.float32)
    expected = np.einsum("iab,ij->jab", np.stack(xs), weight)
    for wide in (0, 100):
        monkeypatch.setattr(fused, "WIDE", wide)
        np.testing.assert_allclose(fused.products(xs, weight), expected, rtol=1e-5)
