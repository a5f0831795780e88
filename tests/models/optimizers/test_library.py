"""Learned optimizers by name, in files and in the package."""

import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metalearn_models
from metalearn.errors import RunError, UnknownNameError
from metalearn.runs.weights import save_weights
from metalearn_models import optimizers
from metalearn_models.optimizers import library


def _theta(optimizer):
    """Any values; those of `init` take programs to draw."""
    shapes, rng = jax.eval_shape(optimizer.init, jax.random.key(0)), np.random.default_rng(1)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), shapes)


@pytest.mark.parametrize("name", optimizers.names())
def test_theta_survives_a_file(name, tmp_path):
    theta = _theta(optimizers.make(name))
    optimizers.save(tmp_path / "w.safetensors", name, theta, card={"seed": 1})
    found = optimizers.read(tmp_path / "w.safetensors")
    assert found.name == name and found.card["seed"] == 1
    assert jax.tree.structure(found.theta) == jax.tree.structure(theta)
    jax.tree.map(np.testing.assert_array_equal, found.theta, theta)


def test_settings_are_part_of_the_file(tmp_path):
    optimizer = optimizers.make("small-fc", hidden=(3,), step_size=0.5)
    theta = _theta(optimizer)
    optimizers.save(tmp_path / "w.safetensors", "small-fc", theta, {"hidden": [3], "step_size": 0.5})
    params = {"w": jnp.ones((3, 2))}
    updates = []
    for transform in (optimizers.load(tmp_path / "w.safetensors"), optimizer.transform(theta)):
        step = jax.jit(lambda tx=transform: tx.update(params, tx.init(params), params)[0]["w"])
        updates.append(step())
    np.testing.assert_array_equal(*updates)


def test_settings_can_be_replaced_when_weights_are_loaded(tmp_path):
    params, file, steps = {"w": jnp.ones((3, 2))}, tmp_path / "w.safetensors", []
    optimizers.save(file, "compass", jax.jit(optimizers.make("compass").init)(jax.random.key(0)), {"units": 8})
    for rate in (1e-3, 1e-2):
        transform = optimizers.load(file, learning_rate=rate)
        step = jax.jit(lambda p, tx=transform: tx.update(p, tx.init(p), p)[0]["w"])
        steps.append(np.asarray(step(params)))
    np.testing.assert_allclose(steps[1], 10 * steps[0], rtol=1e-5)
    with pytest.raises(ValueError, match="belongs to another optimizer or to other settings"):
        optimizers.load(file, units=3)
    with pytest.raises(TypeError, match="learning_rates"):
        optimizers.load(file, learning_rates=1e-3)


@pytest.mark.parametrize("name", optimizers.shipped())
def test_shipped_optimizers_train_and_say_where_they_come_from(name):
    found = optimizers.read(name)
    assert {"config", "objective", "steps", "final_loss"} <= found.card.keys()
    length = min(200, found.horizon or 0)
    settings = {"learning_rate": 0.03} if name == "compass" else {}  # its user gives the length of a step
    transform = optimizers.load(name, num_steps=length, **settings)
    params = {"w": jnp.array([1.5, -2.0, 0.5]), "m": jnp.full((4, 3), 0.5)}

    def loss(p):
        return sum(jnp.square(x).sum() for x in jax.tree.leaves(p))

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = transform.update(grads, state, params, value=value)
        return (optax.apply_updates(params, updates), state), value

    losses = jax.jit(lambda p: jax.lax.scan(step, (p, transform.init(p)), length=length)[1])(params)
    losses = np.asarray(losses)
    assert np.isfinite(losses).all() and losses[-1] < 0.2 * losses[0]


@pytest.fixture
def short(tmp_path):
    """A file of an optimizer that was meta-trained for 3 steps."""
    theta = jax.jit(optimizers.make("learnable-adam").init)(jax.random.key(1))
    optimizers.save(tmp_path / "w.safetensors", "learnable-adam", theta, card={"horizon": 3, "objective": "bowls"})
    return tmp_path / "w.safetensors"


def _steps(transform, number, trainings=None):
    """A compiled loop; several trainings as one batch."""

    def run(params):
        def body(carry, _):
            params, state = carry
            updates, state = transform.update(params, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, transform.init(params)), length=number)[0][0]

    params = {"w": jnp.ones(3 if trainings is None else (trainings, 3))}
    return jax.jit(run if trainings is None else jax.vmap(run))(params)


def test_the_horizon_stands_in_card_object_and_description(short):
    assert optimizers.load(short).horizon == optimizers.read(short).horizon == 3
    assert optimizers.read(short).describe() == "meta-trained on bowls, for 3 steps and not beyond"
    horizons = {name: optimizers.read(name).card["horizon"] for name in optimizers.shipped()}
    assert horizons == {"compass": 150, "lstm-log-digits-100": 100, "small-fc-digits-500": 500, "star-digits-500": 500}
    assert optimizers.load("compass").horizon == 5000
    assert "for 150 steps, and measured on unseen tasks up to 5000 steps" in optimizers.read("compass").describe()
    horizons["compass"] = 5000
    documented = optimizers.load.__doc__ or ""
    assert all(f'"{name}"' in documented and str(horizon) in documented for name, horizon in horizons.items())


