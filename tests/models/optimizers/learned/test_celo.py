"""Celo against numbers recorded from the authors' own code, amoudgl/celo; the file of its meta-parameters; its edges.

Recorded from commit 66d9761 with jax 0.10.2 on a CPU: `Celo` with an LSTM of 64 units, one network, in its second
phase, with step_mult 3 and exp_mult 0.1; arrays filled by `_wave`, 40 steps planned, six updates of which the third
has gradients beyond the clip and the fourth a loss beyond it; every fifth entry of the parameters after them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.serialization import msgpack_serialize

from metalearn.errors import RunError
from metalearn_models.optimizers.learned.celo import CeloTheta, celo
from metalearn_models.optimizers.learned.celo_published import PUBLISHED_SHAPES, celo_theta
from metalearn_models.optimizers.learned.parts import celo_rule
from metalearn_models.optimizers.library import theta_to_arrays

SHAPES = {"bias": (5,), "gain": (), "kernel": (4, 2, 3), "matrix": (6, 4)}
LOSSES = (2.0, 1.7, 1.4, 9.0, 1.2, 1.6)
RECORDED = {
    "bias": [0.477456152],
    "gain": [0.963733375],
    "kernel": [0.607660174, 0.479689986, 0.205735907, 0.00326330005, -0.17328091],
    "matrix": [-0.305360407, -0.501939416, -0.66791302, -0.68419373, -0.947796643],
}
LARGE: dict[str, Any] = {"step_size": 3.0, "exponent": 0.1}


def _wave(shape, phase, scale):
    waves = scale * np.sin(phase + 1.3 * np.arange(np.prod(shape, dtype=int)))
    return np.asarray(waves.reshape(shape), np.float32)


def _tree(phase, scale, shapes=SHAPES):
    return {name: jnp.asarray(_wave(shape, phase + i, scale)) for i, (name, shape) in enumerate(shapes.items())}


def _gradients(t):
    return _tree(10.0 + t, 3000.0 if t == 2 else 0.3)


def _file(**changes):
    """The published format with numbers of a formula; `changes` replace arrays by their place, None removes."""
    tree = {}
    arrays = {
        name: _wave(shape, i, 0.5 if name.startswith("ff") else 0.1)
        for i, (name, shape) in enumerate(sorted(PUBLISHED_SHAPES.items()))
    }
    for name, x in (arrays | changes).items():
        top, rest = name.split("/", 1)
        middle, _, last = rest.rpartition("/")
        node = tree.setdefault(top, {})
        node = node.setdefault(middle, {}) if middle else node
        if x is not None:
            node[last] = x
    return msgpack_serialize(tree)


def _run(optimizer, theta, params, gradients, losses, num_steps=40):
    """Parameters after the updates, and the last state, as one scan."""
    transform = optimizer.transform(theta, num_steps)

    def body(carry, step):
        params, state = carry
        updates, state = transform.update(step[0], state, params, value=step[1])
        return (jax.tree.map(jnp.add, params, updates), state), None

    stacked = jax.tree.map(lambda *a: jnp.stack(a), *gradients)
    carry = (params, transform.init(params))
    return jax.lax.scan(body, carry, (stacked, jnp.asarray(losses, jnp.float32)))[0]


@pytest.fixture(scope="module")
def theta():
    return celo_theta(_file())


@pytest.fixture(scope="module")
def after(theta):
    """`(theta, params, gradients, losses) -> params` after updates, compiled once for all tests of one shape."""
    return jax.jit(lambda *given: _run(celo(**LARGE), *given))


def test_parameters_after_six_updates_are_those_recorded_from_the_published_code(theta, after):
    params, _ = after(theta, _tree(0.5, 1.0), [_gradients(t) for t in range(6)], LOSSES)
    for leaf, recorded in RECORDED.items():
        np.testing.assert_allclose(np.ravel(params[leaf])[::5], recorded, rtol=1e-6, atol=1e-6, err_msg=leaf)


def test_the_file_holds_a_theta_of_the_default_celo_wherever_it_comes_from(theta, tmp_path):
    like = jax.eval_shape(celo().init, jax.random.key(0))
    assert {k: x.shape for k, x in theta_to_arrays(theta).items()} == {
        k: x.shape for k, x in theta_to_arrays(like).items()
    }
    assert jax.tree.structure(theta) == jax.tree.structure(like)
    assert sum(x.size for x in jax.tree.leaves(theta)) == 35803
    assert sum(np.prod(shape, dtype=int) for shape in PUBLISHED_SHAPES.values()) == 37089
    path = tmp_path / "theta.state"
    path.write_bytes(_file())
    for source in (path, str(path)):
        jax.tree.map(np.testing.assert_array_equal, celo_theta(source), theta)


@pytest.mark.parametrize("kept", [0, 1, 100, 100_000, -1])
def test_a_truncated_file_is_refused(kept, tmp_path):
    data = _file()[:kept]
    with pytest.raises(RunError, match=f"these {len(data)} bytes: damaged, or not in flax's msgpack form"):
        celo_theta(data)
    path = tmp_path / "theta.state"
    path.write_bytes(data)
    with pytest.raises(RunError, match=r"theta\.state: damaged"):
        celo_theta(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rnn_params/step_size/w": None},
            r"1 of its 33 arrays .*expected float32\[64, 1\], got no such array",
        ),
        (
            {"rnn_params/extra/w": np.ones(3, np.float32)},
            r"extra/w': expected no such array, got float32\[3\]",
        ),
        ({"ff_mod_stack/~/w1": np.ones((2, 4, 4), np.float32)}, r"float32\[1, 4, 4\], got float32\[2, 4, 4\]"),
        ({"ff_mod_stack/~/b0": np.ones((1, 4))}, r"float32\[1, 4\], got float64\[1, 4\]"),
        ({"ff_mod_stack/~/b0": "four"}, r"float32\[1, 4\], got 'four'"),
    ],
)
def test_another_theta_is_refused_with_the_first_difference(changes, message):
    with pytest.raises(RunError, match=message):
        celo_theta(_file(**changes))


@pytest.mark.parametrize("data", [msgpack_serialize({}), msgpack_serialize([1.0, {"a": 2}]), b"\x00"])
def test_msgpack_of_something_else_is_refused(data):
    with pytest.raises(RunError, match="not the published theta of Celo"):
        celo_theta(data)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.state"):
        celo_theta(tmp_path / "none.state")


@pytest.mark.parametrize("num_steps", [None, 0, -3])
def test_the_length_of_the_training_is_needed(num_steps, theta):
    with pytest.raises(ValueError, match=rf"transform\(theta, num_steps\).*got num_steps={num_steps}"):
        celo().transform(theta, num_steps)


def test_loss_and_parameters_are_needed_and_integers_refused(theta):
    transform = celo().transform(theta, 10)
    params = {"gain": jnp.ones(())}
    state = transform.init(params)
    with pytest.raises(ValueError, match="reads the loss: call update"):
        transform.update(params, state, params)
    with pytest.raises(ValueError, match="reads the parameters: call update"):
        transform.update(params, state, value=1.0)
    with pytest.raises(TypeError, match=r"int32 at params\['steps'\]"):
        transform.init({"steps": jnp.zeros(3, jnp.int32)})


def test_a_schedule_of_log_ten_is_phase_one_and_log_two_more_doubles_the_update(theta):
    params, gradients = {"matrix": _tree(0.5, 1.0)["matrix"]}, {"matrix": _gradients(0)["matrix"]}

    @jax.jit
    def update(bias, loss):
        readout = {"weight": jnp.zeros((64, 1)), "bias": bias[None]}
        changed = theta._replace(schedule=theta.schedule._replace(readout=readout))
        transform = celo().transform(changed, 10)
        updates: Any = transform.update(gradients, transform.init(params), params, value=loss)[0]
        return updates["matrix"]

    once = update(jnp.log(10.0), jnp.float32(1))
    np.testing.assert_array_equal(once, update(jnp.log(10.0), jnp.float32(7)))
    np.testing.assert_allclose(update(jnp.log(20.0), jnp.float32(1)), 2 * once, rtol=1e-5)
    # The size of a phase-one update: a thousandth of the tensor's, times a number of order one from the rule.
    size = np.sqrt(np.mean(np.square(params["matrix"])))
    rule = np.asarray(once) / (1e-3 * size)
    assert 0.05 < np.abs(rule).mean() < 20


def test_empty_leaves_change_nothing_and_bfloat16_is_rounded_float32(theta):
    shapes = {"empty": (0, 3), "matrix": (3, 2)}
    params, gradients = _tree(0.5, 1.0, shapes), _tree(3.0, 0.3, shapes)
    half, half_gradients = (jax.tree.map(lambda a: a.astype(jnp.bfloat16), tree) for tree in (params, gradients))

    @jax.jit
    def first(params, gradients):
        transform = celo(**LARGE).transform(theta, 10)
        return transform.update(gradients, transform.init(params), params, value=1.5)

    full, state = first(params, gradients)
    alone, _ = first({"matrix": params["matrix"]}, {"matrix": gradients["matrix"]})
    np.testing.assert_array_equal(full["matrix"], alone["matrix"])
    assert full["empty"].shape == (0, 3)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(state))
    rounded, _ = first(half, half_gradients)
    exact, _ = first(*(jax.tree.map(lambda a: a.astype(jnp.float32), tree) for tree in (half, half_gradients)))
    assert rounded["matrix"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(rounded["matrix"], exact["matrix"].astype(jnp.bfloat16))


def test_an_infinite_gradient_counts_as_the_clip_and_nan_stays_in_its_tensor(theta, after):
    params, gradients = _tree(0.5, 1.0), [_gradients(t) for t in range(6)]

    def with_bias(value):
        changed = dict(gradients[1], bias=gradients[1]["bias"].at[2].set(value))
        return after(theta, params, [gradients[0], changed, *gradients[2:]], LOSSES)[0]

    clipped, infinite, broken = with_bias(1000.0), with_bias(jnp.inf), with_bias(jnp.nan)
    jax.tree.map(np.testing.assert_array_equal, infinite, clipped)
    assert np.isnan(broken["bias"]).all()
    for leaf in ("gain", "kernel", "matrix"):
        np.testing.assert_array_equal(broken[leaf], clipped[leaf])
    lost, _ = after(theta, params, gradients, (2.0, np.nan, 1.4, 9.0, 1.2, 1.6))
    assert all(np.isnan(x).all() for x in jax.tree.leaves(lost))


@pytest.mark.parametrize("shape", [(23, 2, 17), (101,)])
def test_a_tensor_gone_through_in_parts_has_the_update_of_the_whole(shape, theta, monkeypatch):
    p, g = (jnp.asarray(_wave(shape, phase, 1.0)) for phase in (1, 2))

    def once(size):
        monkeypatch.setattr(celo_rule, "BLOCK", size)
        return jax.jit(lambda: celo_rule.apply_rule(theta.rule, g, p, celo_rule.start_memory(p)))()

    whole, parts = once(10**6), once(40)  # the last part is narrower
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), whole, parts)


def test_meta_gradient_is_the_finite_difference_even_where_a_gradient_is_zero(theta):
    target = {"bias": jnp.array([1.0, -2.0, 0.3]), "matrix": jnp.asarray(_wave((2, 3), 1, 1.0))}
    weight = {"bias": jnp.array([1.0, 0.0, 1.0]), "matrix": jnp.ones((2, 3))}  # the gradient of one is always zero
    params = jax.tree.map(lambda t: 0.1 * jnp.ones_like(t), target)

    def loss(params):
        squares = jax.tree.map(lambda p, t, w: jnp.square(w * (p - t)).sum(), params, target, weight)
        return squares["bias"] + squares["matrix"]

    def meta_loss(theta):
        transform = celo(**LARGE).transform(theta, 3)

        def body(carry, _):
            params, state = carry
            value, gradient = jax.value_and_grad(loss)(params)
            updates, state = transform.update(gradient, state, params, value=value)
            return (optax.apply_updates(params, updates), state), None

        return loss(jax.lax.scan(body, (params, transform.init(params)), length=3)[0][0])

    leaves, tree = jax.tree.flatten(theta)
    direction = tree.unflatten([jnp.asarray(_wave(a.shape, i, 1.0)) for i, a in enumerate(leaves)])
    moved = [jax.tree.map(lambda a, d, t=t: a + t * d, theta, direction) for t in (1e-3, 0.0, -1e-3)]
    values, gradients = zip(*map(jax.jit(jax.value_and_grad(meta_loss)), moved), strict=True)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(gradients))
    along = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, gradients[1], direction)))
    np.testing.assert_allclose(along, (values[0] - values[2]) / 2e-3, rtol=2e-2)


def test_a_fresh_theta_differs_with_the_key_and_widths_are_checked():
    first, second = map(jax.jit(celo(hidden=(3,), units=5).init), map(jax.random.key, range(2)))
    assert isinstance(first, CeloTheta)
    assert [layer["weight"].shape for layer in first.rule] == [(30, 3), (3, 2)]
    assert not np.array_equal(first.rule[0]["weight"], second.rule[0]["weight"])
    with pytest.raises(ValueError, match=r"every layer needs at least one unit, got the widths"):
        celo(units=0).init(jax.random.key(0))
