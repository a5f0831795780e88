"""The outer loop: one compilation, any number of steps a call, any number of devices."""

import os
from unittest.mock import Mock, call

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from metalearn import compilation, outer
from metalearn.gradients import backprop, pes, truncated_backprop
from metalearn.inner import InnerLoop
from metalearn.outer import outer_loop


def noisy_quadratic(length: int = 4) -> InnerLoop:
    def init(theta, data, key):
        del theta
        return data + jax.random.normal(key, (3,))

    def step(theta, state, t, key, data):
        del data, t
        state = 0.5 * state + 0.1 * jax.random.normal(key, (3,))
        return state, jnp.mean((state - theta) ** 2), {"score": state[0]}

    return InnerLoop(init, step, None, length)


def run_steps(estimator, steps_per_call, calls, mesh=None):
    loop = outer_loop(estimator, optax.adam(0.1), steps_per_call, mesh)
    state = loop.init(jnp.zeros(3), jnp.float32(1.0), jax.random.key(0))
    losses = []
    for _ in range(calls):
        state, metrics = loop.step(state, jnp.float32(1.0))
        losses.append(np.asarray(metrics["loss"]))
    return np.asarray(state.theta), np.concatenate(losses), loop, state


def test_an_outer_step_is_the_optax_update_of_the_estimators_gradient():
    estimator = backprop(noisy_quadratic(), batch=8)
    loop = outer_loop(estimator, optax.sgd(0.5))
    state = loop.init(jnp.ones(3), jnp.float32(1.0), jax.random.key(7))
    key = jax.random.fold_in(state.key, 0)
    gradient, _, _ = jax.jit(estimator.grad)(state.theta, state.estimator, jnp.float32(1.0), key, jnp.int32(0))
    expected = np.asarray(state.theta) - 0.5 * np.asarray(gradient)
    state, metrics = loop.step(state, jnp.float32(1.0))
    np.testing.assert_allclose(state.theta, expected, rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], [np.linalg.norm(gradient)], rtol=1e-5)
    assert int(state.step) == 1


