import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn_models.losses.formulas import parse
from metalearn_models.losses.ml3 import ml3
from metalearn_models.losses.parametric import LearnableLoss, free_coefficients, fresh_coefficients
from metalearn_models.losses.symbolic_loss import SymbolicLoss
from metalearn_models.losses.taylor_glo import SQUARED_ERROR, taylor_glo

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(7, 3))
LABELS = RNG.integers(3, size=7)
VALUES, TARGETS = RNG.normal(size=(7, 1)), RNG.normal(size=7)


def _inputs(link):
    """y and f of every output in float64, and what the loss is given."""
    if link == "identity":
        return TARGETS[:, None], VALUES, jnp.asarray(VALUES, jnp.float32), jnp.asarray(TARGETS, jnp.float32)
    f = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    return np.eye(3)[LABELS], f, jnp.asarray(LOGITS, jnp.float32), jnp.asarray(LABELS, jnp.int32)


def test_free_coefficients_are_the_formula_with_theta_on_its_edges():
    learnable = free_coefficients(SymbolicLoss(parse("mul(y, log(f))")))
    c = np.array([-0.7, 1.3, 0.9])  # of y, of log, of f inside it
    y, f, logits, labels = _inputs("softmax")
    expected = (c[0] * y * c[1] * np.log(c[2] * f)).sum(1)
    np.testing.assert_allclose(learnable.apply(jnp.asarray(c, jnp.float32), logits, labels), expected, rtol=1e-5)


def test_free_coefficients_begin_at_the_coefficients_of_the_loss():
    learnable = free_coefficients(SymbolicLoss(parse("square(sub(y, f))"), (0.5, 2.0, 3.0), "identity"))
    for seed in range(2):
        theta = learnable.init(jax.random.key(seed))
        np.testing.assert_array_equal(theta, np.array([0.5, 2.0, 3.0], np.float32))
    assert theta.dtype == jnp.float32


def test_fresh_coefficients_are_normal_around_1_with_deviation_a_thousandth():
    learnable = fresh_coefficients(SymbolicLoss(parse("square(sub(y, f))"), (0.5, 2.0, 3.0), "identity"))
    theta = jax.vmap(learnable.init)(jax.random.split(jax.random.key(0), 4000))
    np.testing.assert_allclose(theta.mean(0), 1, atol=5e-5)
    np.testing.assert_allclose(theta.std(0), 1e-3, rtol=0.05)
    y, f, values, targets = _inputs("identity")
    np.testing.assert_allclose(learnable.apply(jnp.ones(3), values, targets), ((y - f) ** 2)[:, 0], rtol=1e-4)


@pytest.mark.parametrize("link", ["softmax", "identity"])
def test_ml3_is_the_network_written_out_in_numpy(link):
    learnable = ml3(link)
    theta = learnable.init(jax.random.key(0))
    assert [w.shape for w in theta] == [(2, 50), (50, 50), (50, 1)]
    y, f, logits, labels = _inputs(link)
    w1, w2, w3 = (np.asarray(w, np.float64) for w in theta)
    expected = np.zeros(len(y))
    for i in range(len(y)):
        for c in range(y.shape[1]):
            hidden = np.maximum(np.array([y[i, c], f[i, c]]) @ w1, 0)
            expected[i] += np.log1p(np.exp((np.maximum(hidden @ w2, 0) @ w3)[0]))
    np.testing.assert_allclose(learnable.apply(theta, logits, labels), expected, rtol=1e-5)


def test_the_weights_of_ml3_are_kaiming_normal():
    theta = ml3(hidden=(3000, 50)).init(jax.random.key(0))
    for weight in theta[:2]:
        np.testing.assert_allclose(weight.std(), (2 / weight.shape[0]) ** 0.5, rtol=0.03)


@pytest.mark.parametrize("link", ["softmax", "identity"])
def test_taylor_glo_is_the_polynomial_written_out_in_numpy(link):
    t = np.random.default_rng(3).normal(size=8)
    y, f, logits, labels = _inputs(link)
    expected = np.zeros(len(y))
    for i in range(len(y)):
        for c in range(y.shape[1]):
            a, b = y[i, c] - t[0], f[i, c] - t[1]
            value = t[2] * b + t[3] * b**2 / 2 + t[4] * b**3 / 6 + t[5] * a * b + t[6] * a * b**2 / 2
            expected[i] -= value + t[7] * a**2 * b / 2
    got = taylor_glo(link).apply(jnp.asarray(t, jnp.float32), logits, labels)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_taylor_glo_begins_at_the_squared_error():
    learnable = taylor_glo("identity")
    assert np.abs(learnable.init(jax.random.key(0)) - np.array(SQUARED_ERROR)).max() < 5e-3
    y, f, values, targets = _inputs("identity")
    gradient = jax.grad(lambda v: learnable.apply(jnp.array(SQUARED_ERROR), v, targets).sum())(values)
    np.testing.assert_allclose(gradient, 2 * (f - y), rtol=1e-5)


@pytest.mark.parametrize(
    "learnable",
    [free_coefficients(SymbolicLoss(parse("mul(y, log(f))"))), ml3(), taylor_glo()],
    ids=["symbolic", "ml3", "taylor"],
)
def test_the_cotangents_gradient_with_respect_to_theta_agrees_with_finite_differences(learnable: LearnableLoss):
    """What one inner step differentiates: d / d theta of a projection of d loss / d logits."""
    _, _, logits, labels = _inputs("softmax")
    along = jnp.asarray(np.random.default_rng(1).normal(size=logits.shape), jnp.float32)

    def projected(theta):
        return jnp.vdot(jax.grad(lambda z: learnable.apply(theta, z, labels).sum())(logits), along)

    theta = learnable.init(jax.random.key(0))
    leaves, tree = jax.tree.flatten(theta)
    direction = jax.tree.unflatten(
        tree,
        [
            jax.random.normal(k, a.shape)
            for k, a in zip(jax.random.split(jax.random.key(1), len(leaves)), leaves, strict=True)
        ],
    )
    h = 1e-3
    there, here = (projected(jax.tree.map(lambda a, d, s=s: a + s * h * d, theta, direction)) for s in (1, -1))
    slope = sum(
        jnp.vdot(g, d)
        for g, d in zip(jax.tree.leaves(jax.grad(projected)(theta)), jax.tree.leaves(direction), strict=True)
    )
    np.testing.assert_allclose(slope, (there - here) / (2 * h), rtol=0.02, atol=2e-3)


@pytest.mark.unchecked_types
def test_what_cannot_be_built_is_refused():
    with pytest.raises(ValueError, match=r"unknown link 'soft'.*'softmax'"):
        ml3("soft")
    with pytest.raises(ValueError, match=r"unknown link 'linear'.*identity"):
        taylor_glo("linear")
    with pytest.raises(ValueError, match=r"hidden must be widths of at least one unit, got \(0,\)"):
        ml3(hidden=(0,))
