import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn_models.losses import load
from metalearn_models.losses.handmade import HANDMADE

CLASSIFICATION = [name for name, make in HANDMADE.items() if make().link == "softmax"]
REGRESSION = [name for name, make in HANDMADE.items() if make().link == "identity"]
LOGITS = jnp.asarray(3 * np.random.default_rng(1).normal(size=(8, 6)), jnp.float32)
LABELS = jnp.asarray(np.arange(8) % 6, jnp.int32)
PROBABILITIES = np.exp(np.float64(LOGITS)) / np.exp(np.float64(LOGITS)).sum(-1, keepdims=True)
P = np.take_along_axis(PROBABILITIES, np.asarray(LABELS)[:, None], 1)[:, 0]
R = np.linspace(-5, 5, 41)


def slope_of(loss):
    return jax.jit(loss.cotangent)


def value_of(loss, outputs, labels):
    return np.asarray(jax.jit(loss)(outputs, labels))


def of_residuals(name, **parameters):
    y = np.full((41, 1), 0.7, np.float32)
    return value_of(load(name, **parameters), jnp.asarray(np.float32(R)[:, None] + y), jnp.asarray(y))


@pytest.mark.parametrize(
    ("name", "parameters", "of_p"),
    [
        ("cross-entropy", {}, lambda p: -np.log(p)),
        ("focal", {"gamma": 2.0}, lambda p: -((1 - p) ** 2) * np.log(p)),
        ("focal", {"gamma": 0.5}, lambda p: -((1 - p) ** 0.5) * np.log(p)),
        ("focal", {"gamma": 0.0}, lambda p: -np.log(p)),
        ("poly-1", {"epsilon": 2.0}, lambda p: -np.log(p) + 2 * (1 - p)),
        ("gce", {"q": 0.7}, lambda p: (1 - p**0.7) / 0.7),
        ("gce", {"q": 1.0}, lambda p: 1 - p),
        ("gce", {"q": 1e-4}, lambda p: -np.log(p) + 0.5e-4 * np.log(p) ** 2 * -1),
        ("probability-mae", {}, lambda p: 2 * (1 - p)),
        (
            "sparse-lsr",
            {"smoothing": 0.1},
            lambda p: -(0.9 + 0.1 / 6) * np.log(p) - 0.1 * 5 / 6 * np.log((1 - p) / 5),
        ),
    ],
)
def test_target_only_losses_are_their_formulas(name, parameters, of_p):
    np.testing.assert_allclose(value_of(load(name, **parameters), LOGITS, LABELS), of_p(P), rtol=2e-5, atol=1e-6)


def test_bootstrapping_is_cross_entropy_with_the_mixed_target():
    logits = np.asarray(LOGITS, np.float64)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    mixed = 0.7 * np.eye(p.shape[-1])[np.asarray(LABELS)] + 0.3 * p
    exact = -(mixed * np.log(p)).sum(-1)
    np.testing.assert_allclose(value_of(load("bootstrapping", beta=0.7), LOGITS, LABELS), exact, rtol=2e-5, atol=1e-6)


def test_against_optax():
    hot = jnp.asarray(np.eye(6, dtype=np.float32)[np.asarray(LABELS)])
    np.testing.assert_allclose(
        value_of(load("cross-entropy"), LOGITS, LABELS),
        value_of(optax.softmax_cross_entropy_with_integer_labels, LOGITS, LABELS),
        rtol=1e-5,
        atol=1e-6,
    )
    np.testing.assert_allclose(
        value_of(load("label-smoothing", smoothing=0.2), LOGITS, LABELS),
        value_of(lambda z, y: optax.softmax_cross_entropy(z, optax.smooth_labels(y, 0.2)), LOGITS, hot),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        value_of(load("poly-1", epsilon=2.0), LOGITS, LABELS),
        value_of(lambda z, y: optax.losses.poly_loss_cross_entropy(z, y, epsilon=2.0), LOGITS, hot),
        rtol=1e-5,
        atol=1e-6,
    )
    f, y = jnp.asarray(np.random.default_rng(2).normal(0, 2, (2, 9, 3)), jnp.float32)
    huber = value_of(lambda f, y: optax.huber_loss(f, y, delta=0.8).mean(-1), f, y)
    np.testing.assert_allclose(value_of(load("huber", delta=0.8), f, y), huber, rtol=1e-5)
    squares = value_of(lambda f, y: optax.squared_error(f, y).mean(-1), f, y)
    np.testing.assert_allclose(value_of(load("mse"), f, y), squares, rtol=1e-5)


