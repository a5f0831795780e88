"""What evolution strategies promise beyond moments: smoothing, resets, common random numbers, guards, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn.gradients import (
    dense,
    full_es,
    gpes,
    growing_horizon,
    log_uniform_horizon,
    low_rank,
    nres,
    nres_a,
    pes,
    pes_a,
    truncated_es,
)
from metalearn.inner import InnerLoop
from metalearn.outer import outer_loop

ONLINE = {"nres": nres, "pes": pes, "truncated_es": truncated_es, "nres_a": nres_a, "pes_a": pes_a}


def stateless(loss, length=1) -> InnerLoop:
    """Nothing happens over time: `loss(theta, key)` at each step."""
    return InnerLoop(
        lambda theta, data, key: jnp.zeros(()),
        lambda theta, state, t, key, data: (state, loss(theta, key), {}),
        None,
        length,
    )


def one_gradient(estimator, theta):
    def gradient():
        key = jax.random.key(0)
        return estimator.grad(theta, estimator.init(theta, (), key), (), key, jnp.int32(0))[0]

    return jax.jit(gradient)()


@pytest.mark.parametrize("sigma", [0.2, 0.7])
def test_the_gradient_is_that_of_the_smoothed_loss(sigma):
    # E[cos(w (theta + sigma e))] = exp(-w^2 sigma^2 / 2) cos(w theta): tells a standard deviation from a variance
    with jax.enable_x64(True):
        w, theta = 2.0, jnp.asarray(0.4)
        estimator = full_es(stateless(lambda theta, key: jnp.cos(w * theta)), sigma, 400_000)
        gradient = one_gradient(estimator, theta)
        exact = -w * np.sin(w * 0.4) * np.exp(-(w**2) * sigma**2 / 2)
    np.testing.assert_allclose(gradient, exact, rtol=0.01)


@pytest.mark.parametrize("name", ONLINE)
def test_a_loss_that_is_noise_of_the_key_alone_has_no_gradient(name):
    def loss(theta, key):
        return jax.random.normal(key) + 0.0 * theta.sum()

    estimator = ONLINE[name](stateless(loss, 6), sigma=0.1, pairs=8, window=2)
    theta = jnp.ones(3)
    state = estimator.init(theta, (), jax.random.key(0))
    grad = jax.jit(estimator.grad)
    for i in range(5):
        gradient, state, metrics = grad(theta, state, (), jax.random.key(i), jnp.int32(i))
        np.testing.assert_array_equal(gradient, np.zeros(3))
        assert float(metrics["loss"]) != 0


def test_init_sees_the_perturbed_theta_and_the_randomness_both_signs_share():
    # the loss is the state that init made: linear in theta, with noise that must cancel
    loop = InnerLoop(
        lambda theta, data, key: theta.sum() + 100 * jax.random.normal(key),
        lambda theta, state, t, key, data: (state, state, {}),
        None,
        4,
    )
    for estimator in (nres(loop, 0.1, 2000, 2), pes(loop, 0.1, 2000, 2, stagger=False)):
        gradient = one_gradient(estimator, jnp.zeros(2))
        np.testing.assert_allclose(gradient, np.ones(2), atol=0.15)


def counting(length) -> InnerLoop:
    """The loss is theta times the step; the state knows its trajectory and how far it is."""

    def init(theta, data, key):
        del theta, data
        return {"id": jax.random.uniform(key), "steps": jnp.float32(0)}

    def step(theta, state, t, key, data):
        del key, data
        gap = jnp.abs(state["steps"] - t.astype(jnp.float32))
        return {**state, "steps": state["steps"] + 1}, theta * t.astype(jnp.float32), {"gap": gap}

    return InnerLoop(init, step, None, length)


@pytest.mark.parametrize("name", ["nres", "pes", "nres_a", "pes_a"])
def test_pairs_restart_together_at_window_boundaries_and_mask_past_the_end(name):
    estimator, theta = ONLINE[name](counting(7), sigma=0.5, pairs=32, window=3), jnp.float32(1.0)
    state = estimator.init(theta, (), jax.random.key(0))
    grad, restarts = jax.jit(estimator.grad), 0
    _, state, _ = grad(theta, state, (), jax.random.key(1), jnp.int32(0))
    pairs = lambda state: getattr(state, "pairs", state)  # noqa: E731
    assert set(pairs(state).clock.length.tolist()) == {3, 6, 7}
    for i in range(1, 7):
        before = pairs(state)
        _, state, metrics = grad(theta, state, (), jax.random.key(i + 1), jnp.int32(i))
        after = pairs(state)
        restarted = np.asarray(before.clock.t >= before.clock.length)
        restarts += restarted.sum()
        assert float(metrics["gap"]) == 0.0  # no window mixes two trajectories
        ids = np.asarray(after.inner["id"])
        np.testing.assert_array_equal(ids[:, 0], ids[:, 1])
        np.testing.assert_array_equal(ids[:, 0, 0] != np.asarray(before.inner["id"])[:, 0, 0], restarted)
        begin = np.where(restarted, 0, before.clock.t)
        length = np.asarray(after.clock.length)
        assert set(length[restarted]) <= {7}  # only first lengths are staggered
        steps = [[t for t in range(b, b + 3) if t < n] for b, n in zip(begin, length, strict=True)]
        np.testing.assert_allclose(metrics["loss"], np.mean([np.mean(s) for s in steps]), rtol=0.7)
    assert restarts > 32


def test_credit_is_of_the_perturbations_of_its_own_trajectory():
    estimator, theta = pes(counting(6), 0.5, 4096, 3, stagger=False), jnp.float32(1.0)
    state, squares = estimator.init(theta, (), jax.random.key(0)), []
    grad = jax.jit(estimator.grad)
    for i in range(4):
        _, state, _ = grad(theta, state, (), jax.random.key(i), jnp.int32(i))
        squares.append(float(jnp.square(0.5 * state.credit).mean()))
    np.testing.assert_allclose(squares, [1, 2, 1, 2], rtol=0.1)


def test_the_windows_of_a_masked_trajectory_add_up_to_its_loss():
    # T = 7 in windows of 3: the sum over windows of W times the gradient is d(sum of losses) / d theta = 21
    estimator, theta = nres(counting(7), 0.5, 20_000, 3, stagger=False), jnp.float32(1.0)
    state, total, grad = estimator.init(theta, (), jax.random.key(0)), 0.0, jax.jit(estimator.grad)
    for i in range(3):
        gradient, state, _ = grad(theta, state, (), jax.random.key(1), jnp.int32(i))
        total += 3 * float(gradient)
    # exact up to the sample's mean of eps^2, common to the three windows
    np.testing.assert_allclose(total, 21, rtol=0.05)


@pytest.mark.parametrize("horizon", [log_uniform_horizon(3, 40), growing_horizon(5, 40, 30)])
def test_schedules_of_horizons_do_not_compile_again(horizon):
    estimator, theta, traces = pes(counting(None), 0.5, 64, 5, horizon), jnp.float32(1.0), []

    def grad(*args):
        traces.append(1)
        return estimator.grad(*args)

    state, lengths = estimator.init(theta, (), jax.random.key(0)), []
    step = jax.jit(grad)
    for i in range(40):
        _, state, _ = step(theta, state, (), jax.random.key(i), jnp.int32(i))
        lengths.append(np.asarray(state.clock.length))
    assert len(traces) == 1
    assert np.min(lengths) >= 3 and np.max(lengths) <= 40
    assert np.max(lengths[:3]) < np.max(lengths) or horizon.shortest == 3
    assert len(np.unique(lengths)) > 8


def test_a_horizon_may_be_any_whole_number():
    assert nres(counting(None), 0.1, 2, 2, np.int64(6)).batch == 2
    with pytest.raises(TypeError, match=r"horizon|integer"):
        nres(counting(None), 0.1, 2, 2, 6.0)  # pyright: ignore[reportArgumentType]


def test_log_uniform_lengths_are_uniform_in_their_logarithm():
    sample = log_uniform_horizon(10, 1000).sample
    lengths = jax.vmap(lambda k: sample(k, jnp.int32(0)))(jax.random.split(jax.random.key(0), 20_000))
    assert int(lengths.min()) == 10 and int(lengths.max()) == 1000
    assert abs(np.log(np.asarray(lengths)).mean() - (np.log(10) + np.log(1000)) / 2) < 0.03


def breaking(at_step=2, length=8) -> InnerLoop:
    """Each trajectory breaks with probability one half, at a step, for good."""

    def init(theta, data, key):
        del theta, data
        return {"breaks": jax.random.bernoulli(key), "s": jnp.float32(1)}

    def step(theta, state, t, key, data):
        del key, data
        s = jnp.where(state["breaks"] & (t == at_step), jnp.nan, state["s"])
        return {**state, "s": s}, s * theta, {"s": s}

    return InnerLoop(init, step, None, length)


def finished(estimator, *arguments):
    gradient, state, metrics = estimator.grad(*arguments)
    gradient, metrics = estimator.finish(gradient, metrics)
    return gradient, state, metrics


@pytest.mark.parametrize("name", ONLINE)
def test_a_pair_that_is_not_finite_costs_itself_and_starts_anew(name):
    estimator = ONLINE[name](breaking(), sigma=0.1, pairs=256, window=2, stagger=False)
    theta = jnp.float32(3.0)
    state = estimator.init(theta, (), jax.random.key(0))
    grad, dropped, breaks = jax.jit(lambda *arguments: finished(estimator, *arguments)), [], []
    for i in range(3):
        gradient, state, metrics = grad(theta, state, (), jax.random.key(i), jnp.int32(i))
        dropped.append(float(metrics["dropped"]))
        breaks.append(np.asarray(getattr(state, "pairs", state).inner["breaks"]).reshape(256, -1)[:, 0].mean())
        np.testing.assert_allclose(metrics["loss"], 3.0, rtol=0.02)  # the mean over the others
        np.testing.assert_allclose(gradient, 1.0, atol=0.3)
    np.testing.assert_allclose(dropped, [0.0, breaks[0], 0.0], atol=1e-6)
    assert 0.4 < breaks[0] < 0.6 and breaks[2] < breaks[0]  # half of the broken ones drew a whole trajectory


def test_without_one_finite_pair_theta_stays_and_the_loss_says_so():
    estimator = full_es(stateless(lambda theta, key: theta.sum() * jnp.nan), 0.1, 4)
    loop = outer_loop(estimator, optax.sgd(1.0))
    state, metrics = loop.step(loop.init(jnp.ones(2), (), jax.random.key(0)), ())
    np.testing.assert_array_equal(state.theta, np.ones(2))
    assert np.isnan(metrics["loss"][0]) and metrics["dropped"][0] == 1


def test_shaping_applies_to_half_the_difference():
    estimator = full_es(
        stateless(lambda theta, key: 1e6 * theta.sum()), 0.1, 64, shaping=lambda d: jnp.clip(d, -1.0, 1.0)
    )
    gradient = one_gradient(estimator, jnp.zeros(1))
    # every difference is clipped to the sign of eps: mean |eps| / sigma
    assert 0.6 / 0.1 < float(gradient[0]) < 1.0 / 0.1


def test_a_schedule_of_sigma_keeps_the_estimate_unbiased():
    def sigma(outer_step):
        return 0.1 * (1.0 + outer_step.astype(jnp.float32))

    for make in (nres, pes):
        estimator, total = make(counting(6), sigma, 50_000, 2, stagger=False), 0.0
        theta, grad = jnp.float32(1.0), jax.jit(estimator.grad)
        state = estimator.init(theta, (), jax.random.key(0))
        for i in range(3):
            gradient, state, _ = grad(theta, state, (), jax.random.key(i), jnp.int32(i))
            total += 2 * float(gradient)
        np.testing.assert_allclose(total, 15, rtol=0.05)


@pytest.mark.parametrize(("rows", "cols", "rank"), [(8, 6, 1), (8, 6, 2), (12, 10, 1)])
def test_low_rank_noise_has_the_variance_of_the_closed_form(rows, cols, rank):
    with jax.enable_x64(True):
        slope = jax.random.normal(jax.random.key(1), (rows, cols))
        estimator = full_es(stateless(lambda theta, key: (slope * theta).sum()), 0.3, 1, noise=low_rank(rank))
        theta = jnp.zeros((rows, cols))
        if rank * (rows + cols) < rows * cols:
            assert "Factors" in str(jax.eval_shape(lambda: low_rank(rank).draw(theta, jax.random.key(0))))
        keys = jax.random.split(jax.random.key(2), 40_000)
        samples = jax.jit(
            jax.vmap(lambda k: estimator.grad(theta, estimator.init(theta, (), k), (), k, jnp.int32(0))[0])
        )(keys)
        error = np.asarray(samples).reshape(len(keys), -1) - np.asarray(slope).ravel()
        np.testing.assert_array_less(np.abs(error.mean(0) / (error.std(0) / len(keys) ** 0.5)), 4.5)
        squares = (error**2).sum(-1) / float(jnp.square(slope).sum())
        formula = rows * cols + 1 + 2 * (rows + cols + 1) / rank
        assert abs(squares.mean() - formula) < 4 * squares.std() / len(keys) ** 0.5


@pytest.mark.parametrize("rank", [1, 3])
def test_low_rank_noise_is_what_it_says_it_is(rank):
    noise = low_rank(rank)
    theta = {"w": jnp.zeros((7, 9)), "b": jnp.zeros(5), "heads": jnp.zeros((6, 2, 5))}
    keys = jax.random.split(jax.random.key(0), 4)
    eps = jax.vmap(lambda k: noise.draw(theta, k))(keys)
    written = jax.vmap(noise.dense)(eps)
    assert all(np.linalg.matrix_rank(np.asarray(w)) == rank for w in written["w"])
    assert all(np.linalg.matrix_rank(np.asarray(w).reshape(6, 10)) == rank for w in written["heads"])
    weights = jnp.asarray([0.5, -1.0, 2.0, 0.25])
    for name in theta:
        mean = np.einsum("n,n...->...", np.asarray(weights), np.asarray(written[name])) / 4
        np.testing.assert_allclose(noise.mean(eps, weights)[name], mean, atol=1e-6)
    other = jax.vmap(lambda k: dense.draw(theta, k))(keys)
    dots = sum(np.sum(np.reshape(np.asarray(written[name]) * np.asarray(other[name]), (4, -1)), 1) for name in theta)
    np.testing.assert_allclose(jax.vmap(noise.dot)(eps, other), dots, rtol=1e-4)
    particles = jax.vmap(lambda e: noise.particle(theta, e, jnp.float32(0.5)))(eps)
    added = jax.vmap(lambda p: noise.apply(lambda t: t["w"] * 1.0, theta, p))(particles)
    np.testing.assert_allclose(added, 0.5 * written["w"], atol=1e-6)


def network_loop(length=4) -> InnerLoop:
    """A recurrent net whose matrices are theta, of a size for which low-rank noise is worth it."""

    def init(theta, data, key):
        del data
        return jnp.tanh(jax.random.normal(key, (12,)) @ theta["w"])

    def step(theta, state, t, key, data):
        del t
        state = jnp.tanh(state @ theta["w"] + jax.random.normal(key, (12,)) + theta["b"])
        return state, jnp.square(state - data).mean(), {"first": state[0]}

    return InnerLoop(init, step, None, length)


def network_theta():
    return {"w": 0.3 * jax.random.normal(jax.random.key(9), (12, 12)), "b": jnp.zeros(12)}


@pytest.mark.parametrize("make", [nres, pes, truncated_es, nres_a, pes_a])
def test_low_rank_noise_gives_what_its_dense_form_would(make):
    noise = low_rank(2)
    written = noise._replace(
        draw=lambda theta, key: noise.dense(noise.draw(theta, key)),
        particle=dense.particle,
        apply=dense.apply,
        dense=dense.dense,
        mean=dense.mean,
        dot=dense.dot,
    )
    results = []
    for form in (noise, written):
        estimator = make(network_loop(), 0.1, 6, 2, noise=form, tasks=2)
        theta, data = network_theta(), jnp.float32(0.3)
        state, grad = estimator.init(theta, data, jax.random.key(0)), jax.jit(estimator.grad)
        for i in range(3):
            gradient, state, _ = grad(theta, state, data, jax.random.key(i), jnp.int32(i))
        results.append(gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), *results)


def test_tasks_of_a_pair_differ_and_share_its_noise():
    estimator = nres(network_loop(), 0.1, 3, 2, tasks=5)
    theta, data = network_theta(), jnp.float32(0.3)
    state = estimator.init(theta, data, jax.random.key(0))
    _, state, _ = jax.jit(estimator.grad)(theta, state, data, jax.random.key(0), jnp.int32(0))
    assert state.inner.shape == (3, 2, 5, 12)
    assert len(np.unique(np.asarray(state.inner)[:, 0, :, 0])) == 15


SCRIPT = """
import sys; sys.path[:0] = ["tests/metalearn/gradients"]
import jax, numpy as np, optax, jax.numpy as jnp
import test_es as t
from metalearn.outer import local_mesh, outer_loop
from metalearn.gradients import *
def numbers(estimator, mesh):
    loop = outer_loop(estimator, optax.sgd(0.1), 4, mesh)
    state = loop.init(t.network_theta(), jnp.float32(0.3), jax.random.key(0))
    losses = []
    for _ in range(3):
        state, metrics = loop.step(state, jnp.float32(0.3))
        losses.append(np.asarray(metrics["loss"]))
    return state, np.concatenate(losses), loop
