import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn.inner import InnerLoop, unroll
from metalearn_models.optimizers import LearnedOptimizer, mlp_optimizer, small_fc
from metalearn_tasks.datasets import Split
from metalearn_tasks.objectives import mlp_classification, training_loop
from metalearn_tasks.objectives.objective import draw_start
from metalearn_tasks.objectives.training import cap_losses, log_transform_losses, weigh_late_losses


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return Split(jnp.asarray(rng.normal(size=(50, 6)), jnp.float32), jnp.asarray(rng.integers(3, size=50), jnp.int32))


def test_the_loss_is_the_mean_cross_entropy_of_the_network(data):
    objective = mlp_classification(6, (5, 4), 3, batch=7)
    params = objective.init((), jax.random.key(0))
    batch = objective.sample((), data, jax.random.key(1))
    x = np.asarray(batch.inputs, np.float64)
    for layer in params[:-1]:
        x = np.maximum(x @ np.asarray(layer["weight"]) + np.asarray(layer["bias"]), 0)
    logits = x @ np.asarray(params[-1]["weight"]) + np.asarray(params[-1]["bias"])
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -log_p[np.arange(7), np.asarray(batch.labels)].mean()
    np.testing.assert_allclose(objective.loss((), params, batch), expected, rtol=1e-5)


def test_batches_are_uniform_draws_of_the_examples_with_their_own_labels(data):
    objective = mlp_classification(6, 5, 3, batch=64)
    batches = jax.jit(jax.vmap(lambda k: objective.sample((), data, k)))(jax.random.split(jax.random.key(0), 400))
    inputs, labels = np.asarray(batches.inputs).reshape(-1, 6), np.asarray(batches.labels).ravel()
    row = np.argmin(np.square(inputs[:, None] - np.asarray(data.inputs)[None]).sum(-1), 1)
    np.testing.assert_array_equal(inputs, np.asarray(data.inputs)[row])
    np.testing.assert_array_equal(labels, np.asarray(data.labels)[row])
    counts = np.bincount(row, minlength=50)
    expected = len(row) / 50
    # chi-squared with 49 degrees of freedom: mean 49, standard deviation 9.9
    assert ((counts - expected) ** 2 / expected).sum() < 49 + 5 * 9.9


@pytest.mark.parametrize("make", [mlp_optimizer, small_fc])
def test_the_training_loop_equals_training_written_by_hand(data, make):
    objective, optimizer = mlp_classification(6, 5, 3, batch=8), make(step_size=0.01)
    theta, key = optimizer.init(jax.random.key(0)), jax.random.key(1)
    losses, aux = jax.jit(lambda keys: unroll(training_loop(objective, optimizer, 4), theta, data, keys, 4))(key[None])
    transform = optimizer.transform(theta, 4)

    @jax.jit
    def begin():
        _, params = draw_start(objective, jax.random.fold_in(key, 0))
        return params, transform.init(params)

    @jax.jit
    def step(t, params, state):
        batch = objective.sample((), data, jax.random.fold_in(key, t + 1))
        loss, grads = jax.value_and_grad(objective.loss, 1)((), params, batch)
        updates, state = transform.update(grads, state, params)
        return loss, optax.apply_updates(params, updates), state

    (params, state), expected = begin(), []
    for t in range(4):
        loss, params, state = step(t, params, state)
        expected.append(loss)  # before the update
    np.testing.assert_allclose(losses[0], jnp.stack(expected), rtol=1e-5)
    assert len(set(np.asarray(losses[0]).tolist())) == 4
    assert aux == {}


def test_the_optimizer_is_told_the_length_and_the_loss(data):
    seen = []

    def transform(theta, num_steps):
        def update(grads, state, params=None, **extra):
            seen.append((num_steps, sorted(extra)))
            return jax.tree.map(lambda g: -0.1 * g, grads), state

        return optax.GradientTransformationExtraArgs(lambda params: (), update)

    loop = training_loop(mlp_classification(6, 5, 3), LearnedOptimizer(lambda key: (), transform), 12)
    unroll(loop, (), data, jax.random.split(jax.random.key(0), 2), 3)
    assert set(map(str, seen)) == {"(12, ['value'])"}
    assert loop.length == 12


@pytest.mark.parametrize(
    "make",
    [
        lambda: mlp_classification(6, 5, 3, batch=0),
        lambda: mlp_classification(6, 0, 3),
        lambda: training_loop(mlp_classification(6, 5, 3), mlp_optimizer(), 0),
    ],
)
def test_sizes_that_are_not_positive_are_refused(make):
    with pytest.raises(ValueError, match=r"(at least one|must be at least 1)"):
        make()


def _reports(loss):
    return InnerLoop(lambda *a: 0.0, lambda theta, state, t, key, data: (state, jnp.float32(loss), {}))


@pytest.mark.parametrize(("loss", "found"), [(1.5, 1.5), (7.0, 5.0), (np.inf, 5.0), (np.nan, 5.0), (-3.0, -3.0)])
def test_a_capped_loss_is_at_most_the_ceiling(loss, found):
    assert cap_losses(_reports(loss), 5.0).step((), 0.0, jnp.int32(0), jax.random.key(0), ())[1] == found
    with pytest.raises(ValueError, match="ceiling must be a finite number, got nan"):
        cap_losses(_reports(loss), np.nan)


@pytest.mark.parametrize("loss", [0.0, 1e-4, 2.5])
def test_the_logarithm_of_losses(loss):
    found = log_transform_losses(_reports(loss), 1e-4).step((), 0.0, jnp.int32(0), jax.random.key(0), ())[1]
    np.testing.assert_allclose(found, np.log(loss + 1e-4), rtol=1e-6)
    with pytest.raises(ValueError, match="floor must be positive"):
        log_transform_losses(_reports(loss), 0.0)


def test_late_losses_weigh_more_and_the_mean_weight_is_one():
    loop = _reports(3.0)._replace(length=5)
    step = jax.vmap(lambda t: weigh_late_losses(loop).step((), 0.0, t, jax.random.key(0), ())[1])
    losses = step(jnp.arange(5, dtype=jnp.int32))
    np.testing.assert_allclose(losses, 3.0 * np.array([1, 2, 3, 4, 5]) / 3, rtol=1e-6)
    with pytest.raises(ValueError, match="fixed length"):
        weigh_late_losses(loop._replace(length=None))
