import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import rosen, rosen_der

from metalearn.errors import UnknownNameError
from metalearn.inner import unroll
from metalearn_models.optimizers import LearnedOptimizer
from metalearn_tasks.objectives.functions import descent, move_point, quadratic, rosenbrock, rotate, shift
from metalearn_tasks.objectives.landscapes import NAMES, Landscape, landscape
from metalearn_tasks.objectives.objective import draw_start
from metalearn_tasks.objectives.training import training_loop

DIMENSION = {name: 3 if kind == "any dimension" else 2 for name, kind in NAMES.items()}

# By hand, at points other than the minimizer.
VALUES = {
    "sphere": ([1.0, 2.0], 5.0),
    "rosenbrock": ([0.0, 0.0], 1.0),
    "ackley": ([1.0, 1.0], 20 * (1 - np.exp(-0.2))),
    "rastrigin": ([0.5, 0.5], 40.5),
    "griewank": ([0.0, np.pi * 2**0.5], 2 + np.pi**2 / 2000),
    "levy": ([1.0, -3.0], 1.0),
    "styblinski_tang": ([1.0, 1.0], -10.0),
    "zakharov": ([1.0, 1.0], 2 + 1.5**2 + 1.5**4),
    "beale": ([0.0, 0.0], 1.5**2 + 2.25**2 + 2.625**2),
    "booth": ([0.0, 0.0], 74.0),
    "himmelblau": ([0.0, 0.0], 170.0),
    "matyas": ([1.0, 0.0], 0.26),
    "goldstein_price": ([0.0, 0.0], 600.0),
    "three_hump_camel": ([1.0, 1.0], 2 - 1.05 + 1 / 6 + 2),
}


def slopes(f, x, h):
    """Central differences in float64 of a float64 function."""
    return np.array([(f(x + h * e) - f(x - h * e)) / (2 * h) for e in np.eye(len(x))])


def in_float64(f):
    compiled = jax.jit(f)

    def value(x):
        with jax.enable_x64(True):
            return float(compiled(jnp.asarray(x, jnp.float64)))

    return value


@pytest.mark.parametrize("entries", [jax.random.normal, jax.random.uniform])
def test_a_quadratic_is_the_squared_length_and_least_at_the_solution(entries):
    objective = quadratic(4, entries)
    problem, theta = jax.jit(lambda key: draw_start(objective, key))(jax.random.key(0))
    w, y, x = (np.asarray(a, np.float64) for a in (*problem, theta))
    slope = jax.jit(jax.value_and_grad(objective.loss, 1))
    loss, gradient = slope(problem, theta, ())
    np.testing.assert_allclose(loss, np.sum((w @ x - y) ** 2), rtol=1e-5)
    np.testing.assert_allclose(gradient, 2 * w.T @ (w @ x - y), rtol=1e-4, atol=1e-5)
    solution = jnp.asarray(np.linalg.solve(w, y), jnp.float32)
    assert slope(problem, solution, ())[0] < 1e-8


def test_quadratics_have_the_entries_and_starts_that_were_published():
    key = jax.random.key(1)
    (w, y), theta = jax.jit(jax.vmap(lambda k: draw_start(quadratic(10), k)))(jax.random.split(key, 500))
    for x in (w, y):
        assert abs(x.mean()) < 5 / x.size**0.5
        assert abs((x**2).mean() - 1) < 5 * (2 / x.size) ** 0.5
    assert abs(((theta / 0.01) ** 2).mean() - 1) < 5 * (2 / theta.size) ** 0.5
    w, y = jax.jit(jax.vmap(quadratic(10, jax.random.uniform).draw))(jax.random.split(key, 500))
    for x in (w, y):
        assert 0 <= x.min() < 0.01
        assert 0.99 < x.max() < 1
        assert abs(x.mean() - 0.5) < 5 / (12 * x.size) ** 0.5