for make, noise in ((gpes, dense), (pes_a, dense), (nres, low_rank(1))):
    options = {"resample": 4} if make is gpes else {}
    estimator = make(t.network_loop(6), 0.1, 16, 2, noise=noise, **options)
    one, losses_1, _ = numbers(estimator, None)
    eight, losses_8, loop = numbers(estimator, local_mesh(16))
    assert len(jax.tree.leaves(eight.estimator)[0].sharding.device_set) == 8
    np.testing.assert_allclose(losses_1, losses_8, rtol=3e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=3e-6), one.theta, eight.theta)
text = loop.step.lower(eight, jnp.float32(0.3)).compile().as_text()
assert text.count(" all-reduce(") + text.count(" all-reduce-start(") == 1, text.count("all-reduce")
bad = outer_loop(nres(t.breaking(), 0.1, 16, 2), optax.sgd(0.1), 6, local_mesh(16))
bad_1 = outer_loop(nres(t.breaking(), 0.1, 16, 2), optax.sgd(0.1), 6)
(_, m8), (_, m1) = (b.step(b.init(jnp.float32(1), (), jax.random.key(3)), ()) for b in (bad, bad_1))
assert 0 < m1["dropped"].max() < 1
for name in m1:
    np.testing.assert_allclose(m1[name], m8[name], rtol=3e-6, atol=1e-7)
