"""What layerwise optimizers share: wrappers of optax, parameters that are no layers, bad input, many runs at once."""

import dataclasses
import subprocess
import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn.costs.jaxprs import equations
from metalearn_models.optimizers import curvature
from metalearn_models.optimizers.curvature import KernelLayout, LayerStatistics, damped, foof, scale_by_foof
from metalearn_models.optimizers.curvature.layers import standard_layout

PATHS = ("['first']", "['second']")
COUNTS = ("period", "collect", "burn_in")
SCALES = {
    "foof": curvature.scale_by_foof,
    "kfac": curvature.scale_by_kfac,
    "kfac_standard": curvature.scale_by_kfac_standard,
    "mac": curvature.scale_by_mac,
    "natural_gradient": curvature.scale_by_natural_gradient,
}


def _make(seed=0):
    """Gradients of two kernels and a bias, and the statistics of the kernels, as NumPy arrays."""
    rng = np.random.default_rng(seed)
    grads, statistics = {"bias": np.float32(rng.normal(size=3))}, {}
    for name, (m, n) in (("first", (4, 3)), ("second", (3, 2))):
        a, e = np.float32(rng.normal(size=(5, m))), np.float32(rng.normal(size=(5, n)))
        grads[name] = a.T @ e / 5
        statistics[f"['{name}']"] = LayerStatistics(a, e, grads[name], None, standard_layout((m, n)))
    return jax.tree.map(jnp.asarray, (grads, statistics))


def _direction(grads, statistics, name, damping=0.5):
    a = np.asarray(statistics[f"['{name}']"].inputs)
    return np.linalg.solve(a.T @ a / len(a) + damping * np.eye(a.shape[1]), np.asarray(grads[name]))


def test_wrappers_of_optax_pass_the_statistics_on():
    mask = {"first": True, "second": False, "bias": True}
    labels = {"first": "foof", "second": "sgd", "bias": "foof"}
    wrapped = {
        "chain": optax.chain(optax.clip(100.0), scale_by_foof(0.5), optax.scale(1.0)),
        "masked": optax.masked(scale_by_foof(0.5), mask),
        "partition": optax.partition({"foof": scale_by_foof(0.5), "sgd": optax.identity()}, labels),
        "inject": optax.inject_hyperparams(lambda damping: scale_by_foof(damping))(damping=0.5),
        "schedule": optax.inject_hyperparams(scale_by_foof, static_args=COUNTS)(damping=optax.constant_schedule(0.5)),
        "finite": optax.apply_if_finite(scale_by_foof(0.5), 3),
        "steps": optax.MultiSteps(scale_by_foof(0.5), 2).gradient_transformation(),
    }
    batches = [_make(0), _make(1)]

    @jax.jit
    def run(batches):
        found = {}
        for name, tx in wrapped.items():
            state = tx.init(batches[0][0])
            for grads, statistics in batches if name == "steps" else batches[:1]:
                found[name], state = tx.update(grads, state, grads, statistics=statistics, value=jnp.float32(1))
        return found

    with jax.numpy_dtype_promotion("standard"):
        found = run(batches)
    grads, statistics = batches[0]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, batches[0][0], batches[1][0])
    for name, updates in found.items():
        of, read = (mean, batches[1][1]) if name == "steps" else (grads, statistics)
        np.testing.assert_allclose(updates["first"], _direction(of, read, "first"), rtol=1e-4)
        left = name in ("masked", "partition")
        expected = of["second"] if left else _direction(of, read, "second")
        np.testing.assert_allclose(updates["second"], expected, rtol=1e-4, err_msg=name)
        np.testing.assert_allclose(updates["bias"], of["bias"], rtol=1e-6)


