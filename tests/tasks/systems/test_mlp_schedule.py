"""The schedule of a multilayer perceptron: training by hand in NumPy, meta-gradients by finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn.errors import UnknownNameError
from metalearn.inner import scan_steps, start
from metalearn_tasks.systems import mlp_schedule

KEY = jax.random.key(0)


N, D, C = 40, 6, 3


def examples(seed, n=N):
    rng = np.random.default_rng(seed)
    return jnp.array(rng.normal(size=(n, D))), jnp.array(rng.integers(0, C, n))


def numpy_mlp(params, inputs):
    """Activations of each layer and the logits."""
    activations = [inputs]
    for weight, bias in params[:-1]:
        activations.append(np.maximum(activations[-1] @ weight + bias, 0))
    weight, bias = params[-1]
    return activations, activations[-1] @ weight + bias


def numpy_gradient(params, inputs, labels):
    """Backpropagation of the mean cross-entropy, by hand."""
    activations, logits = numpy_mlp(params, inputs)
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    error, gradients = (probabilities - np.eye(C)[labels]) / len(labels), []
    for (weight, _), activation in zip(params[::-1], activations[::-1], strict=True):
        gradients.append((activation.T @ error, error.sum(0)))
        error = (error @ weight.T) * (activation > 0)
    return gradients[::-1]


@pytest.mark.parametrize("objective", ["train", "accuracy"])
def test_mlp_schedule_is_that_of_a_numpy_loop(objective):
    config = mlp_schedule.MLPScheduleConfig((7, 5), C, 0.9, 4.0, 10, 8, objective)
    loop, theta = mlp_schedule.mlp_schedule(config), mlp_schedule.schedule(0.3, 2.0)
    train, valid = examples(0), examples(1, 30)
    data = (train, valid) if objective == "accuracy" else train

    def batch(t, number, n):
        key = jax.random.split(jax.random.fold_in(KEY, t + 1))[number]
        return jax.random.randint(key, (8,), 0, n)

    @jax.jit
    def run(theta):
        batches = [jax.vmap(lambda t, i=i, n=n: batch(t, i, n))(jnp.arange(10)) for i, n in enumerate(sizes)]
        state = start(loop, theta, data, KEY)
        return scan_steps(loop, theta, state, jnp.int32(0), 10, KEY, data)[1:], state, batches

    sizes = N, 30 if objective == "accuracy" else N
    (losses, aux), state, batches = run(theta)
    params = [(np.asarray(layer["weight"]), np.asarray(layer["bias"])) for layer in state.params]
    velocity = [(0.0, 0.0) for _ in params]
    for t in range(10):
        rate = 0.3 / (1 + t / 4.0) ** 2.0
        np.testing.assert_allclose(aux["learning_rate"][t], rate, rtol=1e-12)
        chosen = np.asarray(batches[0][t])
        gradient = numpy_gradient(params, np.asarray(train[0])[chosen], np.asarray(train[1])[chosen])
        velocity = [tuple(0.9 * v + g for v, g in zip(*p, strict=True)) for p in zip(velocity, gradient, strict=True)]
        params = [tuple(p - rate * v for p, v in zip(*q, strict=True)) for q in zip(params, velocity, strict=True)]

        inputs, labels = map(np.asarray, valid if objective == "accuracy" else train)
        chosen = np.asarray(batches[1][t])
        logits = numpy_mlp(params, inputs[chosen])[1]
        accuracy = (logits.argmax(1) == labels[chosen]).mean()
        cross_entropy = (np.log(np.exp(logits).sum(1)) - logits[np.arange(8), labels[chosen]]).mean()
        np.testing.assert_allclose(aux["accuracy"][t], accuracy, rtol=1e-12)
        expected = cross_entropy if objective == "train" else 1 - accuracy
        np.testing.assert_allclose(losses[t], expected, rtol=1e-9, atol=1e-12)


def test_meta_gradients_of_the_training_loss_are_finite_differences_and_of_the_accuracy_zero(trajectory):
    theta, h = mlp_schedule.schedule(0.1, 1.0), 1e-6
    train = mlp_schedule.mlp_schedule(mlp_schedule.MLPScheduleConfig((4,), C, 0.9, 4.0, 6, 8))
    total = jax.value_and_grad(lambda theta: trajectory(train, theta, examples(0)).sum())
    shifts = {"log_learning_rate": jnp.array([0, h, -h, 0, 0]), "log_decay": jnp.array([0, 0, 0, h, -h])}
    values, gradients = jax.jit(jax.vmap(total))({name: theta[name][None] + shifts[name] for name in theta})
    expected = (values[1] - values[2]) / (2 * h), (values[3] - values[4]) / (2 * h)
    np.testing.assert_allclose([gradients[name][0] for name in shifts], expected, rtol=1e-5)

    error = mlp_schedule.mlp_schedule(mlp_schedule.MLPScheduleConfig((4,), C, batch=8, objective="accuracy"))
    data = examples(0), examples(1)

    def first_loss(theta):
        return error.step(theta, start(error, theta, data, KEY), jnp.int32(0), KEY, data)[1]

    zero = jax.jit(jax.grad(first_loss))(theta)
    assert not any(np.asarray(leaf).any() for leaf in zero.values())


def test_settings_that_cannot_be_are_refused():
    config = mlp_schedule.MLPScheduleConfig()
    object.__setattr__(config, "objective", "acuracy")  # past the check of annotations
    with pytest.raises(UnknownNameError, match=r"unknown objective 'acuracy'. Did you mean 'accuracy'"):
        mlp_schedule.mlp_schedule(config)
    with pytest.raises(ValueError, match="momentum"):
        mlp_schedule.mlp_schedule(mlp_schedule.MLPScheduleConfig(momentum=1.0))
    with pytest.raises(ValueError, match="must be positive"):
        mlp_schedule.mlp_schedule(mlp_schedule.MLPScheduleConfig(batch=0))
    with pytest.raises(ValueError, match=r"must be positive, got 0\.0 and 1\.0"):
        mlp_schedule.schedule(0.0, 1.0)
