"""Guards against loops written out in NumPy, and what they promise: no worse than the better of the two parts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn.errors import UnknownNameError
from metalearn_models.optimizers import gl2o, guard_optimizer, lgl2o, lgl2o_rounds, mlp_optimizer

CURVATURES = np.array([0.1, 0.3, 1.0, 2.0])
START = np.array([1.0, -2.0, 0.5, 1.5])
GUARD = optax.sgd(0.2)


def _loss(params, noise=0.0):
    x = jnp.concatenate([params["a"], params["b"].ravel()]) - noise
    return (jnp.asarray(CURVATURES, jnp.float32) * jnp.square(x)).sum() / 2


def _params(x=START):
    x = jnp.asarray(x, jnp.float32)
    return {"a": x[:3], "b": x[3].reshape(1, 1)}


@functools.cache  # a part that several tests compare with is trained once
def _train(transform, steps, noise=0.0, fresh=1):
    """The params at every step, their exact losses, and the last state; batches are shifts of the minimum."""
    shifts = jnp.asarray(noise * np.random.default_rng(0).normal(size=(steps, 1 + fresh, 4)), jnp.float32)

    def body(carry, shift):
        params, state = carry
        loss, grads = jax.value_and_grad(_loss)(params, shift[0])
        with jax.numpy_dtype_promotion("standard"):
            updates, state = transform.update(
                grads,
                state,
                params,
                value=loss,
                value_fn=lambda params: jax.vmap(lambda batch: _loss(params, batch))(shift[1:]).mean(),
            )
        params = optax.apply_updates(params, updates)
        return (params, state), (params, _loss(params))

    transform = optax.with_extra_args_support(transform)
    run = jax.jit(lambda: jax.lax.scan(body, (_params(), transform.init(_params())), shifts))
    (_, state), (params, losses) = run()
    return params, losses, state


def _constant(value):
    """An optimizer with a memory that makes the same update whatever it sees."""

    def update(updates, state, params=None):
        del params
        return jax.tree.map(lambda g: jnp.full_like(g, value), updates), state + value

    return optax.GradientTransformation(lambda params: jnp.float32(0), update)


def test_the_loss_falls_monotonically_under_a_guard_that_descends():
    optimizer = mlp_optimizer(step_size=0.2)
    learned = optimizer.transform(jax.jit(optimizer.init)(jax.random.key(2)))
    _, alone, _ = _train(learned, 60)
    assert (np.diff(alone) > 0).any()
    _, losses, state = _train(lgl2o(learned, optax.sgd(0.05)), 60)
    assert (np.diff(np.concatenate([[_loss(_params())], losses])) <= 0).all()
    assert 0 < state.fallbacks < 60  # each was chosen now and then


@pytest.mark.parametrize("noise, fresh, ratio", [(0.0, 1, 1.02), (0.3, 16, 1.1)])
@pytest.mark.parametrize("name", ["adam", "slow", "diverging", "untrained"])
def test_the_final_loss_is_at_most_that_of_the_better_part(name, noise, fresh, ratio):
    """Up to two per cent; up to ten where the judgement is by 16 batches as noisy as those trained on."""
    untrained = mlp_optimizer(step_size=0.1)
    learned = {
        "adam": optax.adam(0.1),
        "slow": optax.sgd(0.001),
        "diverging": optax.sgd(3.0),
        "untrained": untrained.transform(jax.jit(untrained.init)(jax.random.key(1))),
    }[name]
    guard = GUARD
    ends = [_train(part, 200, noise)[1][-50:].mean() for part in (learned, guard)]
    together = _train(lgl2o(learned, guard), 200, noise, fresh)[1][-50:].mean()
    assert together <= ratio * np.nanmin(ends)


@pytest.mark.parametrize("value", [np.inf, np.nan, 1e30])
@pytest.mark.parametrize(
    "scheme, guard", [(lgl2o, optax.sgd(0.3, 0.9)), (lgl2o, optax.adam(0.1)), (gl2o, optax.sgd(0.3))]
)
def test_beside_a_learned_part_that_diverges_the_guards_trajectory_comes_out_exactly(scheme, guard, value):
    params, _, state = _train(scheme(_constant(value), guard), 12)
    expected, _, expected_state = _train(guard, 12)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    jax.tree.map(np.testing.assert_array_equal, state.guard, expected_state)
    assert state.fallbacks == state.step == 12


def test_ties_go_to_the_guard():
    _, _, state = _train(lgl2o(optax.sgd(0.1), optax.sgd(0.1)), 5)
    assert state.fallbacks == 5


def test_a_finite_learned_candidate_is_taken_where_the_guards_is_not_finite():
    params, _, state = _train(lgl2o(optax.sgd(0.1), _constant(np.nan)), 5)
    assert state.fallbacks == 0
    jax.tree.map(np.testing.assert_array_equal, params, _train(optax.sgd(0.1), 5)[0])


def test_a_candidate_that_is_not_finite_is_rejected_also_where_its_loss_is_finite():
    transform = lgl2o(_constant(np.inf), optax.sgd(0.1))
    params = {"used": jnp.ones(2)}
    updates, _ = transform.update(params, transform.init(params), params, value_fn=lambda p: -jnp.tanh(p["used"]).sum())
    np.testing.assert_allclose(updates["used"], -0.1, rtol=1e-6)


@pytest.mark.parametrize("train, fresh", [(1, 1), (3, 2)])
def test_rounds_equal_the_loop_written_out(train, fresh):
    """Gradient descent with momentum that is too fast for one direction, guarded by gradient descent."""
    rng = np.random.default_rng(1)
    shifts = rng.normal(size=(8, train + fresh, 4)) * 0.5
    x, m, fallbacks, points, losses = START, np.zeros(4), 0, [], []
    for shift in shifts:
        y = z = x
        for batch in shift[:train]:
            m = 0.5 * m + CURVATURES * (y - batch)
            y = y - 1.2 * m
            z = z - 0.3 * CURVATURES * (z - batch)
        candidates = [np.mean([CURVATURES @ (c - batch) ** 2 / 2 for batch in shift[train:]]) for c in (y, z)]
        fallbacks += candidates[0] >= candidates[1]
        x = y if candidates[0] < candidates[1] else z
        points.append(x)
        losses.append(candidates)
    assert 0 < fallbacks < 8

    rounds = lgl2o_rounds(optax.sgd(1.2, 0.5), optax.sgd(0.3), _loss)

    def body(carry, shift):
        params, state, losses = rounds.round(*carry, shift[:train], shift[train:])
        return (params, state), (params, losses)

    run = jax.jit(lambda xs: jax.lax.scan(body, (_params(), rounds.init(_params())), xs))
    (_, state), (params, got) = run(jnp.asarray(shifts, jnp.float32))
    assert state.fallbacks == fallbacks
    np.testing.assert_allclose(got, losses, rtol=2e-5)
    np.testing.assert_allclose(np.c_[params["a"], params["b"].reshape(-1, 1)], points, rtol=1e-5, atol=1e-6)


def test_rounds_of_one_batch_are_the_transformation():
    learned, guard = optax.sgd(0.4, 0.5), optax.adam(0.1)
    expected, _, expected_state = _train(lgl2o(learned, guard), 10, 0.5)
    shifts = jnp.asarray(0.5 * np.random.default_rng(0).normal(size=(10, 2, 4)), jnp.float32)
    rounds = lgl2o_rounds(learned, guard, _loss)

    def body(carry, shift):
        params, state, _ = rounds.round(*carry, shift[:1], shift[1:])
        return (params, state), params

    (_, state), params = jax.jit(lambda: jax.lax.scan(body, (_params(), rounds.init(_params())), shifts))()
    assert 0 < state.fallbacks < 10
    # Parameters of size 1 that pass near 0 keep an absolute error: one rounding, at most 6e-8, in each of ten steps.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=10 * 6e-8),
        (params, state),
        (expected, expected_state),
    )


@pytest.mark.parametrize("mixing", [0.25, 1.0])
def test_gl2o_equals_the_loop_written_out(mixing):
    x, m, bound, fallbacks, points = START, np.zeros(4), None, 0, []
    for _ in range(12):
        g = CURVATURES * x
        m = 0.5 * m + g
        y, z = x - 1.1 * m, x - 0.3 * g
        bound = np.linalg.norm(0.3 * g) if bound is None else bound
        length = np.linalg.norm(0.3 * CURVATURES * y)
        if length <= 0.8 * bound:
            x, bound = y, mixing * length + (1 - mixing) * bound
        else:
            x, fallbacks = z, fallbacks + 1
        points.append(x)
    assert 0 < fallbacks < 12
    params, _, state = _train(gl2o(optax.sgd(1.1, 0.5), optax.sgd(0.3), 0.8, mixing), 12)
    assert state.fallbacks == fallbacks
    np.testing.assert_allclose(state.bound, bound, rtol=1e-5)
    np.testing.assert_allclose(np.c_[params["a"], params["b"].reshape(-1, 1)], points, rtol=1e-5, atol=1e-6)


def test_the_learned_memory_goes_on_after_a_fallback_or_starts_afresh():
    keep, reset = (_train(lgl2o(_constant(1.0), optax.sgd(0.3), how), 6)[2].learned for how in ("keep", "reset"))
    assert keep == 6
    assert reset == 0


def test_memory_that_is_not_finite_starts_afresh():
    """A learned part that breaks once, by a gradient beyond 1, and is good afterwards."""

    def update(updates, state, params=None):
        del params
        large = jnp.max(jnp.abs(updates["a"])) > 1
        state = jnp.where(large, jnp.nan, 1.0) * (1 + state)
        return jax.tree.map(lambda g: -0.4 * g + 0 * state, updates), state

    learned = optax.GradientTransformation(lambda params: jnp.float32(0), update)
    transform = lgl2o(learned, optax.sgd(0.1))
    params = _params()
    state = transform.init(params)
    for scale, memory, fallbacks in ((10.0, 0, 1), (1.0, 1, 1)):
        grads = jax.tree.map(lambda g: scale * g, jax.grad(_loss)(params))  # noqa: B023
        _, state = jax.jit(transform.update, static_argnames="value_fn")(grads, state, params, value_fn=_loss)
        assert (state.learned, state.fallbacks) == (memory, fallbacks)


def test_a_guarded_learned_optimizer_has_the_same_theta_and_passes_on_what_update_gets():
    optimizer = guard_optimizer(mlp_optimizer(), lambda learned: lgl2o(learned, optax.polyak_sgd()))
    theta, expected = (jax.jit(o.init)(jax.random.key(0)) for o in (optimizer, mlp_optimizer()))
    jax.tree.map(np.testing.assert_array_equal, theta, expected)
    params = _params()
    transform = optimizer.transform(theta, 10)
    grads = jax.grad(_loss)(params)
    update = jax.jit(transform.update, static_argnames="value_fn")
    # The guard, Polyak's step, needs the value.
    updates, state = update(grads, transform.init(params), params, value=_loss(params), value_fn=_loss)
    size = float(_loss(params)) / sum(float(jnp.square(g).sum()) for g in jax.tree.leaves(grads))
    assert state.fallbacks == 1
    jax.tree.map(lambda u, g: np.testing.assert_allclose(u, -size * g, rtol=1e-5), updates, grads)


def test_bad_arguments_are_refused():
    with pytest.raises(UnknownNameError, match=r"unknown on_fallback 'rest'. Did you mean 'reset'"):
        lgl2o(optax.sgd(0.1), optax.sgd(0.1), "rest")
    with pytest.raises(ValueError, match=r"got factor=1.0, mixing=0.25"):
        gl2o(optax.sgd(0.1), optax.sgd(0.1), 1.0)
    for scheme in (lgl2o, gl2o):
        transform = scheme(optax.sgd(0.1), optax.sgd(0.1))
        state = transform.init(jnp.ones(2))
        with pytest.raises(ValueError, match=r"got value_fn=None"):
            transform.update(jnp.ones(2), state, jnp.ones(2))
        with pytest.raises(ValueError, match=r"update\(grads, state, params\), got None"):
            transform.update(jnp.ones(2), state, value_fn=_loss)
        with pytest.raises(TypeError, match="int32"):
            transform.init(jnp.ones(2, jnp.int32))


def test_gl2o_recovers_from_a_first_gradient_that_is_not_finite():
    """The bound is the guard's next finite step, not NaN for good."""
    transform = gl2o(optax.sgd(0.5), optax.sgd(0.1))
    params = jnp.array([1.0, -2.0])

    def loss(p):
        return jnp.square(p).sum() / 2

    state = transform.init(params)
    _, state = transform.update(jnp.array([jnp.nan, 1.0]), state, params, value_fn=loss)
    updates, state = transform.update(jax.grad(loss)(params), state, params, value_fn=loss)
    assert jnp.isfinite(state.bound)  # pyright: ignore[reportAttributeAccessIssue]  # any pytree, says optax
    np.testing.assert_allclose(updates, -0.5 * params)  # the learned part, whose step is the better one