def test_every_test_function_has_a_value_checked_by_hand():
    assert set(VALUES) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_the_formula(name):
    x, expected = VALUES[name]
    np.testing.assert_allclose(landscape(name).value(jnp.asarray(x, jnp.float32)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_minimum_is_where_and_what_it_is_said_to_be(name):
    on = landscape(name, DIMENSION[name])
    value = in_float64(on.value)
    assert on.minimizer.shape == (DIMENSION[name],)
    assert value(on.minimizer) == pytest.approx(on.minimum, abs=1e-12)
    slope = slopes(value, on.minimizer, 1e-5)
    assert np.abs(slope).max() < 1e-4
    rng = np.random.default_rng(0)
    everywhere = rng.uniform(on.low, on.high, (20_000, DIMENSION[name]))
    near = on.minimizer + rng.normal(size=(2000, DIMENSION[name])) * 10.0 ** rng.uniform(-3, 0, (2000, 1))
    with jax.enable_x64(True):
        values = np.asarray(jax.jit(jax.vmap(on.value))(jnp.concatenate([everywhere, near])))
    assert values.min() > on.minimum


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name):
    on = landscape(name, DIMENSION[name])
    x = np.random.default_rng(1).uniform(on.low, on.high, DIMENSION[name])
    with jax.enable_x64(True):
        gradient = np.asarray(jax.jit(jax.grad(on.value))(jnp.asarray(x)))
    np.testing.assert_allclose(gradient, slopes(in_float64(on.value), x, 1e-5), rtol=1e-6, atol=1e-6)


def test_rosenbrock_is_scipys():
    objective = rosenbrock(5)
    _, x = draw_start(objective, jax.random.key(0))
    loss, gradient = jax.jit(jax.value_and_grad(objective.loss, 1))((), x, ())
    np.testing.assert_allclose(loss, rosen(np.asarray(x, np.float64)), rtol=1e-5)
    np.testing.assert_allclose(gradient, rosen_der(np.asarray(x, np.float64)), rtol=1e-4)
    many = jax.vmap(lambda k: objective.init((), k))(jax.random.split(jax.random.key(1), 1000))
    assert -2.048 <= many.min() < -2.04
    assert 2.04 < many.max() <= 2.048


@pytest.mark.parametrize("move", [rotate, shift, lambda o: rotate(shift(o, 3.0))])
def test_a_moved_problem_has_the_values_and_minima_of_the_original_elsewhere(move):
    original = rosenbrock(3)
    objective = move(original)
    key = jax.random.key(0)
    start, loss = jax.jit(lambda key: draw_start(objective, key)), jax.jit(objective.loss)
    problem, z = start(key)
    draws = [problem]
    while draws[-1].problem != ():
        draws.append(draws[-1].problem)
    x = original.init((), jax.random.split(key)[1])
    np.testing.assert_allclose(loss(problem, z, ()), original.loss((), x, ()), rtol=1e-4)
    minimizer = jnp.ones(3)
    for drawn in reversed(draws):
        np.testing.assert_allclose(drawn.rotation @ drawn.rotation.T, np.eye(3), atol=1e-5)
        minimizer = move_point(drawn, minimizer)
    assert loss(problem, minimizer, ()) < 1e-7
    assert float(jnp.abs(minimizer - 1).max()) > 0.01
    other, _ = start(jax.random.key(1))
    assert not np.array_equal(move_point(other, x), move_point(problem, x))


def test_rotations_are_uniform():
    draws = jax.jit(jax.vmap(rotate(rosenbrock(3)).draw))(jax.random.split(jax.random.key(0), 4000)).rotation
    # Every entry of a uniform orthogonal matrix has mean 0 and variance 1 / D; half are reflections.
    assert jnp.abs(draws.mean(0)).max() < 5 / (3 * 4000) ** 0.5
    assert jnp.abs((draws**2).mean(0) - 1 / 3).max() < 5 * 0.3 / 4000**0.5
    assert abs((jnp.linalg.det(draws) > 0).mean() - 0.5) < 5 * 0.5 / 4000**0.5


@pytest.mark.parametrize("make", [quadratic, rosenbrock, lambda: rotate(shift(quadratic(3)))])
def test_gradient_descent_in_the_training_loop_lowers_the_loss_of_every_member(make):
    descend = LearnedOptimizer(lambda key: (), lambda theta, num_steps=None: optax.sgd(theta))
    loop = training_loop(make(), descend, 30)
    losses, _ = jax.jit(lambda keys: unroll(loop, 1e-4, (), keys, 30))(jax.random.split(jax.random.key(0), 5))
    assert (losses[:, 1:] < losses[:, :-1]).all()
    assert len(np.unique(losses[:, 0])) == 5


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="dimension must be at least 1, got 0"):
        quadratic(0)
    with pytest.raises(ValueError, match="at least 2 for rosenbrock, got 1"):
        rosenbrock(1)
    with pytest.raises(ValueError, match="must be 2 for beale, got 3"):
        landscape("beale", 3)
    with pytest.raises(UnknownNameError, match="Did you mean 'ackley'"):
        landscape("akley")
    tree = quadratic(3)._replace(init=lambda problem, key: {"a": jnp.zeros(3)})
    with pytest.raises(ValueError, match="one vector"):
        rotate(tree).draw(jax.random.key(0))


def test_a_landscape_of_ones_own_is_descended():
    on = Landscape(lambda x: ((x - 2.0) ** 2).sum(), np.array([2.0]), 0.0, 0.0, 1.0)
    objective = descent(on)
    assert objective.loss((), jnp.array([3.0]), ()) == 1.0
    assert 0 <= objective.init((), jax.random.key(0))[0] < 1


def test_ackleys_cone_has_a_finite_gradient_at_its_tip():
    on = landscape("ackley", 3)
    assert on.value(jnp.zeros(3)) == 0
    np.testing.assert_array_equal(jax.grad(on.value)(jnp.zeros(3)), np.zeros(3))
