"""STAR, NNAdam and the two-level optimizer against NumPy in float64; all that holds for every one of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn_models.optimizers import small_fc
from metalearn_models.optimizers.learned import rnn_mlp as rnn_mlp_module
from metalearn_models.optimizers.learned.nn_adam import nn_adam
from metalearn_models.optimizers.learned.rnn_mlp import rnn_mlp
from metalearn_models.optimizers.learned.star import star

OPTIMIZERS = {"star": star, "nn_adam": nn_adam, "rnn_mlp": rnn_mlp}
PER_TENSOR = ("nn_adam", "rnn_mlp")  # where star does what small_fc does, small_fc's tests are its tests
SIZES = {"star": 202, "nn_adam": 6856, "rnn_mlp": 35799}
SHAPES = {"bias": (4,), "empty": (0, 3), "gain": (), "kernel": (4, 2, 4)}
STAR_SHAPES = {"empty": (0, 3), "gain": (), "kernel": (4, 2, 4)}  # small_fc's own tests have more; compiling is slow
FEW = {"bias": (4,), "matrix": (3, 5)}
TIMES = np.array([1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5])
LOSSES = [2.3, 1.9, 2.0, 1.2]


def _tree(rng, scale, shapes=SHAPES):
    return {name: jnp.asarray(scale * rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def _perturbed(theta, seed, scale):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(np.asarray(a) + scale * rng.normal(size=a.shape), jnp.float32), theta)


def _zeros(optimizer):
    """A theta where its values do not matter: to draw one is several programs."""
    shapes = jax.eval_shape(optimizer.init, jax.random.key(0))
    return jax.tree.map(lambda a: jnp.asarray(np.zeros(a.shape, a.dtype)), shapes)


def _run(optimizer, theta, params, gradients):
    """Updates of each step and the last state, the params held fixed, as one scan."""
    transform = optimizer.transform(theta, len(gradients))

    def body(state, step):
        updates, state = transform.update(step[0], state, params, value=step[1])
        return state, updates

    stacked = jax.tree.map(lambda *a: jnp.stack(a), *gradients)
    losses = jnp.asarray(LOSSES[: len(gradients)], jnp.float32)
    state, updates = jax.lax.scan(body, transform.init(params), (stacked, losses))
    return updates, state


def _float64(tree):
    return jax.tree.map(lambda a: np.asarray(a, np.float64), tree)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _lstm(layer, x, hidden, cell):
    width = hidden.size
    gates = np.concatenate([x, hidden]) @ layer["weight"] + layer["bias"]
    i, c, f, o = (gates[k * width : (k + 1) * width] for k in range(4))
    cell = _sigmoid(f + 1) * cell + _sigmoid(i) * np.tanh(c)
    return _sigmoid(o) * np.tanh(cell), cell


def _log_size(x):
    return np.clip(np.log(1e-8 + np.abs(x)), -5, 5)


def _by_name(features):
    return np.concatenate([np.ravel(features[name]) for name in sorted(features)])


def _reference_nn_adam(theta, params, gradients, scale):
    """Every tensor on its own; features by the names whose order the published code takes."""
    theta, updates = _float64(theta), {}
    for leaf, p in _float64(params).items():
        m, v, controls = np.zeros(p.shape), np.zeros(p.shape), theta.controls
        hidden, cell = theta.start
        updates[leaf] = []
        for g in _float64(gradients):
            if not p.size:
                updates[leaf].append(p)
                continue
            g = np.clip(g[leaf], -1000, 1000)
            rate, epsilon = np.exp(10 * controls[0]), np.exp(10 * controls[3])
            b1, b2 = 1 - np.exp(10 * controls[1]), 1 - np.exp(10 * controls[2])
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            updates[leaf].append(-rate * (1 + epsilon) * m / (epsilon + np.sqrt(v + 1e-10)))
            features = {}
            for name, x in (("m", m), ("rms", v), ("p", p), ("g", g)):
                features[f"mean_{name}_mag" if name != "rms" else "mean_rms"] = _log_size(x.mean()) / 2
                features[f"mean_{name}_sign" if name != "rms" else "mean_sign"] = np.sign(x.mean())
                features[f"var_{name}"] = _log_size(x.var()) / 2
            features["mean_gabs_mag"] = _log_size(np.abs(g).mean()) / 2
            features |= {"is_scalar": 1 if p.ndim == 0 else -1, "is_bias": 1 if p.ndim == 1 else -1}
            for name, control in zip(("lr", "beta1", "beta2", "epsilon"), controls, strict=True):
                features[name] = np.clip(control, -5, 5) / 5
            hidden, cell = _lstm(theta.lstm, _by_name(features), hidden, cell)
            controls = controls + scale * (hidden @ theta.readout["weight"] + theta.readout["bias"])
            controls[0] = np.clip(controls[0], 0.1 * np.log(1e-8), 0.1 * np.log(1e3))
            controls[1:3] = np.clip(controls[1:3], -1, 0)
            controls[3] = np.clip(controls[3], 0.1 * np.log(1e-11), 0.1 * np.log(1e4))
    return updates


def _reference_rnn_mlp(theta, params, gradients, scale, valid=()):
    theta, params = _float64(theta), {k: p for k, p in _float64(params).items() if p.size}
    decays = np.array([0.5, 0.9, 0.99, 0.999, 0.9999])
    ms = {leaf: np.zeros((*p.shape, 5)) for leaf, p in params.items()}
    vs = {leaf: np.zeros((*p.shape, 5)) for leaf, p in params.items()}
    cells = {leaf: theta.start for leaf in params}
    messages, from_lstm = {leaf: theta.from_network for leaf in params}, theta.from_lstm
    train, valid_mean, valid_weight, size = np.zeros(2), 0.0, 0.0, 0.01
    updates = {leaf: [] for leaf in params}
    for t, (gs, loss) in enumerate(zip(_float64(gradients), LOSSES, strict=False)):
        mean = 0.9 * train[0] + 0.1 * loss
        train = np.array([mean, 0.9 * train[1] + 0.1 * (mean - loss) ** 2])
        if t < len(valid):
            valid_mean, valid_weight = 0.95 * valid_mean + 0.05 * valid[t], 0.95 * valid_weight + 0.05
        mean, variance = train / (1 - 0.9 ** (t + 1))
        relative = [np.clip((x - mean) / np.sqrt(variance + 1e-8), -5, 5)
                    for x in (loss, valid_mean / valid_weight if valid_weight else 0)]  # fmt: skip
        limit = 10 * size / (1 - 0.99 ** (t + 1))
        gs = {leaf: np.clip(gs[leaf], -limit, limit) for leaf in params}
        size = 0.99 * size + 0.01 * np.sqrt(1e-8 + np.mean([np.mean(g**2) for g in gs.values()]))
        said = []
        for leaf, p in params.items():
            g = gs[leaf]
            m = ms[leaf] = decays * ms[leaf] + (1 - decays) * g[..., None]
            v = vs[leaf] = decays * vs[leaf] + (1 - decays) * g[..., None] ** 2
            shape = np.log(np.array([*p.shape, 1, 1, 1, 1][:4])) - 1
            features = {
                "mean_ms_mag": _log_size(m.mean()), "mean_ms_sign": np.sign(m.mean()), "var_ms": _log_size(m.var()),
                "mean_rms": _log_size(v.mean()), "mean_sign": np.sign(v.mean()), "var_rms": _log_size(v.var()),
                "mean_v_mag": _log_size(p.mean()), "mean_v_sign": np.sign(p.mean()), "var_v": _log_size(p.var()),
                "norm_weight": _log_size(np.linalg.norm(p.ravel())), "g_norm": _log_size(np.linalg.norm(g.ravel())),
                "is_scalar": -1 if p.ndim else 1, "shape": shape, "train_loss_feat": relative[0],
                "valid_loss_feat": relative[1], "from_mlp": messages[leaf], "from_lstm": from_lstm,
            }  # fmt: skip
            hidden, cell = _lstm(theta.lstm, _by_name(features), *cells[leaf])
            cells[leaf] = hidden, cell
            said.append(hidden @ theta.to_lstm["weight"] + theta.to_lstm["bias"])
            to_network = hidden @ theta.to_network["weight"] + theta.to_network["bias"]
            n = p.size
            flat_m, flat_v, flat_p = m.reshape(n, 5), v.reshape(n, 5), p.reshape(n, 1)
            inverse = (flat_v + 1e-6) ** -0.5
            x = [g.reshape(n, 1), flat_p, np.log(np.abs(flat_p) + 1e-8), flat_m, flat_v, flat_m * inverse, inverse]
            x = np.concatenate(x, 1)
            x = x / np.sqrt(1e-5 + np.mean(x**2, 0))
            tensor = [np.log(len(params)) - 1, np.log(np.linalg.norm(flat_p) + 1e-8), np.log(n)]
            tail = np.concatenate([np.sin(t / (TIMES * np.pi)), tensor, to_network])
            x = np.concatenate([x, np.broadcast_to(tail, (n, tail.size))], 1)
            for layer in theta.layers[:-1]:
                x = np.maximum(x @ layer["weight"] + layer["bias"], 0)
            x = x @ theta.layers[-1]["weight"] + theta.layers[-1]["bias"]
            updates[leaf].append((-scale * x[:, 0] * np.exp(0.1 * x[:, 1])).reshape(p.shape))
            messages[leaf] = x[:, 2:].mean(0)
        from_lstm = np.mean(said, 0)
    return updates


def _reference_star(theta, params, gradients, scale):
    """The network's outputs from small_fc, which is checked feature by feature; the rest written out."""

    def output(column):
        last = {name: x[..., jnp.stack([column, column])] for name, x in theta.layers[-1].items()}
        plain = small_fc(step_size=-1.0, exponent=0.0)
        return _run(plain, theta._replace(layers=(*theta.layers[:-1], last)), params, gradients)[0]

    outputs = _float64(jax.jit(jax.vmap(output))(jnp.arange(3)))
    b_m = 1 - np.array([0.1, 0.01, 0.001]) * np.exp(10 * np.asarray(theta.momentum, np.float64))
    b_v = 1 - 0.001 * np.exp(10 * np.asarray(theta.second_moment, np.float64)[0])
    updates = {}
    for leaf in params:
        m, v = np.zeros((*params[leaf].shape, 3)), np.zeros(params[leaf].shape)
        updates[leaf] = []
        for t, g in enumerate(_float64(gradients)):
            m = b_m * m + (1 - b_m) * g[leaf][..., None]
            v = b_v * v + (1 - b_v) * g[leaf] ** 2
            d, magnitude, nominal = outputs[leaf][:, t]
            f_g = 0.3 * np.exp(0.1 * nominal) * (m / np.sqrt(v + 1e-6)[..., None]).mean(-1)
            updates[leaf].append(-f_g - scale * d * np.exp(0.1 * magnitude) / np.sqrt(v + 1e-6))
    return updates


