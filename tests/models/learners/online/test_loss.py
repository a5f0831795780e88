import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn.gradients import backprop
from metalearn.inner import scan_steps, start
from metalearn.learner import Family, Signature, inner_loop, predictions_in_order
from metalearn_models.learners.online import online_network, online_with_learnable_loss, online_with_loss
from metalearn_models.losses.formulas import parse
from metalearn_models.losses.handmade import cross_entropy, huber, mse
from metalearn_models.losses.ml3 import ml3
from metalearn_models.losses.parametric import free_coefficients
from metalearn_models.losses.symbolic_loss import SymbolicLoss
from metalearn_models.networks.mlp import mlp

CLASSES = Signature(inputs=4, outputs=3, length=12)
REAL = Signature(inputs=4, outputs=1, length=12, regression=True)
CROSS_ENTROPY = SymbolicLoss(parse("mul(mul(-1, y), log(f))"))
SQUARES = SymbolicLoss(parse("square(sub(y, f))"), link="identity")


@pytest.fixture(autouse=True)
def _optax_promotes():
    with jax.numpy_dtype_promotion("standard"):
        yield


def _episode(signature):
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.normal(size=(signature.length, signature.inputs)), jnp.float32)
    if signature.regression:
        return xs, jnp.sin(xs.sum(1))
    return xs, jnp.asarray(rng.integers(signature.outputs, size=signature.length), jnp.int32)


def _predict(learner, theta=()):
    xs, ys = _episode(learner.signature)
    return jax.jit(lambda theta: predictions_in_order(learner, theta, xs, ys, jax.random.key(3)))(theta)


@pytest.mark.parametrize("signature, losses", [
    (CLASSES, (cross_entropy(), CROSS_ENTROPY, optax.softmax_cross_entropy_with_integer_labels)),
    (REAL, (mse(), SQUARES)),
])  # fmt: skip
def test_with_the_usual_loss_it_is_the_usual_learner(signature, losses):
    network = mlp(4, (7,), signature.outputs)
    usual = online_network(signature, network, optax.adam(0.05))
    expected = _predict(usual)
    for loss in losses:
        learner = online_with_loss(signature, network, optax.adam(0.05), loss)
        np.testing.assert_allclose(_predict(learner), expected, atol=2e-5)
        assert learner.state_size == usual.state_size


def test_another_loss_is_descended_one_step_an_example():
    """Huber by a linear network, written out in float64."""
    network = mlp(4, (), 1)
    learner = online_with_loss(REAL, network, optax.sgd(0.1), huber(0.5))
    layer = learner.start((), jax.random.key(3)).params[0]
    w, b = np.asarray(layer["weight"][:, 0], np.float64), 0.0
    xs, ys = (np.asarray(a, np.float64) for a in _episode(REAL))
    expected, clipped = [], 0
    for x, y in zip(xs, ys, strict=True):
        expected.append(w @ x + b)
        residual = expected[-1] - y
        clipped += abs(residual) > 0.5
        slope = np.clip(residual, -0.5, 0.5)
        w, b = w - 0.1 * slope * x, b - 0.1 * slope
    assert 0 < clipped < 12
    np.testing.assert_allclose(_predict(learner)[:, 0], expected, atol=1e-5)


def test_a_learnable_loss_is_the_learners_theta():
    network = mlp(4, (), 3)
    learner = online_with_learnable_loss(CLASSES, network, optax.sgd(0.1), free_coefficients(CROSS_ENTROPY))
    theta = learner.init(jax.random.key(0))
    np.testing.assert_array_equal(theta, np.ones(5, np.float32))
    np.testing.assert_allclose(
        _predict(learner, theta), _predict(online_network(CLASSES, network, optax.sgd(0.1))), atol=1e-5
    )
    doubled = _predict(learner, theta.at[0].set(2.0))  # the edge above -y: twice the loss
    np.testing.assert_allclose(doubled, _predict(online_network(CLASSES, network, optax.sgd(0.2))), atol=1e-5)


def test_the_meta_gradient_of_the_loss_agrees_with_finite_differences_on_the_librarys_own_inner_loop():
    network = mlp(4, (5,), 1)
    learner = online_with_learnable_loss(REAL, network, optax.sgd(0.1), ml3("identity", (6,)))
    family = Family(REAL, lambda data, key: (), None, lambda data, i: (), lambda data, task, key: data)
    loop, data = inner_loop(learner, family), _episode(REAL)
    theta, key = learner.init(jax.random.key(0)), jax.random.key(1)
    estimator = backprop(loop, 1)
    gradient, _, _ = jax.jit(lambda t: estimator.grad(t, estimator.init(t, data, key), data, key, jnp.int32(0)))(theta)
    own = jax.random.fold_in(key, 0)

    @jax.jit
    def loss(theta):
        return scan_steps(loop, theta, start(loop, theta, data, own), jnp.int32(0), 12, own, data)[1].mean()

    norm = optax.tree.norm(gradient)
    along = jax.tree.map(lambda g: 0.005 * g / norm, gradient)
    slope = (loss(optax.tree.add(theta, along)) - loss(optax.tree.sub(theta, along))) / 0.01
    np.testing.assert_allclose(norm, slope, rtol=0.03)


def test_a_loss_that_does_not_fit_is_refused():
    network = mlp(4, (), 3)
    with pytest.raises(ValueError, match=r"one float for logits \[3\] and one label, got float32\[3\]"):
        online_with_loss(CLASSES, network, optax.sgd(0.1), lambda z, y: z)
    with pytest.raises(ValueError, match=r"got float32\[3\]"):
        online_with_learnable_loss(
            CLASSES, network, optax.sgd(0.1), free_coefficients(CROSS_ENTROPY)._replace(apply=lambda t, z, y: z)
        )
    with pytest.raises(ValueError, match=r"link 'identity' \(a loss for numbers\) need labels of shape"):
        online_with_loss(CLASSES, network, optax.sgd(0.1), mse())
