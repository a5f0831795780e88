import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalearn.inner import unroll
from metalearn_models.optimizers import LearnedOptimizer
from metalearn_tasks.objectives.nqm import NoisyQuadratic, noisy_quadratic, noisy_quadratic_loss
from metalearn_tasks.objectives.nqm_theory import (
    expected_losses,
    inverse_root,
    spectral_radius,
    stable_bounds,
    stable_bounds_multiplied,
    stable_bounds_preconditioned,
    transition,
)
from metalearn_tasks.objectives.objective import draw_start
from metalearn_tasks.objectives.training import training_loop

ONE = 1 + 1e-7  # eigenvalues of a nonsymmetric matrix, rounded

cases = given(
    seed=st.integers(0, 2**32 - 1), dimension=st.integers(1, 6), part=st.floats(0, 1), excess=st.floats(1e-3, 2)
)


def orthogonal(rng, dimension):
    return np.linalg.qr(rng.normal(size=(dimension, dimension)))[0]


def symmetric(vectors, values):
    return vectors * values @ vectors.T


def hessian_of(rng, dimension):
    """A positive definite matrix, its eigenvectors and its eigenvalues, smallest first."""
    values = np.sort(10.0 ** rng.uniform(-2, 1, dimension))
    vectors = orthogonal(rng, dimension)
    return symmetric(vectors, values), vectors, values


def within(rng, bounds, dimension):
    """Numbers between the bounds, which are among them."""
    values = rng.uniform(*bounds, dimension)
    values[rng.integers(dimension)] = bounds.high
    values[rng.integers(dimension)] = bounds.low
    return values


@cases
@settings(max_examples=200, deadline=None)
def test_within_the_bounds_of_theorem_1_every_symmetric_matrix_is_stable(seed, dimension, part, excess):
    rng = np.random.default_rng(seed)
    h, _, values = hessian_of(rng, dimension)
    alpha = 2 * part / values[-1]
    bounds = stable_bounds(h, alpha)
    np.testing.assert_allclose(bounds, [-alpha, 2 / values[-1] - alpha], rtol=1e-9, atol=1e-9)
    p = symmetric(orthogonal(rng, dimension), within(rng, bounds, dimension))
    assert spectral_radius(transition(h, alpha, p)) <= ONE
    del excess


@cases
@settings(max_examples=200, deadline=None)
def test_below_the_lower_bound_every_symmetric_matrix_diverges(seed, dimension, part, excess):
    rng = np.random.default_rng(seed)
    h, _, values = hessian_of(rng, dimension)
    alpha = 2 * part / values[-1]
    p_values = within(rng, stable_bounds(h, alpha), dimension)
    p_values[0] = -alpha - excess
    p = symmetric(orthogonal(rng, dimension), p_values)
    assert not stable_bounds(h, alpha).hold(p)
    assert spectral_radius(transition(h, alpha, p)) > 1 + 1e-9


@cases
@settings(max_examples=200, deadline=None)
def test_just_outside_either_bound_commuting_matrices_diverge(seed, dimension, part, excess):
    rng = np.random.default_rng(seed)
    h, vectors, values = hessian_of(rng, dimension)
    alpha = 2 * part / values[-1]
    bounds = stable_bounds(h, alpha)
    for end, outside in ((-1, bounds.high + excess), (rng.integers(dimension), bounds.low - excess)):
        p_values = rng.uniform(*bounds, dimension)
        p_values[end] = outside
        p = symmetric(vectors, p_values)
        np.testing.assert_allclose(p @ h, h @ p, atol=1e-9)
        np.testing.assert_allclose(spectral_radius(transition(h, alpha, p)), 1 + excess * values[end], rtol=1e-6)


@cases
@settings(max_examples=200, deadline=None)
def test_for_commuting_matrices_the_products_of_paired_eigenvalues_decide(seed, dimension, part, excess):
    rng = np.random.default_rng(seed)
    h, vectors, values = hessian_of(rng, dimension)
    alpha = 2 * part / values[-1]
    products = rng.uniform(-0.2, 2.2, dimension)
    p = symmetric(vectors, products / values - alpha)
    radius = spectral_radius(transition(h, alpha, p))
    np.testing.assert_allclose(radius, np.abs(1 - products).max(), rtol=1e-6)
    del excess