def test_only_what_was_measured_on_unseen_tasks_has_a_plain_name():
    for name in optimizers.shipped():
        found = optimizers.read(name)
        assert name == found.name if "measured_to" in found.card else name.endswith(f"-digits-{found.horizon}"), name


def test_names_of_earlier_versions_say_what_they_are_called_now():
    with pytest.raises(UnknownNameError, match=r"is shipped as star, but star-digits-500 is: .*make"):
        optimizers.load("star")
    for name in ("celo", "lstm"):
        with pytest.raises(UnknownNameError, match=f"is shipped as {name}, only compass, lstm-log-digits-100, "):
            optimizers.load(name)


@pytest.mark.unchecked_types
@pytest.mark.parametrize("wrong", [0, -3, 10.5, float("nan"), float("inf")])
def test_numbers_of_steps_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match="num_steps must be a whole number from 1, got"):
        optimizers.load("compass", wrong)
    optimizers.load("compass", np.int32(10))
    jax.jit(lambda n: optimizers.load("compass", n).init(jnp.ones(2)))(10)


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf"), "fast"])
def test_learning_rates_that_are_none_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match="learning_rate must be a finite number from 0 or a schedule of optax, got"):
        optimizers.load("compass", 10, learning_rate=wrong)


def test_what_is_no_meta_trained_optimizer_says_what_it_is(tmp_path):
    with pytest.raises(RunError, match=r"is not the folder of a run: it has no config\.json"):
        optimizers.load(tmp_path)
    weights = Path(metalearn_models.__file__).parent
    for file, use in (
        ("learners/weights/digits-synthetic-16x10.safetensors", "a learner, for metalearn_models.learners.load"),
        ("tabular/transformer/weights/tables.safetensors", "a Transformer for tables, for InContextClassifier"),
    ):
        with pytest.raises(RunError, match=f"has no learned optimizer.*; it holds {use}"):
            optimizers.load(weights / file)


def test_a_setting_that_an_optimizer_does_not_have_is_named_with_those_it_has():
    with pytest.raises(
        TypeError, match="compass has no setting weight_decay, only units, learning_rate, orthogonalise: "
    ):
        optimizers.load("compass", 10, weight_decay=0.1)


def test_an_empty_name_is_a_name_and_no_place():
    with pytest.raises(UnknownNameError, match="meta-trained optimizer ''"):
        optimizers.load("")


@pytest.mark.parametrize("trainings", [None, 2])
def test_steps_past_the_horizon_are_warned_of_once_in_a_compiled_loop(short, trainings):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _steps(optimizers.load(short), 3, trainings)
        jax.effects_barrier()
    with pytest.warns(UserWarning, match=r"training runs of 3 steps and is used past them") as caught:
        tx = optimizers.load(short)
        for number in (5, 6):
            _steps(tx, number, trainings)
        jax.effects_barrier()
    assert len(caught) == 1


def test_steps_past_the_horizon_are_warned_of_outside_of_a_program_and_ahead(short):
    with pytest.warns(UserWarning, match=r"3 steps .*\(num_steps=4\)"):
        optimizers.load(short, 4)
    tx, params = optimizers.load(short), {"w": jnp.ones(3)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _steps(optimizers.load(short, 3), 5)  # who says that it is short is not watched
        state = tx.init(params)
        for _ in range(3):
            _, state = tx.update(params, state, params)
    with pytest.warns(UserWarning, match="used past them"):
        tx.update(params, state, params)


def test_the_watch_takes_no_part_in_derivatives(short):
    tx, params = optimizers.load(short), jnp.ones(3)

    def moved(scale):
        updates: Any = tx.update(scale * params, tx.init(params), params)[0]
        return updates.sum()

    slopes = [jax.jit(jax.grad(f))(jnp.float32(1)) for f in (moved, lambda s: jax.checkpoint(moved)(s))]
    assert np.isfinite(slopes).all()


def test_weights_of_another_optimizer_are_refused(tmp_path):
    theta = jax.jit(optimizers.make("star").init)(jax.random.key(0))
    with pytest.raises(RunError, match="another optimizer"):
        optimizers.save(tmp_path / "w.safetensors", "small-fc", theta)
    save_weights(
        tmp_path / "w.safetensors", library.theta_to_arrays(theta), {"optimizer": {"name": "small-fc", "settings": {}}}
    )
    with pytest.raises(RunError, match=r"layers.2.bias: expected \(2,\), got \(3,\)"):
        optimizers.load(tmp_path / "w.safetensors")


def test_files_of_other_things_are_refused(tmp_path):
    save_weights(tmp_path / "w.safetensors", {"a": jnp.ones(2)}, {})
    with pytest.raises(RunError, match="no learned optimizer"):
        optimizers.load(tmp_path / "w.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(RunError, match="damaged"):
        optimizers.load(tmp_path / "bad.safetensors")
    with pytest.raises(FileNotFoundError):
        optimizers.load(tmp_path / "none.safetensors")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RunError, match="not finished"):
        optimizers.load(tmp_path)
    with pytest.raises(UnknownNameError, match="meta-trained optimizer"):
        optimizers.load("small-fc-digit-500")
