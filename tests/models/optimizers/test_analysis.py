"""The analysis of optimizers on hand-designed ones, whose mechanisms are known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn_models.optimizers.analysis import (
    adaptation,
    fixed_points,
    impulse_response,
    modes,
    schedule,
    update_function,
)
from metalearn_models.optimizers.learned.component_rnn import component_cell, component_rnn
from metalearn_models.optimizers.learned.parts.cell import Cell, cell_rate, cell_update

RATE, BETA, CLIP, GAMMA = 0.3, 0.9, 0.5, 0.95


def _momentum():
    return Cell(jnp.zeros(1), lambda h, g: BETA * h + g, jnp.array([-RATE]))


def _nesterov():
    """State (m, g): the update is -rate (beta m' + g)."""
    return Cell(jnp.zeros(2), lambda h, g: jnp.stack([BETA * h[0] + g, g]), jnp.array([-RATE * BETA, -RATE]))


def _clipped():
    return Cell(jnp.zeros(1), lambda h, g: jnp.clip(g, -CLIP, CLIP)[None], jnp.array([-RATE]))


def _rmsprop():
    """State (v, g / sqrt(v))."""

    def advance(h, g):
        v = GAMMA * h[0] + (1 - GAMMA) * g * g
        return jnp.stack([v, g / jnp.sqrt(v)])

    return Cell(jnp.array([4.0, 0.0]), advance, jnp.array([0.0, -RATE]))


def _warm_up():
    """State (time, rate(time) g): rate rises linearly for 25 steps, then stays."""
    return Cell(
        jnp.zeros(2),
        lambda h, g: jnp.stack([h[0] + 1, RATE * jnp.minimum(h[0], 25.0) / 25 * g]),
        jnp.array([0.0, -1.0]),
    )


def _random_network(size, seed, gain=0.8):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(size, size))
    matrix = jnp.asarray(gain * matrix / np.abs(np.linalg.eigvals(matrix)).max(), jnp.float32)
    b, w, c = (jnp.asarray(rng.normal(size=size), jnp.float32) for _ in range(3))
    return matrix, b, w, c


def test_momentum_is_one_mode_with_its_decay_and_learning_rate():
    found = modes(_momentum(), fixed_points(_momentum(), jnp.array([[3.0], [-1.0]])).points[0])
    np.testing.assert_allclose(found.eigenvalues, [BETA], rtol=1e-6)
    np.testing.assert_allclose(found.rates, [RATE], rtol=1e-6)
    np.testing.assert_allclose(found.timescales, [-1 / np.log(BETA)], rtol=1e-5)


def test_nesterovs_momentum_is_a_slow_mode_and_an_immediate_one():
    found = modes(_nesterov(), jnp.zeros(2))
    np.testing.assert_allclose(found.eigenvalues, [BETA, 0], atol=1e-6)
    np.testing.assert_allclose(found.rates, [RATE * BETA, RATE], rtol=1e-6)
    assert found.timescales[1] == 0


def test_the_fixed_point_of_a_linear_cell_is_the_solution_of_its_equations():
    matrix, b, w, c = _random_network(7, 0)
    cell = Cell(jnp.zeros(7), lambda h, g: matrix @ h + b * g + c, w)
    starts = jnp.asarray(np.random.default_rng(1).normal(size=(5, 7)), jnp.float32)
    found = fixed_points(cell, starts, gradient=0.5)
    assert found.points.shape == (1, 7)  # five searches, one point
    exact = np.linalg.solve(np.eye(7) - np.asarray(matrix, np.float64), np.asarray(0.5 * b + c, np.float64))
    np.testing.assert_allclose(found.points[0], exact, rtol=1e-4, atol=1e-5)


def test_all_fixed_points_are_found_stable_or_not():
    """h' = h + (h - h^3) / 4 rests at -1, 0 and 1, of which 0 is unstable."""
    cell = Cell(jnp.zeros(1), lambda h, g: h + (h - h**3) / 4 + g, jnp.ones(1))
    found = fixed_points(cell, jnp.linspace(-2, 2, 17)[:, None])
    np.testing.assert_allclose(np.sort(found.points[:, 0]), [-1, 0, 1], atol=1e-5)
    middle = found.points[np.argmin(np.abs(found.points[:, 0]))]
    np.testing.assert_allclose(modes(cell, middle).eigenvalues, [1.25], rtol=1e-5)
    assert modes(cell, middle).timescales[0] < 0  # grows


def test_a_cell_without_a_fixed_point_has_none():
    assert fixed_points(_warm_up(), jnp.zeros((2, 2))).points.shape == (0, 2)


def test_states_of_the_wrong_width_are_refused():
    with pytest.raises(ValueError, match=r"must be \[K, 2\], as wide as the cell's, got \(4, 3\)"):
        fixed_points(_warm_up(), jnp.zeros((4, 3)))


def test_modes_predict_what_one_gradient_does_in_all_later_steps():
    """Against running the cell; its complex modes must come in pairs."""
    matrix, b, w, _ = _random_network(6, 3, 0.95)
    cell = Cell(jnp.zeros(6), lambda h, g: matrix @ h + b * g, w)
    found = modes(cell, jnp.zeros(6))
    assert np.abs(np.imag(found.eigenvalues)).max() > 0.1
    assert (np.diff(np.abs(found.eigenvalues)) < 1e-6).all()
    h, moved = np.zeros(6), []
    for t in range(20):
        h = np.asarray(matrix, np.float64) @ h + (np.asarray(b, np.float64) if t == 0 else 0)
        moved.append(-np.asarray(w, np.float64) @ h)
    np.testing.assert_allclose(impulse_response(found, 20), moved, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.left @ found.right, np.eye(6), atol=1e-9)


