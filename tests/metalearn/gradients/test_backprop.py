"""Backpropagation against closed forms on a linear system, and the bookkeeping of windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn.gradients import backprop, truncated_backprop, with_schedule
from metalearn.inner import InnerLoop, scan_steps, unroll

LENGTH = 6
A = jnp.asarray([[0.8, 0.1, 0.0], [-0.2, 0.7, 0.1], [0.0, 0.3, 0.5]])
B = jnp.asarray([[1.0, 0.0], [0.3, -0.5], [0.0, 0.7]])


def linear_system() -> InnerLoop:
    """s <- A s + B theta, loss (c.s - y)^2 / 2 with c and y of the trajectory's own key."""

    def init(theta, data, key):
        del theta
        key_s, key_c, key_y = jax.random.split(key, 3)
        s = jax.random.normal(key_s, (3,)) + data
        return {"s": s, "c": jax.random.normal(key_c, (LENGTH, 3)), "y": jax.random.normal(key_y, (LENGTH,))}

    def step(theta, state, t, key, data):
        del key, data
        s = A @ state["s"] + B @ theta
        error = state["c"][t] @ s - state["y"][t]
        return {**state, "s": s}, 0.5 * error**2, {"error": error}

    return InnerLoop(init, step, None, LENGTH)


def exact_gradient(theta, state, first=0, count=LENGTH):
    """d(sum of losses)/d theta by the chain rule written out in NumPy; the state before `first` is held fixed."""
    a, b = np.asarray(A, np.float64), np.asarray(B, np.float64)
    s, c, y = (np.asarray(state[name], np.float64) for name in ("s", "c", "y"))
    ds, total, loss = np.zeros((3, 2)), np.zeros(2), 0.0
    for t in range(first, first + count):
        s, ds = a @ s + b @ np.asarray(theta, np.float64), a @ ds + b
        error = c[t] @ s - y[t]
        total, loss = total + error * c[t] @ ds, loss + 0.5 * error**2
    return total, loss


@pytest.mark.parametrize("remat", [False, True])
def test_backprop_equals_the_chain_rule_on_a_linear_system(remat):
    loop, theta, data, key = linear_system(), jnp.asarray([0.4, -0.9]), jnp.float32(0.3), jax.random.key(1)
    estimator = backprop(loop, batch=5, remat=remat)
    state = estimator.init(theta, data, key)
    gradient, _, metrics = jax.jit(estimator.grad)(theta, state, data, key, jnp.int32(0))
    keys = [jax.random.fold_in(key, i) for i in range(5)]
    starts = [loop.init(theta, data, jax.random.fold_in(k, 0)) for k in keys]
    exact = [exact_gradient(theta, s) for s in starts]
    np.testing.assert_allclose(gradient, np.mean([g for g, _ in exact], 0) / LENGTH, rtol=2e-5)
    np.testing.assert_allclose(metrics["loss"], np.mean([v for _, v in exact]) / LENGTH, rtol=2e-5)
    assert set(metrics) == {"loss", "error"}


def test_truncated_windows_hold_their_past_fixed():
    loop, theta, data, key = linear_system(), jnp.asarray([0.4, -0.9]), jnp.float32(0.0), jax.random.key(2)
    estimator = truncated_backprop(loop, batch=4, window=2)
    grad = jax.jit(estimator.grad)
    state = grad(theta, estimator.init(theta, data, key), data, key, jnp.int32(0))[1]
    # Put every trajectory at step 2 of a whole length.
    clock = state.clock._replace(t=jnp.full(4, 2, jnp.int32), length=jnp.full(4, LENGTH, jnp.int32))
    state = state._replace(clock=clock)
    exact = [exact_gradient(theta, jax.tree.map(lambda a, i=i: a[i], state.inner), 2, 2)[0] for i in range(4)]
    gradient, after, _ = grad(theta, state, data, key, jnp.int32(0))
    np.testing.assert_allclose(gradient, np.mean(exact, 0) / 2, rtol=2e-5)
    assert after.clock.t.tolist() == [4] * 4