def test_focal_of_two_classes_is_optaxs_sigmoid_focal():
    z, labels = np.linspace(-6, 6, 25, dtype=np.float32), np.arange(25) % 2
    two = jnp.asarray(np.stack([np.zeros(25, np.float32), z], -1))
    with jax.numpy_dtype_promotion("standard"):
        focal = lambda z, y: optax.sigmoid_focal_loss(z, y, gamma=2.0)  # noqa: E731
        want = value_of(focal, jnp.asarray(z), jnp.asarray(labels, jnp.float32))
    found = value_of(load("focal", gamma=2.0), two, jnp.asarray(labels, jnp.int32))
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-6)


def test_cross_entropy_is_the_series_in_one_minus_p_and_poly_changes_its_first_coefficient():
    logits = jnp.array([[1.5, 0.0, 0.2], [0.4, 0.0, 0.2]])
    labels, raised = jnp.zeros(2, jnp.int32), np.exp(np.float64(logits))
    q = 1 - raised[:, 0] / raised.sum(1)
    series = sum(q**j / j for j in range(1, 200))
    np.testing.assert_allclose(value_of(load("cross-entropy"), logits, labels), series, rtol=1e-5)
    np.testing.assert_allclose(value_of(load("poly-1", epsilon=0.5), logits, labels), series + 0.5 * q, rtol=1e-5)


def test_gce_lies_between_cross_entropy_and_half_the_mae():
    np.testing.assert_allclose(
        value_of(load("gce", q=1.0), LOGITS, LABELS) * 2, value_of(load("probability-mae"), LOGITS, LABELS), rtol=1e-5
    )
    np.testing.assert_allclose(
        value_of(load("gce", q=1e-5), LOGITS, LABELS), value_of(load("cross-entropy"), LOGITS, LABELS), rtol=1e-3
    )


@pytest.mark.parametrize("p", [0.9, 0.99, 0.3])
def test_sparse_lsr_is_label_smoothing_where_the_others_share_evenly(p):
    logits, first = jnp.asarray(np.log([[p] + [(1 - p) / 9] * 9]), jnp.float32), jnp.array([0])
    sparse, full = load("sparse-lsr", smoothing=0.1), load("label-smoothing", smoothing=0.1)
    value, slope = value_of(sparse, logits, first), np.asarray(slope_of(sparse)(logits, first))
    np.testing.assert_allclose(value, value_of(full, logits, first), rtol=1e-5)
    np.testing.assert_allclose(slope, slope_of(full)(logits, first), atol=1e-5)
    if p == 0.9:
        np.testing.assert_allclose(value, [0.5009], atol=5e-5)
    if p == 0.99:  # beyond 1 - s + s/C = 0.91 the target's probability is pushed down
        assert slope[0, 0] > 0.05


def test_sparse_lsr_is_exact_where_p_rounds_to_one():
    logits = jnp.array([[40.0, 0.0, 0.0]])
    want = -(0.9 + 0.1 / 3) * -2 * np.exp(-40) - 0.2 / 3 * (-40 + np.log(2) - np.log(2))
    np.testing.assert_allclose(value_of(load("sparse-lsr"), logits, jnp.array([0])), [want], rtol=1e-5)


