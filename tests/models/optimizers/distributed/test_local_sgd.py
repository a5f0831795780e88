"""Local SGD against loops in NumPy, against Lookahead, and against plain data parallelism."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn_models.optimizers.distributed import all_reduce, compressed_all_reduce, diloco, eight_bit, local_sgd
from tests.models.optimizers.distributed.cases import AXIS, DEVICES

STEPS, PERIOD = 12, 4
RNG = np.random.default_rng(0)
CURVATURE = RNG.uniform(0.5, 2, (DEVICES, 5)).astype(np.float32)
CENTRE = RNG.normal(size=(DEVICES, 5)).astype(np.float32)
START = RNG.normal(size=5).astype(np.float32)


def train(tx, spoil=None):
    """Parameters [steps, devices, 5] of quadratics whose curvature and centre differ between devices."""

    def on_device(curvature, centre, index):
        def body(carry, t):
            params, state = carry
            grads = curvature * (params - centre)
            if spoil is not None:
                grads = jnp.where((t == spoil[0]) & (index == spoil[1]), jnp.nan, grads)
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        start = jnp.asarray(START)
        return jax.lax.scan(body, (start, tx.init(start)), jnp.arange(STEPS))[1]

    together = jax.vmap(on_device, out_axes=1, axis_name=AXIS)
    return np.asarray(jax.jit(together)(CURVATURE, CENTRE, jnp.arange(DEVICES)))


def in_numpy(rate, outer_rate, momentum, without=()):
    """The two loops of DiLoCo with inner SGD, in float64; `without` lists the steps (t, device) that are left out."""
    anchor, velocity, found = START.astype(np.float64), np.zeros(5), []
    params = np.stack([anchor] * DEVICES)
    for t in range(STEPS):
        step = rate * CURVATURE * (params - CENTRE)
        for time, device in without:
            step[device] *= time != t
        params = params - step
        if (t + 1) % PERIOD == 0:
            movement = anchor - params.mean(0)
            velocity = momentum * velocity + movement
            anchor = anchor - outer_rate * (movement + momentum * velocity)
            params = np.stack([anchor] * DEVICES)
        found.append(params)
    return np.stack(found)


def test_diloco_is_its_two_loops():
    found = train(diloco(optax.sgd(0.2), PERIOD, AXIS))
    np.testing.assert_allclose(found, in_numpy(0.2, 0.7, 0.9), atol=1e-5)
    assert np.ptp(found[PERIOD], axis=0).max() > 0.1  # within a round the devices differ
    assert np.ptp(found[PERIOD - 1], axis=0).max() < 1e-6


def test_a_step_that_is_not_finite_is_left_out_on_its_device():
    found = train(diloco(optax.sgd(0.2), PERIOD, AXIS), spoil=(5, 1))
    np.testing.assert_allclose(found, in_numpy(0.2, 0.7, 0.9, without=[(5, 1)]), atol=1e-5)


def test_with_rounds_of_one_step_it_is_data_parallel_sgd():
    found = train(local_sgd(optax.sgd(0.2), optax.sgd(1.0), 1, AXIS))
    expected = train(optax.chain(all_reduce(AXIS), optax.sgd(0.2)))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_movements_can_be_compressed():
    """8 bits of a movement that is the same everywhere are its bits, and the residual brings the rest."""
    exchange = compressed_all_reduce(eight_bit(), AXIS)
    found = train(diloco(optax.sgd(0.2), PERIOD, AXIS, exchange=exchange))
    expected = in_numpy(0.2, 0.7, 0.9)
    assert 1e-5 < np.abs(found - expected).max() < 0.03


def test_on_one_device_it_is_lookahead():
    inner, outside = optax.adam(0.05), local_sgd(optax.adam(0.05), optax.sgd(0.5), PERIOD, "nowhere")
    ahead = optax.lookahead(inner, PERIOD, 0.5)

    def both(start):
        pair = optax.LookaheadParams.init_synced(start)

        def body(carry: Any, _: Any) -> Any:
            params, state, pair, memory = carry
            grads = CURVATURE[0] * (params - CENTRE[0])
            updates, state = outside.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            updates, memory = ahead.update(CURVATURE[0] * (pair.fast - CENTRE[0]), memory, pair)
            pair = optax.LookaheadParams(*jax.tree.map(jnp.add, pair, updates))
            return (params, state, pair, memory), (params, pair.fast)

        return jax.lax.scan(body, (start, outside.init(start), pair, ahead.init(pair)), length=STEPS)[1]

    with jax.numpy_dtype_promotion("standard"):
        found, expected = jax.jit(both)(jnp.asarray(START))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="local_sgd needs a period of at least 1 step, got 0"):
        diloco(optax.sgd(0.1), 0, AXIS)
    tx = local_sgd(optax.sgd(0.1), optax.sgd(1.0), 2, AXIS)
    with pytest.raises(ValueError, match=r"reads the parameters: call update\(grads, state, params\), got None"):
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)))