def test_the_upper_bound_is_not_necessary_where_eigenvectors_pair_otherwise():
    h, p = np.diag([1.0, 0.1]), np.diag([0.0, 10.0])
    assert not stable_bounds(h, 0.0).hold(p)
    assert spectral_radius(transition(h, 0.0, p)) == 1
    assert spectral_radius(transition(h, 0.0, np.diag([10.0, 0.0]))) == 9


@cases
@settings(max_examples=200, deadline=None)
def test_lemma_2_is_theorem_1_for_the_root_of_the_hessian(seed, dimension, part, excess):
    rng = np.random.default_rng(seed)
    h, vectors, values = hessian_of(rng, dimension)
    alpha = 2 * part / values[-1] ** 0.5
    bounds = stable_bounds_preconditioned(h, alpha)
    root = inverse_root(h)
    np.testing.assert_allclose(root @ root @ h, np.eye(dimension), atol=1e-8)
    assert (bounds.high > stable_bounds(h, alpha).high) == (values[-1] > 1)

    def radius(p):
        # The update phi - (alpha I + P) H^-1/2 gradient, written as another P of Theorem 1's transition.
        return spectral_radius(transition(h, 0.0, (alpha * np.eye(dimension) + p) @ root))

    p = symmetric(orthogonal(rng, dimension), within(rng, bounds, dimension))
    assert radius(p) <= ONE
    p_values = rng.uniform(*bounds, dimension)
    p_values[-1] = bounds.high + excess
    np.testing.assert_allclose(radius(symmetric(vectors, p_values)), 1 + excess * values[-1] ** 0.5, rtol=1e-6)


@cases
@settings(max_examples=200, deadline=None)
def test_lemma_3_bounds_withstand_errors_that_keep_symmetry_or_share_eigenvectors_and_are_tight(
    seed, dimension, part, excess
):
    rng = np.random.default_rng(seed)
    h, vectors, values = hessian_of(rng, dimension)
    alpha, factors = 1.999 * part / values[-1], 10.0 ** rng.uniform(-1, 1, dimension)
    bounds = stable_bounds_multiplied(h, alpha, factors.max())
    p = symmetric(orthogonal(rng, dimension), within(rng, bounds, dimension))
    root = symmetric(orthogonal(rng, dimension), factors**0.5)
    assert spectral_radius(transition(h, alpha, root @ p @ root)) <= ONE
    assert spectral_radius(transition(h, alpha, symmetric(vectors, factors) @ p)) <= ONE
    factors[-1] = factors.max()
    p_values = rng.uniform(*bounds, dimension)
    p_values[-1] = bounds.high + excess
    radius = spectral_radius(transition(h, alpha, symmetric(vectors, factors * p_values)))
    np.testing.assert_allclose(radius, 1 + excess * factors[-1] * values[-1], rtol=1e-6)


def test_lemma_3_bounds_do_not_withstand_a_product_that_commutes_with_nothing():
    def rotation(angle):
        return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    h = symmetric(rotation(2.1), np.array([1.0, 0.01]))
    bounds = stable_bounds_multiplied(h, 0.0, 1.0)
    p = symmetric(rotation(2.6), np.array([bounds.low + 0.01, bounds.high - 0.01]))
    assert bounds.hold(p)
    assert spectral_radius(transition(h, 0.0, np.diag([1.0, 0.01]) @ p)) > 1.2


@pytest.mark.parametrize("preconditioner", ["none", "symmetric", "any"])
def test_expected_losses_are_the_average_of_training_runs(preconditioner):
    objective = noisy_quadratic(3, condition=5.0, noise=0.7)
    problem, phi = jax.jit(lambda key: draw_start(objective, key))(jax.random.key(0))
    p = {
        "none": jnp.zeros((3, 3)),
        "symmetric": 0.2 * jnp.ones((3, 3)),
        "any": 0.3 * jax.random.normal(jax.random.key(5), (3, 3)),
    }[preconditioner]
    alpha, runs, length = 0.4, 20_000, 8

    def update(updates, state, params=None, **extra):
        return -(alpha * updates + p @ updates), state

    optimizer = LearnedOptimizer(
        lambda key: (),
        lambda theta, num_steps=None: optax.GradientTransformationExtraArgs(lambda params: (), update),
    )
    fixed = objective._replace(draw=lambda key: problem)
    keys = jax.random.split(jax.random.key(1), runs)
    losses, _ = jax.jit(lambda k: unroll(training_loop(fixed, optimizer, length), (), (), k, length))(keys)
    a = jnp.asarray(transition(problem.hessian, alpha, p), jnp.float32)
    expected = expected_losses(problem, a, jnp.zeros(3), jnp.eye(3), length)
    assert (jnp.abs(losses.mean(0) - expected) < 5 * losses.std(0) / runs**0.5).all()

    given_start = fixed._replace(init=lambda problem, key: phi)
    losses, _ = jax.jit(lambda k: unroll(training_loop(given_start, optimizer, length), (), (), k, length))(keys)
    expected = expected_losses(problem, a, phi, jnp.zeros((3, 3)), length)
    assert (jnp.abs(losses.mean(0) - expected) < 5 * losses.std(0) / runs**0.5).all()