def test_brier_is_the_squared_distance():
    expected = ((np.eye(6)[np.asarray(LABELS)] - PROBABILITIES) ** 2).sum(-1)
    np.testing.assert_allclose(value_of(load("brier"), LOGITS, LABELS), expected, rtol=1e-5)


def test_regression_losses_are_their_formulas():
    np.testing.assert_allclose(of_residuals("mse"), R**2, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(of_residuals("mae"), np.abs(R), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(of_residuals("cauchy", scale=2.0), 2 * np.log(1 + (R / 2) ** 2), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        of_residuals("welsch", scale=2.0), 2 * (1 - np.exp(-((R / 2) ** 2))), rtol=1e-4, atol=1e-6
    )
    for name in ("huber", "cauchy", "welsch"):  # all are r^2 / 2 near zero
        small = value_of(load(name), jnp.array([[1e-2]]), jnp.zeros((1, 1)))
        np.testing.assert_allclose(small, [0.5e-4], rtol=1e-3)


@pytest.mark.parametrize("name", HANDMADE)
def test_gradients_against_finite_differences(name):
    loss = load(name)
    if loss.link == "softmax":
        logits, labels = np.asarray(LOGITS)[:3], np.asarray(LABELS)[:3]
    else:
        logits, labels = np.float32([[0.3, -2.0], [1.4, 0.6]]), np.float32([[0.1, 1.0], [-3.0, 0.2]])
    slope = np.asarray(slope_of(loss)(jnp.asarray(logits), jnp.asarray(labels)))
    h = 2e-2
    # All the differences at once; float32, as the loss computes in.
    steps = (np.eye(logits.size).reshape(-1, 1, *logits.shape) * np.array([h, -h]).reshape(1, 2, 1, 1)).astype(
        np.float32
    )
    moved = jax.jit(jax.vmap(jax.vmap(loss, (0, None)), (0, None)))(jnp.asarray(logits + steps), jnp.asarray(labels))
    moved = np.asarray(moved, np.float64).sum(-1)
    for n, i in enumerate(np.ndindex(*logits.shape)):
        difference = (moved[n, 0] - moved[n, 1]) / (2 * h)
        np.testing.assert_allclose(slope[i], difference, rtol=5e-3, atol=2e-4)


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_certain_predictions_have_finite_gradients(name):
    logits = jnp.array([[1000.0, 0.0, -1000.0], [0.0, 0.0, 0.0], [30.0, 1.0, 2.0]])
    masked = jnp.array([[0.0, -jnp.inf, 1.0]])
    assert np.isfinite(slope_of(load(name))(masked, jnp.array([0]))).all()
    parameters = [{"gamma": g} for g in (0.0, 0.5, 2.0)] if name == "focal" else [{}]
    for labels in (jnp.array([0, 0, 0]), jnp.array([2, 1, 2])):
        for chosen in parameters:
            loss = load(name, **chosen)
            assert np.isfinite(value_of(loss, logits, labels)).all()
            assert np.isfinite(slope_of(loss)(logits, labels)).all()


@pytest.mark.parametrize("name", REGRESSION)
def test_far_predictions_have_finite_gradients(name):
    f, y = jnp.array([[1e4, 0.0, 1e10]]), jnp.array([[-1e4, 0.0, 0.0]])
    assert np.isfinite(value_of(load(name), f, y)).all()
    assert np.isfinite(slope_of(load(name))(f, y)).all()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gce", {"q": 0.0}),
        ("gce", {"q": 1.5}),
        ("focal", {"gamma": -1.0}),
        ("bootstrapping", {"beta": 1.1}),
        ("label-smoothing", {"smoothing": 1.1}),
        ("huber", {"delta": 0.0}),
        ("welsch", {"scale": float("nan")}),
    ],
)
def test_parameters_out_of_range_are_refused(name, parameters):
    with pytest.raises(ValueError, match="must lie in"):
        load(name, **parameters)
