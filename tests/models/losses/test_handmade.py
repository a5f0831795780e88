import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn_models.losses import load
from metalearn_models.losses.handmade import HANDMADE

KEY = jax.random.key(1)
CLASSIFICATION = [name for name, make in HANDMADE.items() if make().link == "softmax"]
REGRESSION = [name for name, make in HANDMADE.items() if make().link == "identity"]
LOGITS = 3 * jax.random.normal(KEY, (8, 6))
LABELS = jnp.arange(8) % 6
P = np.take_along_axis(np.asarray(jax.nn.softmax(LOGITS), np.float64), np.asarray(LABELS)[:, None], 1)[:, 0]
R = np.linspace(-5, 5, 41)


def slope_of(loss):
    return jax.jit(loss.cotangent)


def of_residuals(name, **parameters):
    y = jnp.full((41, 1), 0.7)
    return np.asarray(load(name, **parameters)(jnp.asarray(R, jnp.float32)[:, None] + y, y))


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
    np.testing.assert_allclose(load(name, **parameters)(LOGITS, LABELS), of_p(P), rtol=2e-5, atol=1e-6)


def test_bootstrapping_is_cross_entropy_with_the_mixed_target():
    logits = np.asarray(LOGITS, np.float64)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    mixed = 0.7 * np.eye(p.shape[-1])[np.asarray(LABELS)] + 0.3 * p
    exact = -(mixed * np.log(p)).sum(-1)
    np.testing.assert_allclose(load("bootstrapping", beta=0.7)(LOGITS, LABELS), exact, rtol=2e-5, atol=1e-6)


def test_against_optax():
    hot = jax.nn.one_hot(LABELS, 6)
    np.testing.assert_allclose(
        load("cross-entropy")(LOGITS, LABELS),
        optax.softmax_cross_entropy_with_integer_labels(LOGITS, LABELS),
        rtol=1e-5,
        atol=1e-6,
    )
    np.testing.assert_allclose(
        load("label-smoothing", smoothing=0.2)(LOGITS, LABELS),
        optax.softmax_cross_entropy(LOGITS, optax.smooth_labels(hot, 0.2)),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        load("poly-1", epsilon=2.0)(LOGITS, LABELS),
        optax.losses.poly_loss_cross_entropy(LOGITS, hot, epsilon=2.0),
        rtol=1e-5,
        atol=1e-6,
    )
    f, y = jax.random.normal(KEY, (2, 9, 3)) * 2
    np.testing.assert_allclose(load("huber", delta=0.8)(f, y), optax.huber_loss(f, y, delta=0.8).mean(-1), rtol=1e-5)
    np.testing.assert_allclose(load("mse")(f, y), optax.squared_error(f, y).mean(-1), rtol=1e-5)


def test_focal_of_two_classes_is_optaxs_sigmoid_focal():
    z = jnp.linspace(-6, 6, 25)
    labels = jnp.arange(25) % 2
    two = jnp.stack([jnp.zeros(25), z], -1)
    with jax.numpy_dtype_promotion("standard"):
        want = optax.sigmoid_focal_loss(z, labels.astype(jnp.float32), gamma=2.0)
    np.testing.assert_allclose(load("focal", gamma=2.0)(two, labels), want, rtol=1e-4, atol=1e-6)


def test_cross_entropy_is_the_series_in_one_minus_p_and_poly_changes_its_first_coefficient():
    logits = jnp.array([[1.5, 0.0, 0.2], [0.4, 0.0, 0.2]])
    labels = jnp.zeros(2, jnp.int32)
    q = 1 - np.asarray(jax.nn.softmax(logits), np.float64)[:, 0]
    series = sum(q**j / j for j in range(1, 200))
    np.testing.assert_allclose(load("cross-entropy")(logits, labels), series, rtol=1e-5)
    np.testing.assert_allclose(load("poly-1", epsilon=0.5)(logits, labels), series + 0.5 * q, rtol=1e-5)