CASES = {
    "star": (star(step_size=0.1, nominal_step_size=0.3, exponent=0.1), _reference_star, 0.1),
    "nn_adam": (nn_adam(learning_rate=0.3, output_scale=0.3), _reference_nn_adam, 0.3),
    "rnn_mlp": (rnn_mlp(step_size=1.0, exponent=0.1), _reference_rnn_mlp, 1.0),
}


@pytest.mark.parametrize("name", CASES)
def test_updates_equal_the_written_out_computation(name):
    """Moved theta, ranks 0, 1 and 3 and a tensor without entries, four steps; updates of size 1 make it strict."""
    rng = np.random.default_rng(0)
    optimizer, reference, scale = CASES[name]
    theta = _perturbed(jax.jit(optimizer.init)(jax.random.key(0)), 1, 0.03)
    run = jax.jit(lambda params, gradients: _run(optimizer, theta, params, gradients)[0])
    shapes = STAR_SHAPES if name == "star" else SHAPES
    for gradient_scale in (1.0, 1e-3):
        params, gradients = _tree(rng, 0.5, shapes), [_tree(rng, gradient_scale, shapes) for _ in range(4)]
        updates = run(params, gradients)
        expected = reference(theta, params, gradients, scale)
        assert updates["empty"].shape == (4, 0, 3)
        for leaf in shapes:
            if leaf != "empty":
                want = np.stack(expected[leaf])
                assert np.abs(want).max() > 0.05  # something to compare
                np.testing.assert_allclose(updates[leaf], want, rtol=2e-5, atol=5e-6, err_msg=leaf)