def counting_loop(length: int) -> InnerLoop:
    """The loss is the step, the state remembers where its trajectory began and how far it is."""

    def init(theta, data, key):
        del theta, data
        return {"id": jax.random.uniform(key), "count": jnp.float32(0)}

    def step(theta, state, t, key, data):
        del key, data
        new = {**state, "count": state["count"] + 1}
        return new, theta * t.astype(jnp.float32), {"gap": state["count"] - t.astype(jnp.float32)}

    return InnerLoop(init, step, None, length)


def test_windows_restart_at_their_boundary_and_mask_past_the_end():
    loop, theta = counting_loop(7), jnp.float32(1.0)
    estimator = truncated_backprop(loop, batch=32, window=3)
    grad = jax.jit(estimator.grad)
    state = estimator.init(theta, (), jax.random.key(0))
    _, state, _ = grad(theta, state, (), jax.random.key(4), jnp.int32(0))
    # staggered over the multiples of the window, at most the length
    assert set(state.clock.length.tolist()) == {3, 6, 7}
    restarts = 0
    for i in range(1, 7):
        before = state
        gradient, state, metrics = grad(theta, state, (), jax.random.fold_in(jax.random.key(5), i), jnp.int32(i))
        restarted = np.asarray(before.clock.t >= before.clock.length)
        restarts += restarted.sum()
        begin = np.where(restarted, 0, before.clock.t)
        length = np.where(restarted, 7, before.clock.length)
        steps = [[t for t in range(b, b + 3) if t < n] for b, n in zip(begin, length, strict=True)]
        np.testing.assert_allclose(gradient, np.mean([np.sum(s) / 3 for s in steps]), rtol=1e-6)
        np.testing.assert_allclose(metrics["loss"], np.mean([np.mean(s) for s in steps]), rtol=1e-6)
        assert float(metrics["gap"]) == 0.0  # no window mixes two trajectories
        changed = np.asarray(state.inner["id"] != before.inner["id"])
        np.testing.assert_array_equal(changed, restarted)
    assert restarts > 32


def test_unroll_gives_step_t_the_same_key_as_windows_do():
    def step(theta, state, t, key, data):
        del t, data
        return state, theta * jax.random.normal(key), {}

    loop = InnerLoop(lambda theta, data, key: jnp.float32(0), step, None, 5)
    key = jax.random.key(3)
    whole, _ = unroll(loop, jnp.float32(1), (), key[None], 5)
    _, first, _ = scan_steps(loop, jnp.float32(1), jnp.float32(0), jnp.int32(0), 2, key, ())
    _, rest, _ = scan_steps(loop, jnp.float32(1), jnp.float32(0), jnp.int32(2), 3, key, ())
    np.testing.assert_array_equal(whole[0], np.concatenate([first, rest]))
    assert len(set(whole[0].tolist())) == 5


def test_scheduled_data_follow_the_outer_step():
    loop, theta, key = linear_system(), jnp.asarray([0.4, -0.9]), jax.random.key(4)
    estimator = backprop(loop, batch=2)
    moved = with_schedule(estimator, lambda data, step: data + step.astype(jnp.float32))
    state = estimator.init(theta, jnp.float32(0), key)
    expected = jax.jit(estimator.grad)(theta, state, jnp.float32(3), key, jnp.int32(0))[0]
    found = jax.jit(moved.grad)(theta, state, jnp.float32(0), key, jnp.int32(3))[0]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda loop: backprop(loop, 0), "batch must be at least 1, got 0"),
        (lambda loop: backprop(loop._replace(length=None), 2), "this inner loop has length=None: pass"),
        (
            lambda loop: truncated_backprop(loop, 2, 9),
            "at most the length of a trajectory, 6 steps, got 9",
        ),
        (lambda loop: truncated_backprop(loop._replace(length=None), 2, 3), "this inner loop has length=None: pass"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(linear_system())
