"""What every loss with a name must do, whoever made it: many classes, any axes, soft labels, weights, dtypes, extremes.

Each loss is loaded inside the compiled program, so these tests also show that `load` works in a trace.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn_models.losses import free_coefficients, load, ml3, names, robust_scale, shipped, taylor_glo

pytestmark = pytest.mark.newer_loops  # a residual of 0 stays 0 whatever it is multiplied with

CLASSIFICATION = [name for name in names() if load(name).link == "softmax"]
REGRESSION = [name for name in names() if load(name).link == "identity"]
SLOW_START = {
    "gce": "the published formula's gradient at p = 1/C is C^q times smaller than that of cross-entropy",
    "probability-mae": "the published formula's gradient at p = 1/C is C/2 times smaller than that of cross-entropy",
    "brier": "the published formula's gradient at p = 1/C is C/2 times smaller than that of cross-entropy",
}
"""Published losses whose gradient with many classes is small, and why; it must still point the right way."""


def measure(name, logits, labels, **parameters):
    """Value and gradient per example, with the loss loaded here."""
    loss = load(name, **parameters)
    values, pull = jax.vjp(lambda z: loss(z, labels), logits)
    return values, pull(jnp.ones_like(values))[0]


def check_nan(values, slopes, rows):
    """NaN in the rows that have one, in the value and in the gradient, and finite numbers in all others."""
    values, slopes = np.asarray(values, np.float64), np.asarray(slopes, np.float64)
    for row, bad in enumerate(np.isnan(np.asarray(rows, np.float64)).any(1)):
        if bad:
            assert np.isnan(values[row]) and np.isnan(slopes[row]).all(), row
        else:
            assert np.isfinite(values[row]) and np.isfinite(slopes[row]).all(), row


# --- classification --------------------------------------------------------------------------------------------------

ROWS = np.array(
    [
        [0.5, -1.0, 2.0],
        [-0.3, 0.2, 0.1],
        [30.0, -30.0, 0.0],
        [-88.0, 88.0, 3.0],
        [1e4, 0.0, -1e4],
        [-1e30, 1e30, 0.0],
        [0.0, 0.0, 0.0],
        [0.1, np.nan, 0.2],
    ],
    np.float32,
)
LABELS = np.array([0, 2, 1, 0, 2, 0, 1, 0], np.int32)


@pytest.mark.parametrize("classes", [2, 10, 100, 1000])
@pytest.mark.parametrize("name", CLASSIFICATION)
def test_a_network_begins_to_learn_with_any_number_of_classes(name, classes):
    """At initialisation, where logits are small: towards the right class, and about as fast as with cross-entropy.

    And being sure of a wrong class costs at least as much as equal probabilities. Otherwise a network that always gives
    one answer is better than one that has not begun.
    """
    logits = np.zeros((6, classes), np.float32)
    logits[:4] = np.random.default_rng(classes).normal(0, 0.3, (4, classes))
    logits[5, 1] = 16 + np.log(classes)
    labels = np.array([0, 1, classes // 2, classes - 1, 0, 0], np.int32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # these numbers of classes are in the range of every loss
        values, slopes = map(np.asarray, jax.jit(measure, static_argnums=0)(name, logits, labels))
    assert np.isfinite(values).all() and np.isfinite(slopes).all()
    assert values[4] <= values[5] + 1e-5, "equal probabilities, and sure of a wrong class"
    slopes, logits, labels = slopes[:4], logits[:4].astype(np.float64), labels[:4]
    assert (np.take_along_axis(slopes, labels[:, None], 1) < 0).all()
    exact = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - np.eye(classes)[labels]
    ratio = np.linalg.norm(slopes, axis=1) / np.linalg.norm(exact, axis=1)
    assert ratio.max() < 10
    if name not in SLOW_START or classes <= 10:
        assert ratio.min() > 0.1, f"{ratio.min():.3g} of the gradient of cross-entropy"


def test_only_published_losses_may_start_slowly():
    assert not set(SLOW_START) & set(shipped()), "a learned loss that is shipped works with 2 to 1,000 classes"
    assert set(CLASSIFICATION) & set(shipped()) and set(REGRESSION) & set(shipped())


@pytest.mark.parametrize("name", [name for name in shipped() if name in CLASSIFICATION])
def test_a_learned_loss_warns_beyond_the_classes_that_it_was_screened_for(name):
    with pytest.warns(UserWarning, match="screened for 2 to 1000 classes, got 1001"):
        jax.eval_shape(load(name), jnp.zeros((2, 1001)), jnp.zeros(2, jnp.int32))


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_axes_labels_weights_dtypes_and_extreme_logits(name):
    @jax.jit
    def program(rows, labels, weights):
        hot = jax.nn.one_hot(labels, 3, dtype=rows.dtype)
        soft = (0.8 * hot + 0.2 / 3)[:3]
        weighted = jax.grad(lambda z: (weights * load(name)(z, soft)).sum())(rows[:3])
        leading = measure(name, rows.reshape(2, 4, 3), hot.reshape(2, 4, 3))
        low = measure(name, rows.astype(jnp.bfloat16), labels)
        return measure(name, rows, labels), leading, low, measure(name, rows[:3], soft), weighted

    weights = np.array([2.0, 0.0, 0.5], np.float32)
    plain, leading, low, soft, weighted = jax.tree.map(np.asarray, program(ROWS, LABELS, weights))
    check_nan(*plain, ROWS)
    np.testing.assert_allclose(leading[0].reshape(-1), plain[0], rtol=1e-6)
    np.testing.assert_allclose(leading[1].reshape(-1, 3), plain[1], rtol=1e-5, atol=1e-7)
    assert (low[0].dtype, low[1].dtype) == (np.float32, jnp.bfloat16)
    check_nan(*low, ROWS)
    np.testing.assert_allclose(low[0][:2], plain[0][:2], rtol=2e-2)
    check_nan(*soft, ROWS[:3])
    np.testing.assert_allclose(weighted, weights[:, None] * soft[1], rtol=1e-5, atol=1e-7)
    with jax.enable_x64(True):
        double = jax.jit(measure, static_argnums=0)(name, ROWS.astype(np.float64), LABELS)
        assert (double[0].dtype, double[1].dtype) == (np.float64, np.float64)
        check_nan(*double, ROWS)
        np.testing.assert_allclose(double[0][:3], plain[0][:3], rtol=1e-4, atol=1e-6)
        assert jax.eval_shape(load(name), ROWS, LABELS).dtype == np.float32


# --- regression ------------------------------------------------------------------------------------------------------

PREDICTIONS = np.array(
    [[0.5, -1.0], [3.0, 0.2], [-0.4, 0.1], [1.0, -2.0], [0.0, 0.3], [1e10, -1e10], [np.nan, 1.0]], np.float32
)
TARGETS = np.array([[0.1, -0.7], [0.2, 1.9], [-1.5, 0.1], [0.9, -1.0], [9.0, 0.8], [0.3, 0.4], [0.5, 0.6]], np.float32)
GOOD = slice(0, 5)


@pytest.mark.parametrize("name", REGRESSION)
def test_axes_weights_dtypes_and_far_predictions_of_regression(name):
    @jax.jit
    def program(f, y, weights):
        weighted = jax.grad(lambda z: (weights * load(name)(z, y[GOOD])).sum())(f[GOOD])
        leading = measure(name, f[None], y[None])
        single = measure(name, f[:, :1], y[:, 0])
        low = measure(name, f.astype(jnp.bfloat16), y)
        return measure(name, f, y), leading, low, single, weighted

    weights = np.array([2.0, 0.0, 0.5, 1.0, 3.0], np.float32)
    plain, leading, low, single, weighted = jax.tree.map(np.asarray, program(PREDICTIONS, TARGETS, weights))
    check_nan(*plain, PREDICTIONS)
    check_nan(*low, PREDICTIONS)
    check_nan(*single, PREDICTIONS[:, :1])
    np.testing.assert_array_equal(leading[0][0], plain[0])
    np.testing.assert_array_equal(leading[1][0], plain[1])
    assert (low[0].dtype, low[1].dtype) == (np.float32, jnp.bfloat16)
    np.testing.assert_allclose(weighted, weights[:, None] * plain[1][GOOD], rtol=1e-5, atol=1e-7)
    residuals = (PREDICTIONS - TARGETS)[GOOD]
    assert (np.sign(plain[1][GOOD]) * np.sign(residuals) >= 0).all()
    with jax.enable_x64(True):
        double = jax.jit(measure, static_argnums=0)(name, PREDICTIONS.astype(np.float64), TARGETS.astype(np.float64))
        assert (double[0].dtype, double[1].dtype) == (np.float64, np.float64)
        check_nan(*double, PREDICTIONS)
        np.testing.assert_allclose(double[0][GOOD], plain[0][GOOD], rtol=1e-4, atol=1e-6)
        assert jax.eval_shape(load(name, scale="batch"), PREDICTIONS, TARGETS).dtype == np.float32


@pytest.mark.parametrize("name", REGRESSION)
def test_a_scale_makes_a_loss_of_regression_independent_of_the_unit_and_of_a_shift(name):
    """`loss(a f + b, a y + b, scale=a s) = a^2 loss(f, y, scale=s)`, with a number and with the scale of the batch.

    The scale of the batch is that of its targets, per output.
    """
    units = np.array([[1.0, 1000.0]], np.float32)
    numbers = [float(scale) for scale in robust_scale(TARGETS[GOOD] * units)]

    @jax.jit
    def program(f, y):
        moved = 100 * f + 7, 100 * y + 7
        pairs = [
            (measure(name, f, y, scale=small), measure(name, *moved, scale=large))
            for small, large in ((0.5, 50.0), ("batch", "batch"))
        ]
        f, y = f * units, y * units
        each = [measure(name, f[:, i : i + 1], y[:, i], scale=numbers[i])[0] for i in range(2)]
        return pairs, measure(name, f, y, scale="batch")[0], each

    pairs, both, each = jax.tree.map(np.asarray, program(PREDICTIONS[GOOD], TARGETS[GOOD]))
    for (values, slopes), (moved_values, moved_slopes) in pairs:
        np.testing.assert_allclose(moved_values, 1e4 * values, rtol=1e-3, atol=1e-1)
        np.testing.assert_allclose(moved_slopes, 1e2 * slopes, rtol=1e-3, atol=1e-2)
        assert np.abs(slopes).max() > 0.01
    np.testing.assert_allclose(both, np.mean(each, 0), rtol=1e-4)


# --- losses with free parameters -------------------------------------------------------------------------------------

LEARNABLE = {
    "free": lambda link: free_coefficients(load("label-noise" if link == "softmax" else "robust-regression")),
    "ml3": ml3,
    "taylor-glo": taylor_glo,
}


@pytest.mark.parametrize("link", ["softmax", "identity"])
@pytest.mark.parametrize("name", LEARNABLE)
def test_losses_with_free_parameters_pass_nan_on_and_take_any_axes(name, link):
    learnable = LEARNABLE[name](link)
    rows, labels = (ROWS, LABELS) if link == "softmax" else (PREDICTIONS, TARGETS)

    @jax.jit
    def program(rows, labels):
        theta = learnable.init(jax.random.key(0))
        values, pull = jax.vjp(lambda z: learnable.apply(theta, z, labels), rows)
        return values, pull(jnp.ones_like(values))[0], learnable.apply(theta, rows[None], labels[None])[0]

    values, slopes, leading = map(np.asarray, program(rows, labels))
    np.testing.assert_array_equal(leading, values)
    far = (
        np.abs(rows).max(1) > 1e9 if name == "taylor-glo" else np.zeros(len(rows), bool)
    )  # a polynomial of third order
    check_nan(values[~far], slopes[~far], rows[~far])