def test_gradients_beyond_the_running_size_are_clipped_as_written_out():
    rng = np.random.default_rng(1)
    optimizer, reference, scale = CASES["rnn_mlp"]
    theta = _perturbed(jax.jit(optimizer.init)(jax.random.key(0)), 1, 0.03)
    params, gradients = _tree(rng, 0.5, FEW), [_tree(rng, s, FEW) for s in (1e-2, 300.0, 1.0)]
    updates, state = jax.jit(lambda params, gradients: _run(optimizer, theta, params, gradients))(params, gradients)
    assert state.size < 0.2  # without the clipping at 10: 3
    for leaf, want in reference(theta, params, gradients, scale).items():
        np.testing.assert_allclose(updates[leaf], np.stack(want), rtol=2e-5, atol=5e-6)


def test_a_validation_loss_is_followed_as_written_out():
    rng = np.random.default_rng(2)
    optimizer, reference, scale = CASES["rnn_mlp"]
    theta = _perturbed(jax.jit(optimizer.init)(jax.random.key(0)), 1, 0.1)
    params, gradients = _tree(rng, 0.5, FEW), [_tree(rng, 0.1, FEW) for _ in range(3)]
    transform = optimizer.transform(theta)
    state, valid = transform.init(params), [2.5, 2.2, 0.7]
    update = jax.jit(transform.update)
    for t, grads in enumerate(gradients):
        updates, state = update(grads, state, params, value=LOSSES[t], valid_value=valid[t])
    with_it = reference(theta, params, gradients, scale, valid)
    without = reference(theta, params, gradients, scale)
    for leaf in FEW:
        assert np.abs(with_it[leaf][-1] - without[leaf][-1]).max() > 1e-4  # it makes a difference
        np.testing.assert_allclose(updates[leaf], with_it[leaf][-1], rtol=2e-5, atol=5e-6)


