"""Compressors against NumPy, and the books of error feedback: what was sent and what is left are the gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn_models.optimizers.distributed import (
    compressed_all_reduce,
    eight_bit,
    in_two_stages,
    low_rank,
    sign,
    top_k,
)
from metalearn_models.optimizers.distributed.exact import two_sum
from metalearn_models.optimizers.distributed.low_rank import orthonormalise
from tests.models.optimizers.distributed.cases import BAD, COMPRESSORS, DEVICES, GOOD, STEPS, gradients, sent_by


def _top_k_rule(x, memory):
    flat = x.reshape(DEVICES, -1)
    k = math.ceil(0.1 * flat.shape[1])
    least = np.sort(np.abs(flat))[:, -k]
    return np.where(np.abs(flat) >= least[:, None], flat, 0).reshape(x.shape), memory


def _sign_rule(x, memory):
    size = np.abs(x).mean((1, 2, 3), keepdims=True)
    return np.where(x >= 0, size, -size), memory


def _eight_bit_rule(x, memory):
    largest = np.abs(x).max((1, 2, 3), keepdims=True)
    step = 2.0 ** np.ceil(np.log2(largest / 127))
    return np.round(x / step) * step, memory


def _low_rank_rule(x, q):
    matrices = x.reshape(DEVICES, 12, 9)
    q = np.asarray(low_rank(2).init([jnp.zeros((3, 4, 9))], "nowhere")) if q is None else q
    p, _ = np.linalg.qr((matrices @ q).mean(0))
    own = matrices.transpose(0, 2, 1) @ p
    # The next Q may be any basis of the same directions, since P is made orthonormal.
    return (p @ own.transpose(0, 2, 1)).reshape(x.shape), own.mean(0)


RULES = {"top_k": _top_k_rule, "sign": _sign_rule, "eight_bit": _eight_bit_rule, "low_rank": _low_rank_rule}


@pytest.mark.parametrize("name", COMPRESSORS)
def test_what_was_sent_and_the_residual_are_the_gradients_exactly(name):
    """In real numbers, for each device and entry: `math.fsum` of floats is 0 only if their sum is."""
    grads, (_, sent, state) = gradients(), sent_by(name)
    for leaf in grads:
        parts = [sent[leaf][GOOD], state.high[leaf][None], state.low[leaf][None], -grads[leaf][GOOD]]
        columns = np.concatenate(parts).astype(np.float64).reshape(2 * STEPS, -1).T
        assert [math.fsum(column) for column in columns] == [0.0] * len(columns)
    if "eight_bit" not in name:  # one float is not enough; small residuals of multiples of a power of two fit into one
        assert any(np.any(x) for x in state.low.values())


@pytest.mark.parametrize("name", COMPRESSORS)
def test_updates_are_the_mean_of_what_was_sent_on_all_devices_alike(name):
    """In two stages, the updates and what the owners of the parts have left are the means, over all steps."""
    updates, sent, state = sent_by(name)
    size = 0
    for leaf, u in updates.items():
        np.testing.assert_array_equal(u, np.broadcast_to(u[:, :1], u.shape))
        u, mean = u[GOOD], sent[leaf][GOOD].astype(np.float64).mean(1)
        if "stages" not in name:
            np.testing.assert_allclose(u[:, 0], mean, rtol=0, atol=3e-6)
            continue
        at = sum(-(-other[0, 0].size // DEVICES) for other in list(updates.values())[:size])
        part = -(-u[0, 0].size // DEVICES)
        left = state.memory[0].astype(np.float64).sum(1)[:, at : at + part].ravel()[: u[0, 0].size]
        np.testing.assert_allclose(u[:, 0].sum(0) + left.reshape(u[0, 0].shape), mean.sum(0), rtol=0, atol=2e-5)
        size += 1


@pytest.mark.parametrize("name", RULES)
def test_messages_are_those_of_the_published_rules(name):
    """NumPy in float64, for the kernel of each device; the sent kernels and the residual of a step give the next."""
    grads, q = gradients()["kernel"].astype(np.float64), None
    with jax.enable_x64(name == "low_rank"):  # the power method carries its rounding from step to step
        sent = sent_by(name, np.float64 if name == "low_rank" else np.float32)[1]["kernel"]
        left = np.zeros(grads.shape[1:])
        for t, g in enumerate(grads):
            if t == BAD:
                continue
            x = left + g
            expected, q = RULES[name](x, q)
            np.testing.assert_allclose(sent[t], expected, rtol=0, atol=1e-8 if name == "low_rank" else 1e-5)
            left = x - sent[t]


def test_low_rank_becomes_the_truncated_singular_value_decomposition():
    rng = np.random.default_rng(1)
    matrix = (rng.normal(size=(12, 9)) @ np.diag([9, 5, 1, 0.5, 0.2, 0.1, 0.1, 0.05, 0.01])).astype(np.float32)
    compressor = low_rank(2)

    def body(memory, _):
        found = compressor.reduce([jnp.asarray(matrix)], memory, "nowhere")
        return found.memory, found.sent[0]

    _, sent = jax.jit(lambda q: jax.lax.scan(body, q, length=30))(compressor.init([jnp.asarray(matrix)], "nowhere"))
    u, s, v = np.linalg.svd(matrix.astype(np.float64))
    np.testing.assert_allclose(sent[-1], u[:, :2] * s[:2] @ v[:2], atol=1e-4)


def test_columns_are_orthonormal_at_any_size_and_zero_columns_stay_zero():
    x = np.random.default_rng(2).normal(size=(9, 4)).astype(np.float32) * np.float32([1e-30, 1e25, 0, 1])
    q = np.asarray(orthonormalise(jnp.asarray(x)), np.float64)
    np.testing.assert_allclose(q.T @ q, np.diag([1, 1, 0, 1]), atol=1e-6)


def test_two_sum_keeps_every_bit():
    rng = np.random.default_rng(3)
    a, b = (rng.normal(size=1000).astype(np.float32) * 10.0 ** rng.integers(-9, 9, 1000) for _ in range(2))
    a, b = a.astype(np.float32), b.astype(np.float32)
    total, error = (np.asarray(x, np.float64) for x in jax.jit(two_sum)(a, b))
    assert all(math.fsum(parts) == 0 for parts in zip(a, b, -total, -error, strict=True))
    assert np.any(error)


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_gradient_that_is_not_finite_on_one_device_is_seen_by_all(name):
    """That it changes no state is seen by the books above, which leave the step out."""
    updates = sent_by(name)[0]["kernel"]
    assert [np.isfinite(step).all() for step in updates] == GOOD.tolist()
    assert not np.isfinite(updates[BAD]).all(axis=(1, 2, 3)).any()


def test_one_device_runs_the_same_code_without_an_axis():
    """As a mesh axis of one device does."""

    def step(g):
        found = []
        for name in RULES:
            tx = compressed_all_reduce(COMPRESSORS[name], "devices")
            found.append(tx.update(g, tx.init(g)))
        return found

    grads = jax.tree.map(lambda x: x[0, :1], gradients())
    both = jax.jit(lambda g: (jax.vmap(step, axis_name="devices")(g), jax.vmap(step)(g)))(grads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *both)


def test_what_cannot_be_a_setting_is_refused():
    with pytest.raises(ValueError, match=r"top_k needs a share of the entries above 0 and at most 1, got 1\.5"):
        top_k(1.5)
    with pytest.raises(ValueError, match="low_rank needs a rank of at least 1, got 0"):
        low_rank(0)
    with pytest.raises(ValueError, match="in_two_stages needs a compressor whose messages stand alone, such as top_k"):
        in_two_stages(low_rank(1))
    tx = compressed_all_reduce(in_two_stages(sign()), "devices")
    outside = tx.init(jnp.ones(3))
    with pytest.raises(ValueError, match="axis 'devices', and this one was made outside of it: call init inside"):
        jax.vmap(lambda g: tx.update(g, outside), axis_name="devices")(jnp.ones((2, 3)))
    for compressor in (sign(), eight_bit()):
        with pytest.raises(TypeError, match=r"floating-point parameters, got int32 at params\['n'\]"):
            compressed_all_reduce(compressor, "devices").init({"n": jnp.arange(3)})
