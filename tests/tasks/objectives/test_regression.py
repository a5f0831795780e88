import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn.inner import unroll
from metalearn_models.optimizers import LearnedOptimizer
from metalearn_tasks.objectives.objective import draw_start
from metalearn_tasks.objectives.regression import least_squares, linear_regression
from metalearn_tasks.objectives.training import training_loop


def whole(objective, problem):
    return objective.sample(problem, (), jax.random.key(0))


@pytest.mark.parametrize("examples", [4, 20])
def test_the_optimum_is_that_of_the_normal_equations(examples):
    objective = linear_regression(8, examples, noise=0.5)
    problem, params = jax.jit(lambda key: draw_start(objective, key))(jax.random.key(0))
    x, y = (np.asarray(a, np.float64) for a in problem)
    expected = np.linalg.pinv(x) @ y  # x.T (x x.T)^-1 y, or (x.T x)^-1 x.T y
    theta, least = jax.jit(least_squares)(problem)
    np.testing.assert_allclose(theta, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(least, 0.5 * np.mean((x @ expected - y) ** 2), rtol=1e-3, atol=1e-9)
    slope = jax.jit(jax.value_and_grad(objective.loss, 1))
    np.testing.assert_allclose(slope(problem, theta, whole(objective, problem))[1], np.zeros(8), atol=1e-5)
    assert slope(problem, params, whole(objective, problem))[0] > least + 0.01


def test_loss_and_gradient_are_those_of_half_the_mean_squared_error():
    objective = linear_regression(3, 10)
    problem, params = jax.jit(lambda key: draw_start(objective, key))(jax.random.key(1))
    x, y, w = (np.asarray(a, np.float64) for a in (*problem, params))
    loss, gradient = jax.jit(jax.value_and_grad(objective.loss, 1))(problem, params, whole(objective, problem))
    np.testing.assert_allclose(loss, 0.5 * np.mean((x @ w - y) ** 2), rtol=1e-5)
    np.testing.assert_allclose(gradient, x.T @ (x @ w - y) / 10, rtol=1e-4, atol=1e-6)


def test_problems_have_the_stated_design_targets_and_noise():
    keys = jax.random.split(jax.random.key(0), 300)
    quiet, noisy = (jax.jit(jax.vmap(linear_regression(16, 40, noise=noise).draw))(keys) for noise in (0.0, 0.5))
    np.testing.assert_array_equal(quiet.inputs, noisy.inputs)
    assert abs((quiet.inputs**2).mean() - 1) < 5 * (2 / quiet.inputs.size) ** 0.5
    # The target variance of a run is |w|^2, whose standard deviation over runs is sqrt(2 / D).
    assert abs((quiet.targets**2).mean() - 1) < 5 * (2 / 16 / 300 + 2 / 12_000) ** 0.5
    rest = noisy.targets - quiet.targets
    assert abs((rest**2).mean() / 0.25 - 1) < 5 * (2 / rest.size) ** 0.5
    theta, least = jax.jit(jax.vmap(least_squares))(quiet)
    assert least.max() < 1e-9
    assert abs((theta**2).mean() * 16 - 1) < 5 * (2 / theta.size) ** 0.5


def test_mini_batches_are_rows_of_the_problem_and_their_gradients_average_to_the_full_one():
    objective = linear_regression(3, 12, noise=0.3, batch=4)
    problem, params = jax.jit(lambda key: draw_start(objective, key))(jax.random.key(2))
    keys = jax.random.split(jax.random.key(3), 4000)
    batches = jax.jit(jax.vmap(lambda k: objective.sample(problem, (), k)))(keys)
    rows = np.abs(np.asarray(batches.targets)[..., None] - np.asarray(problem.targets)).argmin(-1)
    np.testing.assert_array_equal(batches.inputs, np.asarray(problem.inputs)[rows])
    np.testing.assert_array_equal(batches.targets, np.asarray(problem.targets)[rows])
    gradients = jax.jit(jax.vmap(lambda batch: jax.grad(objective.loss, 1)(problem, params, batch)))(batches)
    exact = jax.grad(objective.loss, 1)(problem, params, problem)
    error = gradients.std(0) / len(keys) ** 0.5
    assert (jnp.abs(gradients.mean(0) - exact) < 5 * error).all()


@pytest.mark.parametrize("batch", [None, 8])
def test_runs_draw_problems_of_their_own_and_gradient_descent_approaches_their_optima(batch):
    objective = linear_regression(4, 32, noise=0.1, batch=batch)
    descend = LearnedOptimizer(lambda key: (), lambda theta, num_steps=None: optax.sgd(theta))
    loop = training_loop(objective, descend, 60)
    keys = jax.random.split(jax.random.key(0), 6)
    losses, _ = jax.jit(lambda keys: unroll(loop, 0.3, (), keys, 60))(keys)
    assert len(np.unique(losses[:, 0])) == 6

    @jax.jit
    @jax.vmap
    def optimum(key):
        problem, _ = draw_start(objective, jax.random.fold_in(key, 0))
        return least_squares(problem)[1]

    least = optimum(keys)
    if batch is None:
        assert (losses >= 0.999 * least[:, None]).all()
        np.testing.assert_allclose(losses[:, -1], least, rtol=0.05)
    else:
        assert losses[:, -20:].mean() < 4 * least.mean()
    assert (losses[:, -1] < 0.1 * losses[:, 0]).all()


@pytest.mark.parametrize("bad", [{"inputs": 0}, {"examples": 0}, {"batch": 0}, {"noise": -1.0}])
def test_bad_sizes_are_refused(bad):
    ((name, value),) = bad.items()
    with pytest.raises(ValueError, match=f"{name} must be at least .*, got {value}"):
        linear_regression(**bad)