def test_the_two_level_optimizer_without_a_loss_is_refused():
    optimizer = rnn_mlp()
    transform = optimizer.transform(_zeros(optimizer))
    with pytest.raises(ValueError, match=r"value=loss\), got value=None"):
        transform.update(jnp.zeros(3), transform.init(jnp.zeros(3)), jnp.zeros(3))


def test_an_untrained_star_is_the_average_of_adams_without_bias_correction():
    rng = np.random.default_rng(3)
    optimizer = star()
    params, gradients = _tree(rng, 0.5, FEW), [_tree(rng, 1.0, FEW) for _ in range(4)]
    theta = jax.jit(optimizer.init)(jax.random.key(0))
    updates, _ = jax.jit(lambda theta: _run(optimizer, theta, params, gradients))(theta)
    for leaf, shape in FEW.items():
        m, v = np.zeros((3, *shape)), np.zeros(shape)
        for t, g in enumerate(_float64(gradients)):
            b = np.array([0.9, 0.99, 0.999]).reshape(3, *(1,) * len(shape))
            m, v = b * m + (1 - b) * g[leaf], 0.999 * v + 0.001 * g[leaf] ** 2
            np.testing.assert_allclose(updates[leaf][t], -1e-3 * (m / np.sqrt(v + 1e-6)).mean(0), rtol=1e-5, atol=1e-9)