def test_gce_lies_between_cross_entropy_and_half_the_mae():
    np.testing.assert_allclose(
        load("gce", q=1.0)(LOGITS, LABELS) * 2, load("probability-mae")(LOGITS, LABELS), rtol=1e-5
    )
    np.testing.assert_allclose(load("gce", q=1e-5)(LOGITS, LABELS), load("cross-entropy")(LOGITS, LABELS), rtol=1e-3)


@pytest.mark.parametrize("p", [0.9, 0.99, 0.3])
def test_sparse_lsr_is_label_smoothing_where_the_others_share_evenly(p):
    logits = jnp.log(jnp.array([[p] + [(1 - p) / 9] * 9]))
    sparse, full = load("sparse-lsr", smoothing=0.1), load("label-smoothing", smoothing=0.1)
    np.testing.assert_allclose(sparse(logits, jnp.array([0])), full(logits, jnp.array([0])), rtol=1e-5)
    np.testing.assert_allclose(
        slope_of(sparse)(logits, jnp.array([0])), slope_of(full)(logits, jnp.array([0])), atol=1e-5
    )
    if p == 0.9:
        np.testing.assert_allclose(sparse(logits, jnp.array([0])), [0.5009], atol=5e-5)
    if p == 0.99:  # beyond 1 - s + s/C = 0.91 the target's probability is pushed down
        assert slope_of(sparse)(logits, jnp.array([0]))[0, 0] > 0.05


def test_sparse_lsr_is_exact_where_p_rounds_to_one():
    logits = jnp.array([[40.0, 0.0, 0.0]])
    want = -(0.9 + 0.1 / 3) * -2 * np.exp(-40) - 0.2 / 3 * (-40 + np.log(2) - np.log(2))
    np.testing.assert_allclose(load("sparse-lsr")(logits, jnp.array([0])), [want], rtol=1e-5)


def test_brier_is_the_squared_distance():
    p = np.asarray(jax.nn.softmax(LOGITS))
    np.testing.assert_allclose(load("brier")(LOGITS, LABELS), ((np.eye(6)[LABELS] - p) ** 2).sum(-1), rtol=1e-5)


def test_regression_losses_are_their_formulas():
    np.testing.assert_allclose(of_residuals("mse"), R**2, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(of_residuals("mae"), np.abs(R), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(of_residuals("cauchy", scale=2.0), 2 * np.log(1 + (R / 2) ** 2), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        of_residuals("welsch", scale=2.0), 2 * (1 - np.exp(-((R / 2) ** 2))), rtol=1e-4, atol=1e-6
    )
    for name in ("huber", "cauchy", "welsch"):  # all are r^2 / 2 near zero
        small = load(name)(jnp.array([[1e-2]]), jnp.zeros((1, 1)))
        np.testing.assert_allclose(small, [0.5e-4], rtol=1e-3)


@pytest.mark.parametrize("name", HANDMADE)
def test_gradients_against_finite_differences(name):
    loss = load(name)
    if loss.link == "softmax":
        logits, labels = LOGITS[:3], LABELS[:3]
    else:
        logits, labels = jnp.array([[0.3, -2.0], [1.4, 0.6]]), jnp.array([[0.1, 1.0], [-3.0, 0.2]])
    slope = np.asarray(slope_of(loss)(logits, labels))
    h, value = 2e-2, jax.jit(loss)
    for i in np.ndindex(*logits.shape):
        difference = (value(logits.at[i].add(h), labels) - value(logits.at[i].add(-h), labels)).sum() / (2 * h)
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
            assert np.isfinite(loss(logits, labels)).all()
            assert np.isfinite(slope_of(loss)(logits, labels)).all()


@pytest.mark.parametrize("name", REGRESSION)
def test_far_predictions_have_finite_gradients(name):
    f, y = jnp.array([[1e4, 0.0, 1e10]]), jnp.array([[-1e4, 0.0, 0.0]])
    assert np.isfinite(load(name)(f, y)).all()
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
