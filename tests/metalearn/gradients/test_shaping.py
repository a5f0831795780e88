"""Shapings over the whole population: against NumPy, under transforms of the loss, on one and on eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import rankdata

from metalearn.gradients import centred_ranks, full_es, gpes, nres, pes, truncated_es, z_scores
from metalearn.inner import InnerLoop
from metalearn.recipes.gradient import GradientConfig, make_estimator
from metalearn.recipes.in_context.config import TrainConfig, from_json, to_json

LOSSES = {
    "different": [3.0, -1.0, 0.5, 2.0, 7.0, 1e9],
    "ties": [1.0, 0.0, 1.0, 1.0, 2.0, 0.0],
    "not all finite": [1.0, np.inf, -2.0, np.inf, 0.0, 1.0],
    "equal": [4.0] * 6,
    "one finite": [np.inf] * 5 + [1.0],
}


@pytest.mark.parametrize("name", LOSSES)
def test_ranks_and_scores_are_those_of_numpy(name):
    losses = np.array(LOSSES[name], np.float32)
    finite = np.isfinite(losses)
    kept = losses[finite].astype(np.float64)
    ranks = (rankdata(kept) - 1) / max(len(kept) - 1, 1) - 0.5
    given = jnp.asarray(losses), jnp.asarray(finite)
    np.testing.assert_allclose(np.asarray(centred_ranks.values(*given))[finite], ranks, rtol=1e-6)
    scores = (kept - kept.mean()) / (kept.std() or 1)
    found = np.asarray(z_scores.values(*given))
    np.testing.assert_allclose(found[finite], scores, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[~finite], 0)


def loop(length=1):
    """A loss that is an increasing function of another, exponential where the data say so."""

    def step(theta, state, t, key, data):
        loss = jnp.square(theta - jax.random.normal(key, theta.shape)).mean()
        return state, jnp.where(data, jnp.exp(3 * loss), loss), {}

    return InnerLoop(lambda theta, data, key: jnp.zeros(()), step, None, length)


MAKE = {
    "full_es": lambda **options: full_es(loop(), 0.3, 8, **options),
    "nres": lambda **options: nres(loop(2), 0.3, 8, 1, **options),
    "pes": lambda **options: pes(loop(2), 0.3, 8, 1, **options),
    "gpes": lambda **options: gpes(loop(2), 0.3, 8, 1, 2, **options),
    "truncated_es": lambda **options: truncated_es(loop(2), 0.3, 8, 1, **options),
}


@pytest.mark.parametrize("name", MAKE)
def test_an_increasing_function_of_the_loss_does_not_change_the_step_of_ranks(name):
    estimator, key, theta = MAKE[name](shaping=centred_ranks), jax.random.key(0), jnp.zeros(3)

    @jax.jit
    def two_steps(data):
        state, found = estimator.init(theta, data, key), []
        for i in range(2):
            gradient, state, metrics = estimator.grad(theta, state, data, jax.random.fold_in(key, i), jnp.int32(i))
            found.append(gradient)
        return jnp.stack(found), metrics["loss"]

    plain, exponential = two_steps(jnp.bool_(False)), two_steps(jnp.bool_(True))
    np.testing.assert_array_equal(plain[0], exponential[0])
    assert np.abs(plain[0]).min() > 1e-3 and exponential[1] > 2 * plain[1]  # the loss that is reported has no shaping


def test_the_estimate_is_the_mean_of_perturbations_weighed_by_ranks():
    """One parameter whose loss it is itself. The size of each perturbation is read from single differences."""
    pairs, sigma, theta, key = 7, 0.3, jnp.zeros(1), jax.random.key(5)
    itself = loop()._replace(step=lambda theta, state, t, key, data: (state, theta.sum(), {}))

    def gradient(shaping):
        estimator = full_es(itself, sigma, pairs, shaping=shaping)
        return estimator.grad(theta, estimator.init(theta, (), key), (), key, jnp.int32(0))[0][0]

    def alone(i):
        return gradient(lambda delta: jnp.where(jnp.arange(pairs) == i, delta, 0))

    singles, ranked = jax.jit(lambda: (jax.vmap(alone)(jnp.arange(pairs)), gradient(centred_ranks)))()
    eps = np.sqrt(np.asarray(singles, np.float64) * pairs)  # a single difference gives eps^2 / pairs
    ranks = ((rankdata(np.concatenate([eps, -eps])) - 1) / (2 * pairs - 1) - 0.5).reshape(2, pairs)
    np.testing.assert_allclose(ranked, (eps * (ranks[0] - ranks[1]) / 2).mean() / sigma, rtol=1e-5)


SCRIPT = """
import sys; sys.path[:0] = ["tests/metalearn/gradients"]
import jax, numpy as np, optax, jax.numpy as jnp
import test_es as t
from metalearn.outer import local_mesh, outer_loop
from metalearn.gradients import *
def numbers(estimator, theta, data, mesh):
    loop = outer_loop(estimator, optax.sgd(0.1), 3, mesh)
    state = loop.init(theta, data, jax.random.key(3))
    compiled = loop.step.lower(state, data).compile()
    state, metrics = compiled(state, data)
    text = compiled.as_text()
    count = lambda name: text.count(f" {name}(") + text.count(f" {name}-start(")
    return (state.theta, metrics), (count("all-reduce"), count("all-gather"))
def curriculum(shaping):
    make = lambda loop: full_es(loop, 0.1, 16, shaping=shaping)
    return with_curriculum(t.network_loop(6), make, lambda step: 2 + step)
cases = [(curriculum(shaping), t.network_theta(), jnp.float32(0.3)) for shaping in (centred_ranks, z_scores)]
cases.append((nres(t.breaking(), 0.1, 16, 2, shaping=centred_ranks), jnp.float32(1), ()))
for case in cases:
    (one, _), (eight, collectives) = (numbers(*case, mesh) for mesh in (None, local_mesh(16)))
    assert collectives == (1, 1), collectives
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=3e-6), one, eight)
assert 0 < one[1]["dropped"].max() < 1
print("equal")
"""


def test_eight_devices_give_the_numbers_of_one_with_one_small_gather_more(on_eight_devices):
    """Also within a curriculum, and where some pairs are not finite."""
    assert on_eight_devices(SCRIPT) == "equal"


def test_configurations_name_a_shaping_and_those_without_one_are_those_of_before():
    config = TrainConfig(gradient=GradientConfig("es", shaping="z-scores"))
    assert from_json(to_json(config)) == config
    assert "shaping" not in to_json(TrainConfig())["gradient"] and from_json(to_json(TrainConfig())) == TrainConfig()
    with pytest.raises(ValueError, match=r"--gradient.shaping z-scores is for evolution strategies"):
        make_estimator(loop(), GradientConfig(shaping="z-scores"), 4, longest=9, length_option="--length")
