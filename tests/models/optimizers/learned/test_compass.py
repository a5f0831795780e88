"""Compass against Adam, and the symmetries that it has by construction."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn_models import optimizers
from metalearn_models.optimizers.frame import LARGEST
from metalearn_models.optimizers.learned.compass import FEATURES, CompassTheta, compass, scale_by_compass
from metalearn_models.optimizers.orthogonal import orthogonal_adam

SHAPES = {"matrix": (5, 7), "filters": (3, 2, 4), "vector": (6,), "scalar": ()}


def _gradients(t, factor=1.0):
    rng = np.random.default_rng(t)
    return {name: jnp.asarray(rng.normal(size=shape) * factor, jnp.float32) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def theta():
    rng = np.random.default_rng(100)
    draw = lambda *shape: jnp.asarray(0.5 * rng.normal(size=shape), jnp.float32)  # noqa: E731
    return CompassTheta(draw(FEATURES), draw(FEATURES, 8), draw(8))


@pytest.fixture(scope="module")
def directions():
    """The direction after some gradients, of any rule, as one program."""

    @jax.jit
    def run(theta, gradients):
        tx = scale_by_compass(theta)
        state = tx.init(gradients[0])
        for g in gradients:
            updates, state = tx.update(g, state)
        return updates

    return run


def test_a_fresh_rule_is_the_direction_of_adam_at_length_one(directions):
    gradients = [_gradients(t) for t in range(5)]
    tx = optax.scale_by_adam(0.9, 0.95, eps=0.0)
    state = tx.init(gradients[0])
    for g in gradients:
        with jax.numpy_dtype_promotion("standard"):
            adam, state = tx.update(g, state)
    found = directions(compass().init(jax.random.key(0)), gradients)
    for name in SHAPES:
        expected = adam[name] / np.sqrt(np.square(adam[name]).mean())
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-6)


def _direction_in_numpy(theta, gradients, axes):
    """The direction of one tensor in float64, with averages of squares over rows and columns kept by themselves."""
    direct, hidden, output = (np.asarray(w, np.float64) for w in theta)
    decays, last = (0.9, 0.99, 0.999), np.asarray(gradients[-1], np.float64)
    momenta, second, factors = [np.zeros_like(last)] * 3, np.zeros_like(last), [np.zeros_like(last)] * 2
    for g in (np.asarray(g, np.float64) for g in gradients):
        momenta = [d * m + (1 - d) * g for d, m in zip(decays, momenta, strict=True)]
        second = 0.95 * second + 0.05 * g**2
        factors = [0.95 * f + 0.05 * (g**2).mean(a, keepdims=True) for f, a in zip(factors, axes, strict=True)]
    ms = [m / (1 - d ** len(gradients)) for d, m in zip(decays, momenta, strict=True)]
    second, rows, columns = (x / (1 - 0.95 ** len(gradients)) for x in (second, *factors))
    by_factors = (rows / rows.mean() * columns) ** -0.5
    each = [x / second**0.5 for x in (last, *ms)]
    features = [x / second.mean() ** 0.5 for x in (last, *ms)] + each + [m * by_factors for m in ms]
    features += [np.where(last * m > 0, f, 0) for m, f in zip(ms[:2], each[1:3], strict=True)]
    features = np.clip(features, -4, 4)
    units = np.clip(np.einsum("i...,ih->h...", features, hidden), -1, 1)
    direction = np.einsum("i...,i->...", features, direct) + np.einsum("h...,h->...", units, output)
    return direction / (direction**2).mean() ** 0.5


def test_directions_are_those_of_the_rule_written_out(theta, directions):
    gradients = [_gradients(t) for t in range(5)]
    found = directions(theta, gradients)
    for name, axes in (("matrix", (0, 1)), ("filters", (0, 2)), ("vector", (0, 0))):  # a vector has one mean
        expected = _direction_in_numpy(theta, [g[name] for g in gradients], axes)
        np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-4, err_msg=name)


def test_a_fresh_rule_with_orthogonal_matrices_is_orthogonal_adam():
    fresh = scale_by_compass(compass().init(jax.random.key(0)), orthogonalise=True)
    found = []
    for tx in (optax.chain(fresh, optax.scale(-0.1)), orthogonal_adam(0.1)):
        state, step = tx.init(_gradients(0)), jax.jit(tx.update)
        for t in range(5):
            with jax.numpy_dtype_promotion("standard"):
                updates, state = step(_gradients(t, 1e-3), state)
        found.append(updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), *found)


def test_the_unit_of_the_loss_does_not_matter_nor_the_direction_in_which_a_parameter_is_counted(theta, directions):
    plain = directions(theta, [_gradients(t) for t in range(5)])
    for factor in (1e-9, 1e9):
        scaled = directions(theta, [_gradients(t, factor) for t in range(5)])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, scaled)
    turned = directions(theta, [_gradients(t, -1.0) for t in range(5)])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, -b, rtol=1e-5, atol=1e-6), plain, turned)
    signs = jnp.asarray(np.where(np.arange(35).reshape(5, 7) % 3, 1.0, -1.0), jnp.float32)
    some = directions(theta, [{**_gradients(t), "matrix": signs * _gradients(t)["matrix"]} for t in range(5)])
    np.testing.assert_allclose(some["matrix"], signs * plain["matrix"], rtol=1e-5, atol=1e-6)


def test_a_transposed_matrix_moves_as_the_matrix(theta, directions):
    plain = directions(theta, [_gradients(t) for t in range(5)])
    turned = directions(theta, [{**_gradients(t), "matrix": _gradients(t)["matrix"].T} for t in range(5)])
    np.testing.assert_allclose(turned["matrix"].T, plain["matrix"], rtol=1e-4, atol=1e-5)


def test_directions_have_root_mean_square_one_and_parameters_without_gradient_hold_still(theta, directions):
    found = directions(theta, [_gradients(t) for t in range(3)])
    for name in SHAPES:
        np.testing.assert_allclose(np.square(found[name]).mean(), 1, rtol=1e-5)
    silent = {name: jnp.zeros_like(g) for name, g in _gradients(0).items()}
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0), directions(theta, [silent] * 3))


def test_directions_of_matrices_become_orthogonal_and_others_stay(theta, directions):
    gradients = [_gradients(t) for t in range(3)]
    plain = directions(theta, gradients)
    tx = scale_by_compass(theta, orthogonalise=True)
    state = tx.init(gradients[0])
    step = jax.jit(tx.update)
    for g in gradients:
        found, state = step(g, state)
    u, _, v = np.linalg.svd(np.asarray(plain["matrix"], np.float64), full_matrices=False)
    values = np.diag(u.T @ np.asarray(found["matrix"], np.float64) @ v.T)
    np.testing.assert_allclose(u @ np.diag(values) @ v, found["matrix"], atol=1e-4)  # the same singular vectors
    assert values.max() / values.min() < 1.2 / 0.65
    np.testing.assert_allclose(np.square(found["matrix"]).mean(), 1, rtol=1e-5)
    for name in ("filters", "vector", "scalar"):
        np.testing.assert_allclose(found[name], plain[name], rtol=1e-5, atol=1e-6)


def test_the_learning_rate_falls_along_a_cosine_if_the_number_of_steps_is_known(theta):
    gradients = _gradients(0)
    cosine, cases = (0.1, 0.0853553, 0.05, 0.0146447, 0.0, 0.0), []
    cases += [(0.1, None, (0.1,) * 6), (0.1, 4, cosine)]
    cases.append((lambda step: 0.1 / (step.astype(jnp.float32) + 1), 4, [0.1 / (t + 1) for t in range(6)]))
    for rate, num_steps, expected in cases:
        tx = compass(learning_rate=rate).transform(theta, num_steps)
        state, lengths = tx.init(gradients), []
        for _ in range(6):
            updates, state = tx.update(gradients, state, gradients)
            lengths.append(float(jnp.sqrt(jnp.square(updates["matrix"]).mean())))
        np.testing.assert_allclose(lengths, expected, atol=1e-6)


def test_fewer_than_200_weights_and_a_rule_needs_units():
    theta = jax.eval_shape(compass().init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(theta)) == 125
    with pytest.raises(ValueError, match="units must be at least 1, got 0"):
        optimizers.make("compass", units=0).init(jax.random.key(0))


def test_means_take_a_gradient_within_bounds_and_keep_what_is_not_finite(theta):
    tx, g = scale_by_compass(theta), jnp.asarray([1e30, -1e30, 1.0, np.inf], jnp.float32)
    _, state = jax.jit(tx.update)({"vector": g}, tx.init({"vector": g}))
    means, shares = (*state.momenta, state.second_moment), (0.1, 0.01, 0.001, 0.05)
    for mean, share, power in zip(means, shares, (1, 1, 1, 2), strict=True):
        found = np.asarray(mean["vector"])
        assert share * LARGEST**power <= found[0] * (1 + 1e-5) and np.abs(found[:2]).max() <= LARGEST**power
        np.testing.assert_allclose(found[2], share, rtol=1e-5)
        assert found[3] == np.inf
