from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn_models.losses import load, robust_scale
from metalearn_models.losses.scaling import batch_unit


def test_the_robust_scale_is_the_deviation_without_the_outliers():
    rng = np.random.default_rng(0)
    y = rng.normal(5, 3, 20_001).astype(np.float32)
    np.testing.assert_allclose(robust_scale(y), 3, rtol=0.02)
    y[:6000] += 1000
    assert robust_scale(y) < 6 < 0.02 * y.std()
    np.testing.assert_allclose(
        robust_scale(np.stack([y, 10 * y], 1)), robust_scale(y) * np.array([1.0, 10.0], np.float32), rtol=1e-5
    )


def test_the_robust_scale_of_the_median_by_hand_and_where_it_is_zero():
    np.testing.assert_allclose(robust_scale(np.array([1.0, 2.0, 3.0, 4.0, 100.0])), 1.4826, rtol=1e-6)
    np.testing.assert_allclose(robust_scale(np.array([1.0, 2.0, np.nan, 3.0, 4.0, 100.0])), 1.4826, rtol=1e-6)
    np.testing.assert_allclose(robust_scale(np.array([0.0, 0.0, 0.0, 0.0, 5.0])), 1.2533, rtol=1e-6)
    assert robust_scale(np.full(4, 7.0)) == 1 and robust_scale(np.full(4, np.nan)) == 1


def test_corrupted_raw_targets_train_as_well_as_clean_units_would():
    """A line with a third of its targets far off, in raw units: what `scale` is for."""
    x = jnp.linspace(-1, 1, 90)[:, None]
    clean = 250 * x[:, 0] + 1000
    y = clean.at[::3].add(2000.0)

    def fit(loss):
        def step(w, _):
            slope = jax.grad(lambda w: loss((w[0] * x[:, 0] + w[1])[:, None], y).mean())(w)
            return w - 0.2 * slope, None

        w, _ = jax.lax.scan(step, jnp.array([0.0, 1400.0]), length=300)
        return jnp.abs(w[0] * x[:, 0] + w[1] - clean).mean() / 250

    scaled, raw, squared = jax.jit(
        lambda: [fit(load("welsch", scale="batch")), fit(load("welsch")), fit(load("mse"))]
    )()
    assert scaled < 0.02 and raw > 1 and squared > 1


def test_the_scale_of_the_batch_has_no_gradient_and_needs_a_batch():
    y = jnp.array([[1.0], [3.0], [4.0]])
    slopes = jax.grad(lambda y: batch_unit("batch", y).sum())(y)
    assert not slopes.any()
    loss = load("robust-regression", scale="batch")
    with pytest.raises(ValueError, match=r"needs targets with an axis of examples, \[B, C\], got the shape \(1,\)"):
        jax.vmap(loss)(y, y)
    assert "scale=batch" in str(load("cauchy", scale="batch"))


@pytest.mark.unchecked_types
@pytest.mark.parametrize("scale", [0, -1.0, float("nan"), float("inf"), 1e13, "bach", "", None, (1.0, 2.0), np.ones(3)])
@pytest.mark.parametrize("name", ["robust-regression", "mse", "huber"])
def test_a_scale_that_is_none_is_refused(name, scale):
    with pytest.raises(
        ValueError, match=r'scale must lie in \[1e-12, 1e\+12\], in units of the targets, or be "batch"'
    ):
        load(name, scale=scale)


@pytest.mark.unchecked_types
def test_the_robust_scale_of_one_column_is_a_scale():
    y = 7 * np.random.default_rng(0).standard_normal((30, 1)).astype(np.float32)
    scale = robust_scale(y)
    assert scale.shape == (1,)
    loss: Any = load("robust-regression", scale=cast("float", scale))
    np.testing.assert_array_equal(loss(0 * y, y), load("robust-regression", scale=float(scale[0]))(0 * y, y))


def test_losses_of_classification_have_no_scale():
    for name in ("label-noise", "cross-entropy"):
        with pytest.raises(TypeError, match=f"the loss {name} has no parameters, got scale"):
            load(name, scale=2.0)
    with pytest.raises(TypeError, match="the loss focal has the parameters gamma, got scale"):
        load("focal", scale=2.0)