@pytest.mark.parametrize("name", SCALES)
def test_a_batch_that_is_not_finite_leaves_the_curvature_as_it_was(name):
    """NaN in the inputs, in the output gradients, or a second moment that overflows; and the state stays finite."""
    tx = SCALES[name](0.5)
    grads, statistics = _make()

    @jax.jit
    def run(grads, statistics, state) -> Any:
        return tx.update(grads, state, grads, statistics=statistics)

    _, before = run(grads, statistics, tx.init(grads))
    for field, value in (("inputs", jnp.nan), ("output_grads", jnp.nan), ("inputs", 1e30)):
        if name == "mac" and value == 1e30:
            continue  # its mean does not overflow
        layer = statistics[PATHS[0]]
        spoilt = {field: getattr(layer, field).at[0, 0].set(value)}
        bad = {**statistics, PATHS[0]: dataclasses.replace(layer, **spoilt)}
        _, after = run(grads, bad, before)
        if name != "natural_gradient":
            jax.tree.map(np.testing.assert_array_equal, after.layers, before.layers)
            assert after.weight == before.weight and after.step == 2
        updates, _ = run(grads, statistics, after)
        assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(updates))
    bad[PATHS[0]] = dataclasses.replace(statistics[PATHS[0]], inputs=jnp.full((5, 4), jnp.nan))
    _, state = run(grads, bad, tx.init(grads))  # not even the first update is lost
    again, _ = run(grads, statistics, state)
    np.testing.assert_allclose(again["first"], run(grads, statistics, tx.init(grads))[0]["first"], rtol=1e-5)


def test_parameters_without_statistics_are_named_once_and_updated_by_the_fallback():
    grads, statistics = _make()
    del statistics[PATHS[1]]
    tx = scale_by_foof(0.5, fallback=optax.scale(-3.0))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            updates, _ = tx.update(grads, tx.init(grads), statistics=statistics)
    assert [str(w.message) for w in caught] == [
        "scale_by_foof updates these by its fallback, having no statistics: params['second'] [3, 2]"
    ]
    np.testing.assert_allclose(updates["second"], -3 * grads["second"], rtol=1e-6)
    np.testing.assert_allclose(updates["bias"], -3 * grads["bias"], rtol=1e-6)
    np.testing.assert_allclose(updates["first"], _direction(grads, statistics, "first"), rtol=1e-4)


def test_layers_that_are_given_need_no_memory_of_the_fallback_and_their_statistics_must_be_there():
    grads, statistics = _make()
    layers = {path: layer.layout for path, layer in statistics.items()}
    tx = scale_by_foof(0.5, fallback=optax.scale_by_adam(), layers=layers)
    state: Any = tx.init(grads)
    moments = state.fallback.mu
    assert moments["first"] is None and moments["second"] is None and moments["bias"].shape == (3,)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = tx.update(grads, tx.init(grads), statistics=statistics)
    np.testing.assert_allclose(updates["second"], _direction(grads, statistics, "second"), rtol=1e-4)
    np.testing.assert_allclose(np.abs(updates["bias"]), 1, rtol=1e-4)
    with pytest.raises(ValueError, match=r"no statistics of the layers \['second'\], which layers names"):
        tx.update(grads, tx.init(grads), statistics={PATHS[0]: statistics[PATHS[0]]})
    with pytest.warns(UserWarning, match=r"params\['second'\] \[3, 2\]"):
        scale_by_foof(layers={PATHS[0]: layers[PATHS[0]]}).init(grads)


@pytest.mark.parametrize("name", SCALES)
def test_wrong_statistics_are_refused(name):
    grads, statistics = _make()
    tx = SCALES[name](0.5)
    state = tx.init(grads)
    with pytest.raises(ValueError, match=rf"scale_by_{name} reads layer statistics: .* got statistics=None"):
        tx.update(grads, state)
    with pytest.raises(ValueError, match=r"statistics of another model: they are of \['x'\], and .* \['first'\]"):
        tx.update(grads, state, statistics={"['x']": statistics[PATHS[0]]})
    other = {PATHS[0]: statistics[PATHS[1]]}
    with pytest.raises(ValueError, match=r"layer at params\['first'\]: its statistics are of .*\(3, 2\).*find_layers"):
        tx.update(grads, state, statistics=other)
    with pytest.raises(ValueError, match=r"params\['first'\]: layers says shape \(3, 2\), and .* has \(4, 3\)"):
        SCALES[name](0.5, layers={PATHS[0]: KernelLayout((3, 2), (0,))}).init(grads)
    for damping in (0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=rf"damping must be positive and finite, got {damping}"):
            SCALES[name](damping)
    with pytest.raises(TypeError, match=r"int32 at params\['n'\]"):
        tx.init({"n": jnp.arange(3)})
    assert tx.update({}, tx.init({}))[0] == {}