def test_expected_losses_grow_without_end_exactly_outside_the_bounds():
    problem = NoisyQuadratic(jnp.diag(jnp.array([1.0, 0.1])), 0.1 * jnp.eye(2))
    for p, grows in ((1.55, True), (1.45, False)):
        a = jnp.asarray(transition(problem.hessian, 0.5, p * np.eye(2)), jnp.float32)
        assert (spectral_radius(a) > 1) == grows
        losses = expected_losses(problem, a, jnp.ones(2), jnp.zeros((2, 2)), 200)
        assert (losses[-1] > 1e3 * losses[0]) == grows
        assert (losses[-1] < losses[0]) != grows


def test_problems_have_the_stated_spectrum_and_noise():
    objective = noisy_quadratic(4, condition=50.0, noise=0.3)
    problems = jax.jit(jax.vmap(objective.draw))(jax.random.split(jax.random.key(0), 400))
    np.testing.assert_array_equal(problems.hessian, jnp.swapaxes(problems.hessian, 1, 2))
    values = np.linalg.eigvalsh(np.asarray(problems.hessian, np.float64))
    assert values.min() > 0.0199
    assert values.max() < 1.0001
    logs = np.log(values) / np.log(50.0)  # uniform in [-1, 0]
    assert abs(logs.mean() + 0.5) < 5 / (12 * logs.size) ** 0.5
    assert abs(logs.std() - 12**-0.5) < 0.02
    assert len(np.unique(values)) == values.size
    problem = jax.tree.map(lambda x: x[0], problems)
    xi = jax.jit(jax.vmap(lambda k: objective.sample(problem, (), k)))(jax.random.split(jax.random.key(1), 20_000))
    sigma = np.asarray(problem.factor @ problem.factor.T)
    assert np.abs(np.cov(np.asarray(xi).T) - sigma).max() < 5 * 2**0.5 * sigma.max() / 20_000**0.5
    trace = (problems.factor**2).sum((1, 2)) / 4
    assert abs(trace.mean() - 0.09) < 5 * trace.std() / 20


def test_loss_and_gradient_are_those_of_the_formula():
    objective = noisy_quadratic(3)
    problem, phi = draw_start(objective, jax.random.key(0))
    xi = objective.sample(problem, (), jax.random.key(1))
    h, rest = np.asarray(problem.hessian, np.float64), np.asarray(phi, np.float64) - np.asarray(xi, np.float64)
    loss, gradient = jax.value_and_grad(noisy_quadratic_loss, 1)(problem, phi, xi)
    np.testing.assert_allclose(loss, 0.5 * rest @ h @ rest, rtol=1e-5)
    np.testing.assert_allclose(gradient, h @ rest, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: noisy_quadratic(0), "dimension must be at least 1, got 0"),
        (lambda: noisy_quadratic(3, condition=0.5), "condition must be at least 1, got 0.5"),
        (lambda: noisy_quadratic(3, noise=-1.0), "noise must be at least 0, got -1.0"),
        (lambda: stable_bounds(np.array([[1.0, 2.0], [0.0, 1.0]]), 0.1), "symmetric"),
        (lambda: stable_bounds(np.diag([1.0, -1.0]), 0.1), "positive definite"),
        (lambda: stable_bounds_multiplied(np.eye(2), 2.5, 1.0), r"between 0 and .* got 2.5"),
        (lambda: stable_bounds_multiplied(np.eye(2), 0.5, 0.0), "largest must be positive, got 0.0"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