print("equal")
"""


def test_eight_devices_give_the_numbers_of_one_with_one_all_reduce(on_eight_devices):
    assert on_eight_devices(SCRIPT) == "equal"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda loop: nres(loop, 0.0, 2, 2), "sigma, the standard deviation .* positive, got 0.0"),
        (lambda loop: pes(loop, float("nan"), 2, 2), "positive, got nan"),
        (lambda loop: nres(loop, 0.1, 0, 2), "pairs must be at least 1, got 0"),
        (lambda loop: nres(loop, 0.1, 2, 2, tasks=0), "tasks must be at least 1, got 0"),
        (lambda loop: nres(loop, 0.1, 2, 5), "window must be at most the length of a trajectory, 4 steps, got 5"),
        (lambda loop: nres(loop, 0.1, 2, 2, 0), "length must be at least 1, got 0"),
        (lambda loop: full_es(loop._replace(length=None), 0.1, 2), "this inner loop has length=None: pass horizon"),
        (lambda loop: gpes(loop, 0.1, 2, 0, 3), "window must be at least 1, got 0"),
        (lambda loop: gpes(loop, 0.1, 2, 2, 3), "resample must be a positive multiple of the window of 2 steps, got 3"),
        (lambda loop: low_rank(0), "rank of the noise must be at least 1, got 0"),
        (lambda loop: log_uniform_horizon(5, 4), "shortest must not be greater than longest, got 5 and 4"),
        (lambda loop: growing_horizon(5, 4, 10), "first must not be greater than last, got 5 and 4"),
        (lambda loop: nres_a(loop, 0.1, 2, 2, trust=-1.0), "trust must not be negative"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(network_loop())


def changed(**functions) -> InnerLoop:
    return network_loop()._replace(**functions)


@pytest.mark.parametrize(
    ("loop", "theta", "message"),
    [
        (network_loop(), {"w": jnp.eye(12), "b": jnp.zeros(12, jnp.int32)}, r"theta\['b'\] is of type int32 array"),
        (network_loop(), {"w": jnp.eye(12), "b": "zero"}, r"theta\['b'\] is of type str"),
        (changed(step=lambda *a: (a[1], jnp.zeros(3), {})), None, r"must be a float scalar, got float32\[3\]"),
        (changed(step=lambda *a: (a[1], jnp.int32(1), {})), None, r"must be a float scalar, got int32\[\]"),
        (changed(step=lambda *a: (a[1], jnp.float32(1))), None, "must return .state, loss, aux.*got a tuple of 2"),
        (changed(step=lambda *a: (a[1], jnp.float32(1), {"x": jnp.ones(2)})), None, "dict of scalars"),
        (
            changed(step=lambda *a: (a[1][:3], jnp.float32(1), {})),
            None,
            r"state is float32\[12\] before a step and float32\[3\] after",
        ),
        (
            changed(step=lambda *a: (a[1].astype(jnp.bfloat16), jnp.float32(1), {})),
            None,
            r"float32\[12\] before a step and bfloat16\[12\] after",
        ),
        (changed(step=lambda *a: ((a[1],), jnp.float32(1), {})), None, "must keep the structure of the state"),
    ],
)
def test_a_loop_that_cannot_work_is_named_in_the_users_terms(loop, theta, message):
    for estimator in (nres(loop, 0.1, 2, 2), full_es(loop, 0.1, 2)):
        with pytest.raises(TypeError, match=message):
            estimator.init(network_theta() if theta is None else theta, jnp.float32(0), jax.random.key(0))
