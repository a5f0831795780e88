"""Weak scaling at toy size, and the cost model of docs/scaling.md against what XLA counts."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.speed._message_costs import Accelerators, all_reduce_seconds, compute_seconds, predict
from experiments.speed._weak_scaling_worker import collectives
from experiments.speed.weak_scaling import WeakScalingConfig, format_result, run
from metalearn.gradients import dense, dodge, low_rank, nres, nres_a, pes, rtrl, truncated_backprop
from metalearn.inner import InnerLoop

WIDTH = 192
P = WIDTH**2


def recurrent(width: int = WIDTH) -> InnerLoop:
    """One product of theta, a matrix, with the state in each step, and as little else as can be."""

    def init(theta, data, key):
        del theta, data, key
        return jnp.ones(width)

    def step(theta, state, t, key, data):
        del t, key, data
        state = jnp.tanh(theta @ state)
        return state, state.sum(), {}

    return InnerLoop(init, step, None, 1)


def operations(f, *args):
    """What XLA counts in one evaluation, before it optimises; the body of a loop once, so windows here are one step."""
    counted = jax.jit(f).lower(*args).cost_analysis()
    assert counted is not None
    return counted["flops"]


def analysed(estimator, width=WIDTH):
    """Operations of one estimate, and bytes of the floats in the estimator's state."""
    theta, key = jnp.ones((width, width)), jax.random.key(0)
    state = jax.eval_shape(estimator.init, theta, (), key)
    flops = operations(estimator.grad, theta, state, (), key, jnp.int32(0))
    return flops, sum(x.size * 4 for x in jax.tree.leaves(state) if x.dtype == jnp.float32)


def difference(make, few=2, many=4, width=WIDTH):
    """Operations and state bytes of one more, of whatever `make` takes."""
    (flops, size), (more_flops, more_size) = (analysed(make(n), width) for n in (few, many))
    return (more_flops - flops) / (many - few), (more_size - size) / (many - few)


def operations_of_a_normal():
    """Of one more number of dense noise, where several perturbations are drawn at once."""

    def draws(count):
        keys = jax.random.split(jax.random.key(0), count)
        return operations(jax.vmap(lambda key: dense.draw(jnp.ones(P), key)), keys)

    return (draws(4) - draws(2)) / 2 / P


@pytest.mark.parametrize("noise", [dense, low_rank(1)])
def test_one_more_task_costs_a_pair_two_forward_passes_and_two_states(noise):
    loop = recurrent()
    flops, size = difference(lambda tasks: nres(loop, 0.1, 3, 1, noise=noise, tasks=tasks))
    assert flops == pytest.approx(3 * 2 * 2 * P, rel=0.05)
    assert size == 3 * 2 * 4 * WIDTH


def test_one_more_pair_costs_pes_an_array_of_the_size_of_theta_and_nres_none():
    loop = recurrent()
    pairs = 4 * (2 * WIDTH + 1)  # bytes of two states and sigma
    assert difference(lambda n: nres(loop, 0.1, n, 1))[1] == pairs
    assert difference(lambda n: pes(loop, 0.1, n, 1))[1] == pairs + 4 * P


def test_dense_noise_costs_a_pair_its_drawing_its_use_and_its_contraction():
    flops, _ = difference(lambda n: nres(recurrent(), 0.1, n, 1))
    assert flops / P == pytest.approx(4 + 2 + 4 + operations_of_a_normal(), rel=0.02)  # forward, mean, theta +- eps


@pytest.mark.parametrize("rank", [1, 4])
def test_low_rank_noise_costs_a_pair_its_contraction_and_thin_products(rank):
    flops, _ = difference(lambda n: nres(recurrent(), 0.1, n, 1, noise=low_rank(rank)))
    thin = rank * 2 * WIDTH * (4 + operations_of_a_normal())
    assert flops == pytest.approx(4 * P + 2 * rank * P + thin, rel=0.02)


def test_backpropagation_costs_a_trajectory_three_forward_passes():
    flops, size = difference(lambda n: truncated_backprop(recurrent(), n, 1))
    assert flops == pytest.approx(6 * P, rel=0.02)
    assert size == 4 * WIDTH


def test_a_control_variate_costs_backpropagation_and_one_more_state_a_task():
    loop = recurrent()
    plain, size = difference(lambda tasks: nres(loop, 0.1, 3, 1, tasks=tasks))
    controlled, more = difference(lambda tasks: nres_a(loop, 0.1, 3, 1, tasks=tasks))
    assert (controlled - plain) / 3 == pytest.approx(6 * P, rel=0.02)
    assert more == size * 3 / 2


def test_forward_mode_costs_a_direction_its_tangent_its_drawing_and_a_state():
    flops, size = difference(lambda n: dodge(recurrent(), 1, 1, directions=n))
    # The state's tangent is multiplied by theta, the state by theta's; then the mean over directions.
    assert flops / P == pytest.approx(2 + 2 + 2 + operations_of_a_normal(), rel=0.05)
    assert size == 4 * WIDTH
    _, exact = analysed(rtrl(recurrent(24), 1, 1), 24)
    assert exact == 4 * 24 * (1 + 24**2)


def test_collectives_are_found_with_their_bytes():
    program = """
      %all-reduce.1 = (f32[64,10]{1,0}, f32[], /*index=2*/bf16[3]{0:T(8,128)}) all-reduce(%a, %b, %c), channel_id=1
      %x = f32[8]{0} add(%all-reduce.1, %all-reduce.1)
      ROOT %y = u32[2,4]{1,0} all-gather-start(%x), channel_id=2
    """
    assert collectives(program) == {"all-reduce": [4 * 641 + 6], "all-gather": [32]}


def test_a_step_is_one_all_reduce_of_theta_and_metrics(tmp_path):
    config = WeakScalingConfig(
        devices=(4,), pairs=2, tasks=1, window=2, hidden=4, steps=2, rounds=1, timeout=120, out=tmp_path
    )
    found = run(config)
    for row in (row for rows in found["measured"].values() for row in rows):
        assert row["collectives"] == {"all-reduce": [4 * (row["parameters"] + row["metrics"])]}
        assert row["devices"] == 4 and row["metrics"] == 2 and row["parameters"] > 200
        # theta, Adam's moments, and a share of the pairs, which hold their sequences of 8 examples of 20 inputs
        assert 0 < row["state_bytes"] - 3 * 4 * row["parameters"] < 4000
    assert json.loads((tmp_path / "result.json").read_text())["measured"] == found["measured"]
    assert (tmp_path / "weak_scaling.png").stat().st_size > 10_000
    assert "1 all-reduce" in format_result(found)


def test_predicted_costs_are_those_worked_out_by_hand():
    assert all_reduce_seconds(1e8, 1000, 100e9, 10e-6) == pytest.approx(8e8 * 0.999 / 1e11 + 20 * 10e-6)
    assert all_reduce_seconds(1e8, 1, 100e9, 10e-6) == 0
    assert compute_seconds(1e6, 64, 1600, 1e14) == pytest.approx(4 * 1e6 * 64 * 1600 / 1e14)
    rows = predict(Accelerators(devices=10, pairs=100, steps=100))
    np.testing.assert_allclose([r["cosine"] for r in rows], [(1 + (r["parameters"] + 1) / 1000) ** -0.5 for r in rows])
    assert rows[0]["rebuild"] == pytest.approx(2 * 1e4 * 1000 / 100e12 + 4 * 10e-6)
