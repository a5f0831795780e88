import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn.inner import unroll
from metalearn_models.optimizers import LearnedOptimizer
from metalearn_tasks.datasets import Split
from metalearn_tasks.objectives.augmentation import (
    add_convex,
    mixture_of_objectives,
    reparametrise,
    reparametrise_by_tensor,
    scale_randomly,
)
from metalearn_tasks.objectives.classification import mlp_classification
from metalearn_tasks.objectives.functions import quadratic, rosenbrock
from metalearn_tasks.objectives.objective import draw_start
from metalearn_tasks.objectives.regression import linear_regression
from metalearn_tasks.objectives.training import training_loop

SCALED = [reparametrise, reparametrise_by_tensor, scale_randomly]
DESCENT = LearnedOptimizer(lambda key: (), lambda theta, num_steps=None: optax.sgd(theta))


ORIGINAL = mlp_classification(6, 5, 3)
original_slope = jax.jit(jax.value_and_grad(ORIGINAL.loss, 1))
original_init = jax.jit(lambda key: ORIGINAL.init((), key))


def data():
    rng = np.random.default_rng(0)
    return Split(jnp.asarray(rng.normal(size=(50, 6)), jnp.float32), jnp.asarray(rng.integers(3, size=50), jnp.int32))


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("augment", SCALED)
def test_loss_and_gradient_are_those_of_the_scaled_parameters_to_the_bit_and_so_is_the_start(augment):
    original = ORIGINAL
    objective = augment(original)
    problem, params = jax.jit(lambda key: draw_start(objective, key))(jax.random.key(0))
    batch = objective.sample(problem, data(), jax.random.key(1))
    equal(batch, original.sample((), data(), jax.random.key(1)))
    own = jax.tree.map(jnp.multiply, problem.scale, params)
    start = original_init(jax.random.split(jax.random.key(0))[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), own, start)
    loss, gradient = jax.jit(jax.value_and_grad(objective.loss, 1))(problem, params, batch)
    expected, own_gradient = original_slope((), own, batch)
    assert loss == expected
    equal(gradient, jax.tree.map(jnp.multiply, problem.scale, own_gradient))


def test_factors_are_log_uniform_and_one_for_all_for_each_tensor_or_for_each_parameter():
    original, keys = mlp_classification(6, (5,), 3), jax.random.split(jax.random.key(0), 2000)
    shapes = jax.eval_shape(original.init, (), jax.random.key(0))

    def uniform(leaves, high):
        logs = np.log(np.stack(leaves)) / np.log(high)
        assert -1 < logs.min() < -0.99
        assert 0.99 < logs.max() < 1
        assert abs(logs.mean()) < 5 / (3 * len(keys)) ** 0.5
        assert abs(logs.std() - 3**-0.5) < 0.03

    scale = jax.jit(jax.vmap(reparametrise(original).draw))(keys).scale
    assert jax.tree.structure(scale) == jax.tree.structure(shapes)
    leaves = jax.tree.leaves(scale)
    for leaf in leaves:
        np.testing.assert_array_equal(leaf, leaves[0])
    uniform(leaves[:1], 1e3)

    leaves = jax.tree.leaves(jax.jit(jax.vmap(reparametrise_by_tensor(original).draw))(keys).scale)
    uniform(leaves, 1e3)
    assert np.abs(np.corrcoef(np.log(np.stack(leaves))) - np.eye(4)).max() < 5 / 2000**0.5

    scale = jax.jit(jax.vmap(scale_randomly(original).draw))(keys).scale
    assert jax.tree.map(lambda x: x.shape[1:], scale) == jax.tree.map(lambda x: x.shape, shapes)
    parameters = np.concatenate([np.asarray(x).reshape(2000, -1).T for x in jax.tree.leaves(scale)])
    uniform(parameters, np.exp(3.0))
    correlations = np.corrcoef(np.log(parameters)) - np.eye(len(parameters))
    assert np.abs(correlations).max() < 5.5 / 2000**0.5


def test_gradient_descent_sees_the_unit_squared():
    """theta' = theta / c turns a step size r into r c^2: the same losses when r is divided by it."""
    original = linear_regression(4, 16)
    fixed = original.draw(jax.random.key(5))
    original = original._replace(draw=lambda key: fixed, init=lambda problem, key: jnp.ones(4))
    objective, key = reparametrise(original, 0.1, 10.0), jax.random.key(0)
    problem, _ = draw_start(objective, jax.random.fold_in(key, 0))
    assert abs(np.log(problem.scale)) > 0.1
    plain, _ = jax.jit(lambda rate: unroll(training_loop(original, DESCENT, 10), rate, (), key[None], 10))(0.1)
    loop = training_loop(objective, DESCENT, 10)
    scaled, _ = jax.jit(lambda rate: unroll(loop, rate, (), key[None], 10))(0.1 / problem.scale**2)
    np.testing.assert_allclose(plain, scaled, rtol=1e-4)


