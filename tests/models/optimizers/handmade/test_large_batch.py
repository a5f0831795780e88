"""LARS, LAMB and SAM of optax against their formulas in NumPy, in float64; and what SAM needs of a training loop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn.inner import unroll
from metalearn_models.optimizers.handmade.sam import loss_and_grad_fn, sam
from metalearn_models.optimizers.handmade.table import HANDMADE
from metalearn_tasks.objectives.objective import Objective
from metalearn_tasks.objectives.training import training_loop

RATE, DECAY, STEPS = 0.05, 0.01, 5


def problem():
    """Parameters with a tensor of zeros, and gradients of each step with a tensor of zeros."""
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(4, 3)), "zero": np.zeros(3), "still": rng.normal(size=2)}
    grads = {"w": rng.normal(size=(STEPS, 4, 3)), "zero": rng.normal(size=(STEPS, 3)), "still": np.zeros((STEPS, 2))}
    return params, grads


def run(tx):
    params, grads = problem()
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):

        def body(carry, g):
            params, state = carry
            updates, state = tx.update(g, state, params)
            return (optax.apply_updates(params, updates), state), None

        start = jax.tree.map(jnp.asarray, params)
        (params, _), _ = jax.jit(lambda p, g: jax.lax.scan(body, (p, tx.init(p)), g))(start, grads)
        return jax.tree.map(np.asarray, params)


def norm_ratio(w, u, coefficient):
    """The trust ratio of optax: 1 where either norm is 0."""
    a, b = np.linalg.norm(w), np.linalg.norm(u)
    return coefficient * a / b if a and b else 1.0


def test_lars_scales_the_gradient_with_decay_and_puts_the_heavy_ball_behind_the_rate():
    params, grads = problem()
    found = run(optax.lars(RATE, DECAY))
    for leaf, w in params.items():
        velocity = 0
        for g in grads[leaf]:
            u = g + DECAY * w
            velocity = 0.9 * velocity - RATE * norm_ratio(w, u, 1e-3) * u
            w = w + velocity
        np.testing.assert_allclose(found[leaf], w, rtol=1e-12)


def test_lamb_scales_the_step_of_adam_with_decay_and_clips_nothing():
    params, grads = problem()
    found = run(optax.lamb(RATE, weight_decay=DECAY))
    for leaf, w in params.items():
        m = v = 0
        for t, g in enumerate(grads[leaf], 1):
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            u = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-6) + DECAY * w
            w = w - RATE * norm_ratio(w, u, 1.0) * u
        np.testing.assert_allclose(found[leaf], w, rtol=1e-12)


RHO = 0.3
CURVATURE = np.array([1.0, 2.0, 0.5])


def quartic(w):
    return (CURVATURE * w**4).sum() / 4


def sam_in_numpy(w, steps, rate=RATE, momentum=0.9, rho=RHO):
    velocity, found = 0, []
    for _ in range(steps):
        g = CURVATURE * w**3
        worst = w + rho * g / np.linalg.norm(g)
        velocity = momentum * velocity + CURVATURE * worst**3
        found.append(quartic(w))
        w = w - rate * velocity
    return w, found


def test_sam_takes_the_gradient_at_the_worst_point_nearby():
    tx = sam(optax.sgd(RATE, 0.9), RHO)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):

        @jax.jit
        def step(w, state):
            _, grads, extra = loss_and_grad_fn(quartic)(w, None)
            updates, state = tx.update(grads, state, w, **extra)
            return optax.apply_updates(w, updates), state

        w = jnp.array([1.0, -0.5, 2.0])
        state = tx.init(w)
        for _ in range(STEPS):
            w, state = step(w, state)
        expected, _ = sam_in_numpy(np.array([1.0, -0.5, 2.0]), STEPS)
        np.testing.assert_allclose(w, expected, rtol=1e-12)


def test_a_training_loop_gives_sam_its_second_gradient():
    """With a leaf without entries and one of bfloat16; theta holds the logarithms of the constants."""
    start = {"w": jnp.array([1.0, -0.5, 2.0]), "empty": jnp.zeros((0, 2)), "half": jnp.zeros(2, jnp.bfloat16)}

    def loss(problem, params, batch):
        del problem, batch
        return quartic(params["w"]) + (params["half"].astype(jnp.float32) ** 2).sum() + params["empty"].sum()

    objective = Objective(
        draw=lambda key: (), init=lambda problem, key: start, loss=loss, sample=lambda problem, data, key: ()
    )
    optimizer = HANDMADE["sam"].learnable(RATE, 0.9, RHO)
    theta = optimizer.init(jax.random.key(0))
    assert {name: round(float(jnp.exp(x)), 6) for name, x in theta.items()} == {
        "log_learning_rate": RATE,
        "log_rho": RHO,
        "log_1_minus_momentum": 0.1,
    }
    loop = training_loop(objective, optimizer, STEPS)
    losses, _ = jax.jit(lambda theta: unroll(loop, theta, (), jax.random.split(jax.random.key(0), 1), STEPS))(theta)
    np.testing.assert_allclose(losses[0], sam_in_numpy(np.array([1.0, -0.5, 2.0]), STEPS)[1], rtol=1e-5)


def test_sam_stays_where_the_gradient_is_zero_and_says_what_it_needs():
    tx = sam(optax.sgd(RATE))
    params = {"w": jnp.ones(3)}
    zeros = {"w": jnp.zeros(3)}
    updates, _ = tx.update(zeros, tx.init(params), params, grad_fn=lambda params, i: zeros)
    np.testing.assert_array_equal(updates["w"], 0)
    with pytest.raises(ValueError, match=r"second point: call update\(.*grad_fn=lambda .*got grad_fn=None"):
        tx.update(params, tx.init(params), params)


def test_sam_averages_its_second_gradient_over_devices():
    """As one device with the mean of the losses does, and not as the mean of two steps of SAM."""
    scales = jnp.array([1.0, 3.0])
    tx = sam(optax.sgd(RATE), RHO, "devices")

    def on_device(scale):
        w = jnp.array([1.0, -0.5, 2.0])
        grad_fn = lambda w, i: jax.grad(lambda w: scale * quartic(w))(w)  # noqa: E731
        grads = jax.lax.pmean(grad_fn(w, 0), "devices")
        return tx.update(grads, tx.init(w), w, grad_fn=grad_fn)[0]

    found = jax.jit(jax.vmap(on_device, axis_name="devices"))(scales)
    w = np.array([1.0, -0.5, 2.0])
    g = 2 * CURVATURE * w**3
    expected = -RATE * 2 * CURVATURE * (w + RHO * g / np.linalg.norm(g)) ** 3
    np.testing.assert_allclose(found, [expected] * 2, rtol=1e-5)
