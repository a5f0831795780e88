"""Hand-designed optimizers as learned ones, and the grids of learning rates they are tuned on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn_models.optimizers import curvature, lookahead
from metalearn_models.optimizers.curvature import LayerStatistics, mini_block_fisher, soap
from metalearn_models.optimizers.curvature.layers import standard_layout
from metalearn_models.optimizers.curvature.mfac import mfac
from metalearn_models.optimizers.handmade.sam import sam
from metalearn_models.optimizers.orthogonal import orthogonal_adam
from metalearn_tasks.objectives.baselines import BASELINES, hand_designed_optimizer, learning_rates


def test_a_hand_designed_optimizer_is_the_transformation_at_its_rate():
    optimizer = hand_designed_optimizer(lambda rate: optax.sgd(rate, momentum=0.9), learning_rate=0.3)
    assert optimizer.init(jax.random.key(0)) == jnp.float32(0.3)
    ours, theirs = optimizer.transform(jnp.float32(0.2), 7), optax.sgd(0.2, momentum=0.9)
    params, grads = jnp.ones(2), jnp.array([1.0, -2.0])
    state, reference = ours.init(params), theirs.init(params)
    for _ in range(3):
        update, state = ours.update(grads, state, params, value=1.0)
        expected, reference = theirs.update(grads, reference, params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), update, expected)


def test_baselines_are_those_of_optax_at_a_learning_rate():
    """Five steps tell them apart: every rule makes another fifth step. Those that optax lacks have our defaults."""
    expected = {
        "adam": optax.adam(0.2),
        "adamw": optax.adamw(0.2),
        "foof": curvature.foof(0.2, 0.01),
        "kfac": curvature.kfac(0.2, 1e-4),
        "kfac-standard": curvature.kfac_standard(0.2, 0.1),
        "mac": curvature.mac(0.2),
        "natural-gradient": curvature.natural_gradient(0.2, 1.0),
        "lamb": optax.lamb(0.2),
        "lars": optax.lars(0.2),
        "lion": optax.lion(0.2),
        "lookahead-adam": lookahead(optax.adam(0.2), 5, 0.5),
        "lookahead-momentum": lookahead(optax.sgd(0.2, 0.9), 5, 0.5),
        "m-fac": mfac(0.2, 32, 0.1),
        "mini-block-fisher": mini_block_fisher(0.2, 0.01, 0.9),
        "momentum": optax.sgd(0.2, momentum=0.9),
        "muon": optax.contrib.muon(0.2, consistent_rms=0.2),
        "nadamw": optax.nadamw(0.2),
        "nesterov": optax.sgd(0.2, momentum=0.9, nesterov=True),
        "orthogonal-adam": orthogonal_adam(0.2),
        "rmsprop": optax.rmsprop(0.2),
        "sam": sam(optax.sgd(0.2, momentum=0.9), 0.05),
        "schedule-free-adamw": optax.contrib.schedule_free_adamw(0.2),
        "sgd": optax.sgd(0.2),
        "soap": soap(0.2),
    }
    assert BASELINES.keys() == expected.keys()
    grads = jnp.array([[1.0, -2.0], [0.5, 0.1]]), jnp.array([[0.5, 1.0], [0.5, 0.2]])

    def statistics(grad):  # of two examples whose inputs are the unit vectors
        return {"": LayerStatistics(jnp.eye(2), 2 * grad, grad, None, standard_layout((2, 2)))}

    def five_steps(rule):
        rule = optax.with_extra_args_support(rule)
        state, updates = rule.init(grads[0]), None
        for grad in (grads * 3)[:5]:
            extra = {"statistics": statistics(grad), "grad_fn": lambda x, i, g=grad: g + x - grads[0]}
            updates, state = rule.update(grad, state, grads[0], **extra)
        return np.asarray(updates)

    with jax.numpy_dtype_promotion("standard"):  # optax relies on it
        found = {name: five_steps(make(0.2)) for name, make in BASELINES.items()}
        for name, rule in expected.items():
            np.testing.assert_array_equal(found[name], five_steps(rule))
    assert len({tuple(update.ravel()) for update in found.values()}) == len(found)


@pytest.mark.parametrize("per_decade", [2, 4])
def test_a_grid_has_equal_ratios_between_its_ends_up_to_rounding(per_decade):
    exponents = np.arange(-4.0, 0.51, 1 / per_decade)
    grid = learning_rates(1e-4, 3.16, per_decade)
    assert grid == tuple(float(f"{10**e:.3g}") for e in exponents)
    np.testing.assert_allclose(grid, 10**exponents, rtol=5e-3)


def test_a_grid_of_one_digit_includes_its_rounded_ends():
    assert learning_rates(3e-4, 0.1, 2, digits=1) == (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1)
    assert learning_rates(2e-4, 0.2, 1, digits=1) == (1e-3, 1e-2, 0.1)
    assert learning_rates(1.0, 1.0, 3) == (1.0,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 1.0, 2), "got low=0.0"),
        ((1.0, 0.1, 2), "got low=1.0 and high=0.1"),
        ((0.1, float("inf"), 2), "high=inf"),
        ((0.1, 1.0, 0), "per_decade and digits must be at least 1, got 0 and 3"),
        ((0.1, 1.0, 1, 0), "got 1 and 0"),
    ],
)
def test_bad_grids_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        learning_rates(*arguments)