def test_an_untrained_nn_adam_keeps_its_hyper_parameters():
    rng = np.random.default_rng(4)
    optimizer = nn_adam(learning_rate=0.01, beta1=0.8, beta2=0.95, epsilon=1e-3)
    params, gradients = _tree(rng, 0.5, FEW), [_tree(rng, 1.0, FEW) for _ in range(4)]
    theta = jax.jit(optimizer.init)(jax.random.key(0))
    _, state = jax.jit(lambda theta: _run(optimizer, theta, params, gradients))(theta)
    values = np.exp(10 * np.asarray(state.controls, np.float64))
    np.testing.assert_allclose(values, np.broadcast_to([0.01, 0.2, 0.05, 1e-3], (2, 4)), rtol=1e-5)


@pytest.mark.parametrize("values", [dict(learning_rate=0.0), dict(epsilon=-1.0), dict(beta1=1.0), dict(beta2=-0.1)])
def test_nn_adam_refuses_hyper_parameters_out_of_range(values):
    name, value = next(iter(values.items()))
    with pytest.raises(ValueError, match=f"{name}={value}"):
        nn_adam(**values)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_number_of_meta_parameters(name):
    theta = jax.eval_shape(OPTIMIZERS[name]().init, jax.random.key(0))
    assert sum(a.size for a in jax.tree.leaves(theta)) == SIZES[name]


@pytest.mark.parametrize("name, multiple", [("star", 4.1), ("nn_adam", 2.01), ("rnn_mlp", 10.01)])
def test_memory_per_parameter(name, multiple):
    params = {"weight": jnp.zeros((256, 256)), "bias": jnp.zeros(256)}
    optimizer = OPTIMIZERS[name]()
    state = jax.eval_shape(lambda key: optimizer.transform(optimizer.init(key)).init(params), jax.random.key(0))
    floats = sum(a.size for a in jax.tree.leaves(state) if a.dtype == jnp.float32)
    assert floats <= multiple * sum(a.size for a in jax.tree.leaves(params))


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_with_respect_to_theta_is_that_of_finite_differences(name):
    """From zero params and with zero gradients among them, where roots and norms have no derivative of their own."""
    rng = np.random.default_rng(6)
    # Two hidden units a layer: what a derivative of star takes to compile grows with them.
    narrow = star((2, 2), step_size=0.1, nominal_step_size=0.3, exponent=0.1)
    optimizer = narrow if name == "star" else CASES[name][0]
    theta = _perturbed(jax.jit(optimizer.init)(jax.random.key(6)), 7, 0.03)
    gradients = [_tree(rng, 0.1, FEW) for _ in range(2)]
    gradients = [g | {"bias": jnp.zeros(4)} for g in gradients]
    direction = _perturbed(jax.tree.map(np.zeros_like, theta), 8, 1.0)

    def moved(epsilon):
        transform = optimizer.transform(jax.tree.map(lambda a, b: a + epsilon * b, theta, direction))
        params = {"bias": jnp.zeros(4), "matrix": jnp.full((3, 5), 0.3)}

        def body(carry, step):
            params, state = carry
            # Gradients that depend on the params, as in training.
            grads = jax.tree.map(lambda a, p: a * (1 + p), step[0], params)
            updates, state = transform.update(grads, state, params, value=step[1])
            return (jax.tree.map(jnp.add, params, updates), state), None

        steps = (jax.tree.map(lambda *a: jnp.stack(a), *gradients), jnp.asarray(LOSSES[:2]))
        (params, _), _ = jax.lax.scan(body, (params, transform.init(params)), steps)
        return sum(jnp.square(p).mean() for p in jax.tree.leaves(params))

    h = jnp.float32(1e-3 if name == "nn_adam" else 2e-4)
    values, slopes = zip(*map(jax.jit(jax.value_and_grad(moved)), (-h, jnp.float32(0), h)), strict=True)
    np.testing.assert_allclose(slopes[1], (values[2] - values[0]) / (2 * h), rtol=2e-2)