def test_modes_of_a_recurrent_unit_are_those_of_finite_differences():
    cell = component_cell(component_rnn(5).init(jax.random.key(0))._replace(readout=jnp.ones(5)))
    (point,) = fixed_points(cell, jnp.zeros((1, 5))).points
    found = modes(cell, point)

    def moved(epsilon):
        """Later updates after one gradient of epsilon at rest."""
        h, updates = jnp.asarray(point), []
        for t in range(4):
            h = cell.advance(h, jnp.float32(epsilon if t == 0 else 0))
            updates.append(h @ cell.readout)
        return np.array(updates)

    finite = -(moved(1e-2) - moved(-1e-2)) / 2e-2
    np.testing.assert_allclose(impulse_response(found, 4), finite, rtol=1e-2, atol=1e-3)


def test_clipped_descent_saturates_at_the_clip():
    found = update_function(_clipped(), jnp.zeros(1), jnp.linspace(-2.0, 2.0, 41))
    np.testing.assert_allclose(found.updates, -RATE * np.clip(np.linspace(-2, 2, 41), -CLIP, CLIP), rtol=1e-5)
    np.testing.assert_allclose([found.rate, found.clip, found.saturation], [RATE, CLIP, 1 - CLIP / 2], rtol=1e-5)


def test_momentum_shifts_the_update_function_and_does_not_bend_it():
    gradients = jnp.linspace(-2.0, 2.0, 5)
    rest, moving = (update_function(_momentum(), jnp.array([m]), gradients) for m in (0.0, 2.0))
    np.testing.assert_allclose(moving.updates - rest.updates, -RATE * BETA * 2, rtol=1e-5)
    np.testing.assert_allclose([moving.rate, moving.saturation], [RATE, 0], atol=1e-6)
    with pytest.raises(ValueError, match="at least two gradients, got 1"):
        update_function(_momentum(), jnp.zeros(1), gradients[:1])


def test_the_update_function_of_rmsprop_has_slope_one_over_root_v():
    found = update_function(_rmsprop(), jnp.array([0.25, 0.0]), jnp.array([-1e3, 1e3]))
    np.testing.assert_allclose(found.rate, RATE / np.sqrt(GAMMA * 0.25), rtol=1e-5)
    # For large gradients v' is (1 - gamma) g^2: the update depends on the sign alone.
    np.testing.assert_allclose(found.updates, [RATE / np.sqrt(1 - GAMMA), -RATE / np.sqrt(1 - GAMMA)], rtol=1e-4)
    assert found.saturation > 0.99


def test_a_schedule_in_the_state_is_recovered():
    found = schedule(_warm_up(), 40)
    np.testing.assert_allclose(found.rates, RATE * np.minimum(np.arange(40), 25) / 25, rtol=1e-5)
    np.testing.assert_allclose(found.states[:, 0], np.arange(40))
    assert not found.drift.any()
    with pytest.raises(ValueError, match="at least one step, got 0"):
        schedule(_warm_up(), 0)


def test_the_drift_of_a_schedule_is_what_moves_without_gradient():
    cell = _momentum()._replace(initial=jnp.array([2.0]))
    np.testing.assert_allclose(schedule(cell, 6).drift, -RATE * 2 * BETA ** np.arange(1, 7), rtol=1e-5)


def test_rmsprop_adapts_its_learning_rate_to_one_over_the_gradient():
    """v = g^2 at rest; there -dDelta/dg = rate gamma / |g|, and the lasting update is the rate."""
    gradients = np.array([-4.0, -1.0, -0.1, 0.1, 1.0, 4.0])
    found = adaptation(_rmsprop(), jnp.asarray(gradients, jnp.float32))
    np.testing.assert_allclose(found.points[:, 0], gradients**2, rtol=1e-3)
    np.testing.assert_allclose(found.updates, -RATE * np.sign(gradients), rtol=1e-3)
    np.testing.assert_allclose(found.rates, RATE * GAMMA / np.abs(gradients), rtol=1e-3)
    assert np.max(found.speed) < 1e-4


def test_momentum_does_not_adapt():
    """At rest h = g / (1 - beta): a straight line, one rate."""
    gradients = np.linspace(-2, 2, 5)
    found = adaptation(_momentum(), jnp.asarray(gradients, jnp.float32), steps=0)
    np.testing.assert_allclose(found.points[:, 0], gradients / (1 - BETA), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.updates, -RATE * gradients / (1 - BETA), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.rates, RATE, rtol=1e-6)


def test_the_rate_is_the_slope_of_the_update():
    cell = component_cell(component_rnn(4).init(jax.random.key(1)))
    h, g, e = jnp.full(4, 0.3), jnp.float32(0.7), jnp.float32(1e-2)
    finite = -(cell_update(cell, h, g + e) - cell_update(cell, h, g - e)) / (2 * e)
    np.testing.assert_allclose(cell_rate(cell, h, g), finite, rtol=1e-2)
