"""The systems with known answers: closed forms, NumPy loops, and the figures that fix their conventions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from metalearn.errors import UnknownNameError
from metalearn.inner import scan_steps, start, unroll
from metalearn_tasks.systems import influence as balancing
from metalearn_tasks.systems import linear, lorenz, mlp_schedule, schedule_2d

KEY = jax.random.key(0)
S, P, T = 4, 3, 12


@pytest.fixture(autouse=True)
def double():
    """Closed forms are compared in float64."""
    with jax.enable_x64(True):
        yield


def whole(loop, theta, data=(), key=KEY, length=None):
    """The losses of one trajectory."""
    steps = loop.length if length is None else length
    return jax.jit(lambda theta: unroll(loop, theta, data, key[None], steps)[0][0])(theta)


# --- the linear system


def system_and_theta(seed=0):
    key_system, key_theta = jax.random.split(jax.random.key(seed))
    return linear.linear_system(key_system, S, P, T), jax.random.normal(key_theta, (P,))


def step_losses(system, thetas):
    """Losses [T] by the inner loop itself, with a theta of its own [T, P] in each step."""
    loop, steps = linear.linear(T), jnp.arange(T, dtype=jnp.int32)

    def body(state, t):
        return loop.step(thetas[t], state, t, KEY, system)[:2]

    return jax.lax.scan(body, start(loop, thetas[0], system, KEY), steps)[1]


many_step_losses = jax.jit(jax.vmap(step_losses, (None, 0)))
jacobian_of_steps = jax.jit(jax.jacrev(step_losses, 1))


def by_window(losses, window):
    """Sums over windows on the last axis, of which the last window may be shorter."""
    return np.add.reduceat(losses, np.arange(0, T, window), -1)


def test_linear_losses_are_those_of_a_numpy_loop():
    system, theta = system_and_theta()
    a, b, c, y, s = map(np.asarray, system)
    expected = []
    for t in range(T):
        s = a @ s + b @ np.asarray(theta)
        expected.append((c[t] @ s - y[t]) ** 2 / 2)
    np.testing.assert_allclose(whole(linear.linear(T), theta, system), expected, rtol=1e-12)
    np.testing.assert_allclose(np.abs(np.linalg.eigvals(a)).max(), 0.9, rtol=1e-12)


@pytest.mark.parametrize("window", [1, 3, 5, T])
def test_influence_is_the_jacobian_with_a_theta_of_its_own_in_each_step(window):
    system, theta = system_and_theta()
    jacobian = np.asarray(jacobian_of_steps(system, jnp.tile(theta, (T, 1))))  # [T, T, P]
    expected = by_window(by_window(jacobian.transpose(2, 0, 1), window).swapaxes(1, 2), window).transpose(2, 1, 0)
    g = linear.influence(system, theta, window)
    np.testing.assert_allclose(g, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(np.asarray(g)[np.triu_indices(len(g), 1)], 0)
    np.testing.assert_allclose(linear.full_gradient(g), jacobian.sum((0, 1)), rtol=1e-10)


def test_linear_window_losses_are_quadratic_in_a_perturbation_of_any_size():
    system, theta = system_and_theta()
    noise = np.repeat(np.random.default_rng(0).normal(size=(4, P)), 3, 0)

    def at(h):
        return by_window(np.asarray(many_step_losses(system, np.asarray(theta) + h * noise[None])[0]), 3)

    low, middle, high = at(-1.0), at(0.0), at(1.0)
    for h in (0.3, 5.0, -40.0):
        parabola = middle + h * (high - low) / 2 + h**2 * (high + low - 2 * middle) / 2
        np.testing.assert_allclose(at(h), parabola, rtol=1e-10)
    assert np.abs(high + low - 2 * middle).min() > 1e-3


def estimates(system, theta, window, segment, noise, analytic=False):
    """One antithetic pair's estimates [B, W, P] for each of many draws of the noise [B, segments, P].

    GPES as its authors define it: the noise lasts `segment` windows, the accumulator is the sum of the noises so far.
    """
    windows = -(-T // window)
    of = np.arange(windows) // segment
    by_step = noise[:, of[np.arange(T) // window]]
    high, low = (many_step_losses(system, np.asarray(theta) + sign * by_step) for sign in (1, -1))
    delta = by_window(np.asarray(high - low), window)[..., None] / 2
    total = np.cumsum(noise, 1)[:, of]
    if not analytic:
        return total * delta
    local = np.einsum("wwp->wp", linear.influence(system, theta, window))  # each window's own gradient
    before = total if segment >= windows else total - noise[:, of]
    return local + before * (delta - (local * noise[:, of]).sum(-1, keepdims=True))


def moments(system, theta, window, segment, analytic=False):
    """Mean [W, P] and covariance [W, P, W, P] of the estimates as quadratic forms of standard normals.

    q(e) = constant + e M e with symmetric M has mean constant + tr M, and two such covariance 2 tr M M'. M is read off
    from the values at all sums of two unit vectors, or none.
    """
    size = math.ceil(math.ceil(T / window) / segment) * P
    points = np.zeros((T * P + 1, size))  # more than needed, so that one compilation does for every window
    points[1 : size + 1] = np.eye(size)
    sums = (points[:, None] + points[None]).reshape(len(points) ** 2, -1, P)
    values = estimates(system, theta, window, segment, sums, analytic)
    values = values.reshape(len(points), len(points), *values.shape[1:])
    constant, at_units, at_pairs = values[0, 0], values[0, 1 : size + 1], values[1 : size + 1, 1 : size + 1]
    forms = (at_pairs - at_units[:, None] - at_units[None] + constant) / 2
    return constant + np.einsum("iiwp->wp", forms), 2 * np.einsum("ijwp,jivq->wpvq", forms, forms)


@pytest.mark.parametrize("window", [1, 3, 5])
def test_variances_are_those_of_the_simulated_estimators(window):
    """The estimators are run on the inner loop; as quadratic forms in their noise, their moments are exact."""
    system, theta = system_and_theta(1)
    g = linear.influence(system, theta, window)
    windows = len(g)
    cases = {
        "pes": (1, False, linear.pes_variance),
        "gpes": (2, False, lambda g: linear.gpes_variance(g, 2)),
        "nres": (windows, False, linear.nres_variance),
        "pes with local gradients": (1, True, linear.pes_analytic_variance),
        "nres with local gradients": (windows, True, linear.nres_analytic_variance),
    }
    formulas = jax.jit(lambda g: {name: formula(g) for name, (*_, formula) in cases.items()})(g)
    for name, (segment, analytic, _) in cases.items():
        mean, covariance = moments(system, theta, window, segment, analytic)
        np.testing.assert_allclose(mean.sum(0), linear.full_gradient(g), rtol=1e-9, err_msg=name)
        exact = np.einsum("wpvp->", covariance)
        np.testing.assert_allclose(formulas[name], exact, rtol=1e-9, err_msg=name)
        assert exact > 0


def test_second_moments_of_single_windows_are_those_of_the_simulated_estimators():
    system, theta = system_and_theta(2)
    g = linear.influence(system, theta, 3)
    pes, nres = linear.pes_second_moment(g), linear.nres_second_moment(g)
    for segment, formula in ((1, pes), (len(g), nres)):
        mean, covariance = moments(system, theta, 3, segment)
        np.testing.assert_allclose(formula, np.einsum("wpwp->w", covariance) + (mean**2).sum(1), rtol=1e-9)
    assert bool((nres <= pes * (1 + 1e-12)).all())


def test_gpes_lies_between_pes_and_nres_at_its_ends():
    g = linear.influence(*system_and_theta(), 1)
    np.testing.assert_allclose(linear.gpes_variance(g, 1), linear.pes_variance(g), rtol=1e-12)
    for windows in (T, 2 * T):
        np.testing.assert_allclose(linear.gpes_variance(g, windows), linear.nres_variance(g), rtol=1e-12)
    np.testing.assert_allclose(linear.coarsen(g, 3), linear.influence(*system_and_theta(), 3), rtol=1e-10, atol=1e-12)


def test_a_single_window_leaves_the_analytic_variants_no_variance():
    g = linear.influence(*system_and_theta(), T)
    assert float(linear.pes_analytic_variance(g)) == 0 == float(linear.nres_analytic_variance(g))
    np.testing.assert_allclose(linear.pes_variance(g), linear.nres_variance(g), rtol=1e-12)


def test_local_influence_makes_pes_half_as_noisy_as_nres():
    """Equal gradients, each window moved by its own theta alone: P (T + 1) / 2T + 1 / T times |g|^2, in T windows."""
    g = jnp.tile(jnp.eye(T)[..., None], P)
    ratio = linear.pes_variance(g) / jnp.square(linear.full_gradient(g)).sum()
    np.testing.assert_allclose(ratio, P * (T + 1) / (2 * T) + 1 / T, rtol=1e-12)


# --- influence balancing


def test_influence_of_theta_in_closed_form():
    assert [balancing.influence_of(t) for t in (0, 1, 10)] == [0, 1, 10]
    assert round(balancing.influence_of(20), 2) == 16.48
    values = [balancing.influence_of(t) for t in range(1, 60)]
    assert next(t for t, h in enumerate(values, 1) if h < 0) == 41
    np.testing.assert_allclose(balancing.influence_of(500), -6, rtol=1e-12)
    np.testing.assert_allclose(sum(balancing.influence_of(t) for t in range(1, 101)), 58, atol=0.5)


@pytest.mark.parametrize("t", [1, 2, 10, 20, 41, 300])
def test_influence_is_the_derivative_of_the_simulation(t):
    loop, theta = balancing.influence_balancing(), jnp.array(0.5)

    def first(theta):
        return scan_steps(loop, theta, start(loop, theta, (), KEY), jnp.int32(0), t, KEY, ())[0][0]

    np.testing.assert_allclose(jax.jacfwd(first)(theta), balancing.influence_of(t), rtol=1e-10)


def test_influence_balancing_settles_at_the_known_loss_and_gradient():
    loss, gradient = jax.value_and_grad(balancing.final_loss)(jnp.array(balancing.START))
    np.testing.assert_allclose([loss, gradient], [8, 24], rtol=1e-12)
    np.testing.assert_allclose(jax.value_and_grad(balancing.final_loss)(jnp.array(-1 / 6)), (0, 0), atol=1e-12)


def online(exact, updates=3000, rate=1e-4):
    """SGD along a trajectory that goes on while theta changes; real-time recurrent learning, or one step back only."""
    loop = balancing.influence_balancing()

    def update(carry, t):
        theta, state, tangent = carry
        tangent = tangent if exact else jnp.zeros_like(tangent)
        step = lambda theta, state: loop.step(theta, state, t, KEY, ())[:2]  # noqa: E731
        (state, _), (tangent, gradient) = jax.jvp(step, (theta, state), (jnp.ones_like(theta), tangent))
        theta = theta - rate * gradient
        return (theta, state, tangent), theta

    theta = jnp.array(balancing.START)
    state = start(loop, theta, (), KEY)
    thetas = jax.lax.scan(update, (theta, state, jnp.zeros_like(state)), jnp.arange(updates, dtype=jnp.int32))[1]
    return jax.vmap(balancing.final_loss)(thetas[jnp.array([499, 999, 2999])])


def test_one_step_back_raises_the_loss_as_published_and_exact_gradients_lower_it():
    """These figures fix the convention that the loss is that of the state after the update."""
    np.testing.assert_allclose(online(exact=False), [12.645, 22.209, 211.32], rtol=1e-4)
    np.testing.assert_allclose(online(exact=True)[:2], [1.0417e-2, 1.3439e-5], rtol=1e-3)
    assert float(online(exact=True)[2]) < 2e-12


def test_influence_balancing_is_a_linear_system_and_has_the_known_variances():
    """Per-pair relative standard deviations over 100 steps, which were derived and simulated independently of this."""
    length, signs = 100, jnp.where(jnp.arange(23) < 10, 1.0, -1.0)
    system = linear.LinearSystem(
        transition=(jnp.eye(23) + jnp.eye(23, k=1)) / 2,
        control=signs[:, None],
        readout=jnp.tile(jax.nn.one_hot(0, 23), (length, 1)),
        target=jnp.ones(length),
        initial=jnp.ones(23),
    )
    theta = jnp.array(balancing.START)
    losses = whole(balancing.influence_balancing(), theta, length=length)
    np.testing.assert_allclose(whole(linear.linear(length), theta[None], system), losses, rtol=1e-10)

    @jax.jit
    def deviations(theta):
        by_step = linear.influence(system, theta[None], 1)
        variances = jnp.stack([linear.gpes_variance(by_step, windows) for windows in (1, 10, 50)])
        return jnp.sqrt(variances) / jnp.abs(linear.full_gradient(by_step)).sum()

    np.testing.assert_allclose(deviations(theta), [1.76, 1.85, 2.07], atol=0.005)


# --- the two-dimensional schedule


def numpy_schedule_2d(theta_0, theta_1, length=100):
    """Meta-losses with f taken before and after the update, any shape."""
    x, y = np.ones_like(theta_0), np.ones_like(theta_0)

    def f():
        return np.sqrt(x**2 + 5) - 5**0.5 + np.sin(y) ** 2 * np.exp(-5 * x**2) + 0.25 * np.abs(y - 100)

    before = after = 0.0
    for t in range(length):
        rate = (1 - t / length) * np.exp(theta_0) + t / length * np.exp(theta_1)
        before = before + f()
        bump = np.exp(-5 * x**2)
        dx = x / np.sqrt(x**2 + 5) - 10 * x * np.sin(y) ** 2 * bump
        dy = np.sin(2 * y) * bump + 0.25 * np.sign(y - 100)
        x, y = x - rate * dx, y - rate * dy
        after = after + f()
    return before, after


def test_meta_loss_has_its_known_minimum_and_start():
    axis, losses = schedule_2d.meta_loss_grid(-8, 8, 65)
    row, column = np.unravel_index(np.argmin(losses), losses.shape)
    assert (float(axis[row]), float(axis[column])) == (2.75, -1.75)
    np.testing.assert_allclose(losses[row, column], 555.53, atol=0.01)
    np.testing.assert_allclose(schedule_2d.meta_loss(jnp.array(schedule_2d.START)), 2487.77, atol=0.01)


def test_meta_loss_is_that_of_a_numpy_loop():
    axis, losses = schedule_2d.meta_loss_grid(-6, -1, 11)  # beyond, chaos makes a difference of a rounding error
    before, after = numpy_schedule_2d(*np.meshgrid(axis, axis, indexing="ij"))
    np.testing.assert_allclose(losses, after, rtol=1e-8)
    assert not np.allclose(losses, before, rtol=1e-8)


def test_learning_rate_goes_from_one_end_to_the_other():
    theta = jnp.array([math.log(2.0), math.log(0.5)])
    rates = [schedule_2d.learning_rate(theta, jnp.int32(t), 100) for t in (0, 50, 100)]
    np.testing.assert_allclose(rates, [2, 1.25, 0.5], rtol=1e-12)


# --- the Lorenz system


def numpy_lorenz(point, a, r, steps, b=8 / 3, dt=0.005):
    """z after each of so many Euler steps, any number of points [3, N]."""
    heights = []
    for _ in range(steps):
        x, y, z = point
        point = point + dt * np.array([a * (y - x), x * (r - z) - y, x * y - b * z])
        heights.append(point[2])
    return np.array(heights)


def test_lorenz_losses_are_those_of_a_numpy_loop():
    loop = lorenz.lorenz()
    theta = jnp.array(lorenz.START)
    point = np.asarray(start(loop, theta, (), KEY).point)
    simulated, target = (numpy_lorenz(point, a, r, 300) for a, r in [np.exp(lorenz.START), (10, 28)])
    np.testing.assert_allclose(whole(loop, theta, length=300), (simulated - target) ** 2, rtol=1e-8)


def test_lorenz_steps_converge_to_the_differential_equation():
    def field(_, point):
        x, y, z = point
        return [10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z]

    errors = []
    for steps in (1000, 10000):
        loop = lorenz.lorenz(lorenz.LorenzConfig(steps, 1 / steps, start_std=0.0))
        theta = lorenz.true_theta()
        state, *_ = scan_steps(loop, theta, start(loop, theta, (), KEY), jnp.int32(0), steps, KEY, ())
        exact = solve_ivp(field, (0, 1), (1.2, 1.3, 1.6), rtol=1e-11, atol=1e-11).y[:, -1]
        errors.append(np.abs(np.asarray(state.target) - exact).max())
    assert errors[1] < 0.1
    np.testing.assert_allclose(errors[0] / errors[1], 10, rtol=0.2)  # Euler's method is of first order


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_true_lorenz_parameters_have_no_loss_at_all(dtype):
    keys = jax.random.split(KEY, 8)
    losses, _ = jax.jit(lambda theta: unroll(lorenz.lorenz(), theta, (), keys, 2000))(lorenz.true_theta().astype(dtype))
    assert losses.dtype == dtype
    np.testing.assert_array_equal(losses, 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lorenz_loss_at_the_papers_start(dtype):
    theta = jnp.array(lorenz.START, dtype)
    losses, _ = jax.jit(lambda keys: unroll(lorenz.lorenz(), theta, (), keys, 2000))(jax.random.split(KEY, 256))
    np.testing.assert_allclose(losses.mean(), 313, rtol=0.03)


def test_lorenz_starts_have_the_mean_and_the_deviation_of_the_config():
    loop = lorenz.lorenz(lorenz.LorenzConfig(start_std=0.5))
    states = jax.vmap(lambda key: start(loop, jnp.array(lorenz.START), (), key))(jax.random.split(KEY, 4000))
    np.testing.assert_allclose(states.point.mean(0), [1.2, 1.3, 1.6], atol=0.04)
    np.testing.assert_allclose(states.point.std(0), 0.5, rtol=0.06)
    np.testing.assert_array_equal(states.point, states.target)


# --- the schedule of a multilayer perceptron

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


def test_meta_gradients_of_the_training_loss_are_finite_differences_and_of_the_accuracy_zero():
    theta, h = mlp_schedule.schedule(0.1, 1.0), 1e-6
    train = mlp_schedule.mlp_schedule(mlp_schedule.MLPScheduleConfig((4,), C, 0.9, 4.0, 6, 8))
    total = jax.value_and_grad(lambda theta: whole(train, theta, examples(0)).sum())
    shifts = {"log_learning_rate": jnp.array([0, h, -h, 0, 0]), "log_decay": jnp.array([0, 0, 0, h, -h])}
    values, gradients = jax.jit(jax.vmap(total))({name: theta[name][None] + shifts[name] for name in theta})
    expected = (values[1] - values[2]) / (2 * h), (values[3] - values[4]) / (2 * h)
    np.testing.assert_allclose([gradients[name][0] for name in shifts], expected, rtol=1e-5)

    error = mlp_schedule.mlp_schedule(mlp_schedule.MLPScheduleConfig((4,), C, batch=8, objective="accuracy"))
    data = examples(0), examples(1)

    def first_loss(theta):
        return error.step(theta, start(error, theta, data, KEY), jnp.int32(0), KEY, data)[1]

    zero = jax.jit(jax.grad(first_loss))(theta)
    assert all(float(leaf) == 0 for leaf in zero.values())


# --- all of them

LOOPS = {
    "linear": lambda dtype: (linear.linear(T), jnp.zeros(P, dtype), linear.linear_system(KEY, S, P, T)),
    "influence": lambda dtype: (balancing.influence_balancing(), jnp.array(0.5, dtype), ()),
    "schedule_2d": lambda dtype: (schedule_2d.schedule_2d(), jnp.array(schedule_2d.START, dtype), ()),
    "lorenz": lambda dtype: (lorenz.lorenz(), jnp.array(lorenz.START, dtype), ()),
    "mlp_schedule": lambda dtype: (
        mlp_schedule.mlp_schedule(mlp_schedule.MLPScheduleConfig((4,), C, batch=8)),
        jax.tree.map(lambda leaf: leaf.astype(dtype), mlp_schedule.schedule(0.1, 1.0)),
        examples(0),
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LOOPS)
def test_float_type_is_thetas_whatever_that_of_the_data(name, dtype):
    loop, theta, data = LOOPS[name](dtype)

    @jax.jit
    def first_step(theta):
        state = start(loop, theta, data, KEY)
        return state, loop.step(theta, state, jnp.int32(1), KEY, data)

    state, (new, loss, aux) = first_step(theta)
    assert {leaf.dtype for leaf in jax.tree.leaves((state, new, loss, aux))} == {jnp.dtype(dtype)}
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)
    assert loss.shape == () and all(value.shape == () for value in aux.values())


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="got state=0"):
        linear.linear_system(KEY, 0, P, T)
    with pytest.raises(ValueError, match="at least the 13 steps of the inner loop, got 12"):
        start(linear.linear(13), jnp.zeros(P), linear.linear_system(KEY, S, P, T), KEY)
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        linear.linear(0)
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        linear.influence(*system_and_theta(), 0)
    with pytest.raises(ValueError, match="windows must be at least 1, got 0"):
        linear.coarsen(jnp.zeros((2, 2, P)), 0)
    with pytest.raises(ValueError, match="positive=24, size=23"):
        balancing.influence_balancing(balancing.InfluenceConfig(positive=24))
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        schedule_2d.schedule_2d(schedule_2d.Schedule2DConfig(0))
    with pytest.raises(ValueError, match="low < high"):
        schedule_2d.meta_loss_grid(1, 1, 5)
    with pytest.raises(ValueError, match="a, r and b must be positive"):
        lorenz.lorenz(lorenz.LorenzConfig(time_step=0.0))
    with pytest.raises(UnknownNameError, match=r"unknown objective 'acuracy'. Did you mean 'accuracy'"):
        mlp_schedule.mlp_schedule(mlp_schedule.MLPScheduleConfig(objective="acuracy"))
    with pytest.raises(ValueError, match="momentum"):
        mlp_schedule.mlp_schedule(mlp_schedule.MLPScheduleConfig(momentum=1.0))
    with pytest.raises(ValueError, match="must be positive"):
        mlp_schedule.mlp_schedule(mlp_schedule.MLPScheduleConfig(batch=0))
    with pytest.raises(ValueError, match="must be positive, got 0 and 1"):
        mlp_schedule.schedule(0, 1)