@pytest.mark.parametrize("name", PER_TENSOR)
def test_a_chain_scales_and_clips_around_it(name):
    rng = np.random.default_rng(7)
    optimizer = OPTIMIZERS[name]()
    theta = _perturbed(jax.jit(optimizer.init)(jax.random.key(5)), 6, 0.03)
    params, grads = _tree(rng, 0.5, FEW), _tree(rng, 1.0, FEW)
    chain = optax.chain(optax.clip(0.1), optimizer.transform(theta, 10), optax.scale(-3.0))
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = jax.jit(chain.update)(grads, chain.init(params), params, value=jnp.float32(1.0))
    alone = optimizer.transform(theta)
    clipped = jax.tree.map(lambda g: jnp.clip(g, -0.1, 0.1), grads)
    expected, _ = jax.jit(alone.update)(clipped, alone.init(params), params, value=jnp.float32(1.0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, -3 * b, rtol=1e-4, atol=1e-8), updates, expected)


@pytest.mark.parametrize("name", PER_TENSOR)
def test_bfloat16_parameters_get_the_float32_updates_rounded(name):
    rng = np.random.default_rng(8)
    optimizer = CASES[name][0]
    theta = _perturbed(jax.jit(optimizer.init)(jax.random.key(10)), 11, 0.03)
    transform = optimizer.transform(theta)
    half = [jax.tree.map(lambda a: a.astype(jnp.bfloat16), _tree(rng, 0.5, FEW)) for _ in range(2)]
    full = jax.tree.map(lambda a: a.astype(jnp.float32), half)
    update = jax.jit(transform.update)
    (updates, state), (expected, expected_state) = (
        update(grads, transform.init(params), params, value=1.0) for params, grads in (half, full)
    )
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(np.asarray(a, np.float32), b, rtol=2**-8), updates, expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state, expected_state)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_that_are_missing_or_not_floating_point_are_refused(name):
    optimizer = OPTIMIZERS[name]()
    transform = optimizer.transform(_zeros(optimizer), 10)
    with pytest.raises(TypeError, match=r"int32 at params\['layers'\]\[1\]"):
        transform.init({"layers": [jnp.zeros(3), jnp.zeros(3, jnp.int32)]})
    with pytest.raises(ValueError, match=r"update\(grads, state, params\), got None"):
        transform.update(jnp.zeros(3), transform.init(jnp.zeros(3)), value=1.0)


def test_blocks_of_parameters_change_neither_updates_nor_messages(monkeypatch):
    """Seven parameters in blocks of at most two, the last block half full, against one block."""
    rng, optimizer = np.random.default_rng(8), rnn_mlp((4,), 3, step_size=1.0)
    theta = _perturbed(jax.jit(optimizer.init)(jax.random.key(5)), 6, 0.1)
    params, gradients = _tree(rng, 0.5, {"x": (7,)}), [_tree(rng, 0.1, {"x": (7,)}) for _ in range(2)]
    found = []
    for width in (2, 7):
        monkeypatch.setattr(rnn_mlp_module, "WIDTH", width)
        found.append(jax.jit(lambda theta: _run(optimizer, theta, params, gradients))(theta))
    (updates, state), (expected, whole) = found
    np.testing.assert_allclose(updates["x"], expected["x"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(state.from_network, whole.from_network, rtol=1e-5, atol=1e-7)
    assert np.ptp(np.asarray(updates["x"])) > 0