def test_the_convex_term_adds_the_mean_squared_distance():
    original = quadratic(3)
    objective = add_convex(original, 5)
    problem, (theta, x) = jax.jit(lambda key: draw_start(objective, key))(jax.random.key(0))
    loss, (theta_slope, x_slope) = jax.jit(jax.value_and_grad(objective.loss, 1))(problem, (theta, x), ())
    expected, slope = jax.jit(jax.value_and_grad(original.loss, 1))(problem.problem, theta, ())
    distance = np.asarray(x, np.float64) - np.asarray(problem.centre)
    np.testing.assert_allclose(loss, expected + np.mean(distance**2), rtol=1e-5)
    np.testing.assert_array_equal(theta_slope, slope)
    np.testing.assert_allclose(x_slope, 2 * distance / 5, rtol=1e-5)
    draw = jax.jit(jax.vmap(lambda key: draw_start(objective, key)))
    problems, (_, starts) = draw(jax.random.split(jax.random.key(1), 400))
    for values in (problems.centre, starts):
        assert -1 <= values.min() < -0.99
        assert 0.99 < values.max() < 1
        assert abs(values.mean()) < 5 / (3 * values.size) ** 0.5


def test_a_mixture_is_one_of_its_members_each_as_often():
    members = [quadratic(2), rosenbrock(2), linear_regression(2, 8, batch=3)]
    objective = mixture_of_objectives(members)
    keys = jax.random.split(jax.random.key(0), 900)
    choices = np.bincount(np.asarray(jax.jit(jax.vmap(objective.draw))(keys).choice), minlength=3)
    assert np.abs(choices - 300).max() < 5 * 200**0.5

    def mixed(key):
        problem, params = draw_start(objective, key)
        batch = objective.sample(problem, ((), (), ()), jax.random.key(1))
        return problem, params, batch, *jax.value_and_grad(objective.loss, 1)(problem, params, batch)

    def alone(member, own, key, batch):
        params = member.init(own, key)
        return params, *jax.value_and_grad(member.loss, 1)(own, params, batch)

    mixed, alone, seen = jax.jit(mixed), jax.jit(alone, static_argnums=0), set()
    for key in keys[:8]:
        problem, *got = mixed(key)
        choice = int(problem.choice)
        batch = got.pop(1)[choice]
        expected = alone(members[choice], problem.problems[choice], jax.random.split(key)[1], batch)
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        seen.add(choice)
    assert seen == {0, 1, 2}


def test_augmentations_compose_and_train_under_vmap_and_scan():
    objective = scale_randomly(add_convex(reparametrise(linear_regression(2, 8, batch=3)), 3), 0.5)
    loop = training_loop(mixture_of_objectives([objective, objective]), DESCENT, 5)
    losses, _ = jax.jit(lambda keys: unroll(loop, 1e-6, ((), ()), keys, 5))(jax.random.split(jax.random.key(0), 4))
    assert losses.shape == (4, 5)
    assert np.isfinite(losses).all()
    assert len(np.unique(losses)) == 20


@pytest.mark.parametrize("augment", SCALED)
def test_parameters_keep_their_dtype(augment):
    original = quadratic(3)
    half = original._replace(init=lambda problem, key: jnp.ones(3, jnp.bfloat16))
    _, params = jax.eval_shape(lambda key: draw_start(augment(half), key), jax.random.key(0))
    assert params.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: reparametrise(quadratic(), 0.0), "got low=0.0"),
        (lambda: reparametrise_by_tensor(quadratic(), 2.0, 1.0), "got low=2.0 and high=1.0"),
        (lambda: scale_randomly(quadratic(), -1.0), "spread must be at least 0, got -1.0"),
        (lambda: add_convex(quadratic(), 0), "dimension must be at least 1, got 0"),
        (lambda: mixture_of_objectives([]), "at least one objective"),
        (
            lambda: mixture_of_objectives([quadratic(2), quadratic(3)]).draw(jax.random.key(0)),
            "must have the same parameters.*objective 1",
        ),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_mixture_is_told_that_its_data_are_a_tuple():
    objective = mixture_of_objectives([quadratic(2), quadratic(2)])
    with pytest.raises(ValueError, match="a tuple of 2"):
        objective.sample(objective.draw(jax.random.key(0)), (), jax.random.key(0))