@pytest.mark.parametrize(
    "make", [lambda: backprop(noisy_quadratic(), 8), lambda: truncated_backprop(noisy_quadratic(), 8, 2)]
)
def test_steps_per_call_change_nothing_but_the_rounding_of_a_single_step(make):
    (theta_1, losses_1), (theta_2, losses_2), (theta_6, losses_6) = (
        run_steps(make(), k, 12 // k)[:2] for k in (1, 2, 6)
    )
    np.testing.assert_array_equal(losses_2, losses_6)
    np.testing.assert_array_equal(theta_2, theta_6)
    # XLA compiles one step without a loop. Since jax 0.12 it then adds in another order.
    np.testing.assert_allclose(losses_1, losses_6, rtol=1e-6)
    np.testing.assert_allclose(theta_1, theta_6, rtol=1e-6)


def test_the_second_call_does_not_compile_again():
    traces = []
    loop = InnerLoop(
        lambda theta, data, key: jnp.zeros(()), lambda theta, state, t, key, data: (state, theta**2 * data, {}), None, 2
    )

    def step(*args):
        traces.append(1)
        return loop.step(*args)

    run = outer_loop(backprop(loop._replace(step=step), 8), optax.adam(0.1), 2)
    state = run.init(0.5, jnp.float32(1.0), jax.random.key(0))  # a Python number, whose type is weak
    state, _ = run.step(state, jnp.float32(1.0))
    first = len(traces)
    for _ in range(3):
        state, _ = run.step(state, jnp.float32(1.0))
    assert first >= 1 and len(traces) == first


def test_the_callers_theta_survives_donation():
    theta = jnp.zeros(3)
    loop = outer_loop(backprop(noisy_quadratic(), 4), optax.sgd(0.1))
    state = loop.init(theta, jnp.float32(1.0), jax.random.key(0))
    loop.step(state, jnp.float32(1.0))
    np.testing.assert_array_equal(theta, np.zeros(3))


SCRIPT = """
import sys; sys.path[:0] = ["tests/metalearn"]
import jax, numpy as np
import test_outer as t
from metalearn.gradients import backprop, truncated_backprop
from metalearn.outer import local_mesh
for make in (lambda: backprop(t.noisy_quadratic(), 16), lambda: truncated_backprop(t.noisy_quadratic(), 16, 2)):
    mesh = local_mesh(16)
    assert mesh.devices.size == 8, mesh
    one, losses_1, _, _ = t.run_steps(make(), 3, 4)
    eight, losses_8, loop, state = t.run_steps(make(), 3, 4, mesh)
    np.testing.assert_allclose(losses_1, losses_8, rtol=2e-6)
    np.testing.assert_allclose(one, eight, rtol=2e-6, atol=1e-7)
    assert len(jax.tree.leaves(state.estimator)[0].sharding.device_set) == 8
from metalearn import inner_loop
from metalearn_models.learners.registry import build_learner, learner_entry
from metalearn_tasks.families.regression import RegressionConfig, regression
family = regression(RegressionConfig(kind="linear", inputs=2, length=3))
learner = build_learner(family.signature, learner_entry("lstm").config(hidden=8))  # its cell begins from a constant
results = []
for mesh in (None, local_mesh(8)):
    loop = t.outer_loop(backprop(inner_loop(learner, family), 8), t.optax.sgd(0.1), 1, mesh)
    theta = learner.init(jax.random.key(0))
    results.append(loop.step(loop.init(theta, (), jax.random.key(1)), ())[0].theta)
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *results)
print("equal")
"""


def test_eight_devices_give_the_numbers_of_one(on_eight_devices):
    assert on_eight_devices(SCRIPT) == "equal"


def test_a_batch_that_does_not_split_over_the_devices_is_refused():
    two_devices = Mock(spec=Mesh, devices=np.zeros(2))
    with pytest.raises(ValueError, match=r"3 trajectories \(or pairs\) cannot be split evenly over 2 devices"):
        outer_loop(backprop(noisy_quadratic(), 3), optax.sgd(0.1), mesh=two_devices)


def test_evolution_strategies_are_compiled_with_less_effort_but_not_inside_other_programs(monkeypatch):
    """Tests switch optimizations off, which decides for the outer loop; here nobody has decided."""
    loop = InnerLoop(lambda theta, data, key: data, lambda theta, s, t, key, data: (s, ((theta - s) ** 2).sum(), {}))
    ran = []
    for off in (True, False):
        monkeypatch.setattr(compilation, "may_choose", lambda off=off: not off)
        init, step = outer_loop(pes(loop, 0.1, 2, 2, 4), optax.sgd(0.1))
        assert isinstance(step, compilation.QuicklyCompiled) == (not off)
        for function in (step, jax.jit(step)):
            state = init(jnp.ones(3), jnp.zeros(3), jax.random.key(0))
            ran.append(np.asarray(function(state, jnp.zeros(3))[0].theta))
    for theta in ran:
        np.testing.assert_allclose(theta, ran[0], rtol=1e-6)
    other = outer_loop(backprop(loop._replace(length=4), 2), optax.sgd(0.1)).step
    assert not isinstance(other, compilation.QuicklyCompiled)


@pytest.mark.parametrize(
    ("name", "value"),
    [("JAX_NUM_CPU_DEVICES", "1"), ("XLA_FLAGS", "--xla_force_host_platform_device_count=1"), (None, "")],
)
def test_all_cores_are_devices_unless_the_environment_says_otherwise(monkeypatch, name, value):
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    monkeypatch.setenv("XLA_FLAGS", "")
    if name is not None:
        monkeypatch.setenv(name, value)
    asked = Mock()
    monkeypatch.setattr(jax.config, "update", asked)
    outer.use_all_cores()
    assert asked.call_args_list == ([call("jax_num_cpu_devices", len(os.sched_getaffinity(0)))] if name is None else [])


@pytest.mark.parametrize(
    ("devices", "cores", "flags", "kept"),
    [
        (1, 2, "", True),
        (2, 2, "", False),
        (2, 4, "", True),
        (4, 2, "", False),
        (2, 2, "--xla_cpu_multi_thread_eigen=1", True),
    ],
)
def test_small_products_stay_on_one_thread_where_each_core_has_a_device(monkeypatch, devices, cores, flags, kept):
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.setattr(outer, "_count_cores", lambda: cores)
    mesh = None if devices == 1 else Mock(spec=Mesh, devices=np.array([Mock(process_index=0)] * devices))
    options = outer._options(mesh)
    assert options.pop("xla_backend_optimization_level") == 1
    assert options == ({} if kept else {"xla_cpu_multi_thread_eigen": False})


def test_the_step_is_compiled_with_the_options_of_its_mesh(monkeypatch):
    asked = Mock(return_value={})
    monkeypatch.setattr(outer, "_options", asked)
    loop = InnerLoop(lambda theta, data, key: data, lambda theta, s, t, key, data: (s, ((theta - s) ** 2).sum(), {}))
    mesh = jax.make_mesh((1,), (outer.AXIS,))
    outer_loop(pes(loop, 0.1, 2, 2, 4), optax.sgd(0.1), mesh=mesh)
    assert asked.call_args.args == (mesh,)


def test_devices_of_other_processes_are_not_counted(monkeypatch):
    monkeypatch.setattr(outer, "_count_cores", lambda: 2)
    mesh = Mock(spec=Mesh, devices=np.array([Mock(process_index=p) for p in (0, 1, 2)]))
    assert outer._options(mesh) == {"xla_backend_optimization_level": 1}