@pytest.mark.unchecked_types
def test_periods_and_decays_out_of_range_are_refused():
    for wrong, message in (
        ({"period": 0}, "period must be at least 1 update, got 0"),
        ({"period": 3, "collect": 4}, "collect must be between 1 and the period of 3 updates, got 4"),
        ({"burn_in": -1}, "burn_in must be at least 0 updates, got -1"),
        ({"decay": 1.0}, r"decay must be in \[0, 1\), got 1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            foof(0.1, **wrong)
    with pytest.raises(TypeError, match=r"period, burn_in must be Python numbers, .* static_args=\('period',"):
        optax.inject_hyperparams(scale_by_foof)(damping=0.5).init(jnp.ones((2, 2)))


@pytest.mark.parametrize("name", SCALES)
def test_singular_layers_and_a_batch_of_one_are_survived(name):
    """A layer whose inputs are all 0, one example, and a damping at the limit of rounding."""
    gradient = jnp.ones((3, 2))
    for a in (jnp.zeros((1, 3)), 1e3 * jnp.ones((1, 3))):
        layer = LayerStatistics(a, jnp.ones((1, 2)), gradient, None, standard_layout((3, 2)))
        tx = SCALES[name](1e-6)
        updates, state = tx.update(gradient, tx.init(gradient), statistics={"": layer})
        assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves((updates, state)))


@pytest.mark.parametrize("name", SCALES)
def test_many_runs_at_once_equal_a_loop_and_decompose_one_matrix_at_a_time(name):
    """Several batched decompositions in one program can hang for ever on the CPU."""
    tx = SCALES[name](0.5)
    given = jax.tree.map(lambda *x: jnp.stack(x), _make(0), _make(1))
    run = lambda given: tx.update(given[0], tx.init(given[0]), statistics=given[1])[0]  # noqa: E731
    for equation in equations(jax.make_jaxpr(jax.vmap(run))(given)):
        if equation.primitive.name in ("cholesky", "eigh", "triangular_solve", "lu", "householder_product"):
            shapes: list[Any] = [v.aval for v in equation.invars]
            assert all(len(x.shape) <= 2 for x in shapes), equation.primitive.name
    found = jax.jit(jax.vmap(run))(given)
    alone = jax.jit(run)(_make(1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-3, atol=1e-5), found, alone)


HANGS = """
import jax, jax.numpy as jnp
from metalearn_models.optimizers.curvature.damped import damped_inverse, eigh
x = jax.random.normal(jax.random.key(0), (8, 3, 64, 64))
run = lambda xs: [(damped_inverse(x, 0.1), eigh(x)) for x in xs + xs.swapaxes(1, 2)]
jax.block_until_ready(jax.jit(jax.vmap(run))(x))
print("done")
"""


def test_no_hang_where_several_batches_are_decomposed_in_one_program():
    """In a process of its own, which is given up after two minutes."""
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=120)
    assert done.stdout == "done\n", done.stderr


@pytest.mark.parametrize("size", [3, 13])
def test_inverses_block_by_block_are_those_of_numpy(monkeypatch, size):
    """Blocks of at most three rows, of sizes that halves do not divide."""
    monkeypatch.setattr(damped, "BLOCK", 3)
    with jax.enable_x64(True):
        root = np.random.default_rng(0).normal(size=(size, size))
        found = jax.jit(damped.damped_inverse)(jnp.asarray(root @ root.T), 0.1)
        np.testing.assert_allclose(found, np.linalg.inv(root @ root.T + 0.1 * np.eye(size)), rtol=1e-10, atol=1e-12)


def test_a_layer_that_is_measured_late_is_not_averaged_with_the_zeros_before():
    params = {"a": jnp.ones((3, 2)), "b": jnp.ones((3, 2))}
    ones = LayerStatistics(jnp.ones((5, 3)), jnp.ones((5, 2)), None, None, standard_layout((3, 2)))
    bad = dataclasses.replace(ones, inputs=jnp.full((5, 3), jnp.nan))

    def averages(optimizer, batches):
        state = optimizer.init(params)
        for batch in batches:
            statistics = {f"['{name}']": layer for name, layer in batch.items()}
            _, state = optimizer.update(params, state, params, statistics=statistics)
        return [jax.tree.leaves(state.layers[name])[0] for name in batches[-1]]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the fallback of the layer without statistics is named
        late = averages(scale_by_foof(0.1, decay=0.9), [{"a": ones}] * 5 + [{"a": ones, "b": ones}])
    np.testing.assert_allclose(late, np.ones((2, 3, 3)), rtol=1e-6)
    both = {"a": ones, "b": ones}
    first_bad = averages(scale_by_foof(0.1, burn_in=2), [{"a": bad, "b": bad}, both, both])
    np.testing.assert_allclose(first_bad, np.ones((2, 3, 3)), rtol=1e-6)
