"""Learned optimizers by name, in files and in the package."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn.errors import RunError, UnknownNameError
from metalearn.runs.weights import save_weights
from metalearn_models import optimizers
from metalearn_models.optimizers import library


@pytest.mark.parametrize("name", optimizers.names())
def test_theta_survives_a_file(name, tmp_path):
    theta = optimizers.make(name).init(jax.random.key(1))
    optimizers.save(tmp_path / "w.safetensors", name, theta, card={"seed": 1})
    found = optimizers.read(tmp_path / "w.safetensors")
    assert found.name == name and found.card["seed"] == 1
    assert jax.tree.structure(found.theta) == jax.tree.structure(theta)
    jax.tree.map(np.testing.assert_array_equal, found.theta, theta)


def test_settings_are_part_of_the_file(tmp_path):
    optimizer = optimizers.make("small-fc", hidden=(3,), step_size=0.5)
    theta = optimizer.init(jax.random.key(0))
    optimizers.save(tmp_path / "w.safetensors", "small-fc", theta, {"hidden": [3], "step_size": 0.5})
    params = {"w": jnp.ones((3, 2))}
    updates = []
    for transform in (optimizers.load(tmp_path / "w.safetensors"), optimizer.transform(theta)):
        updates.append(transform.update(params, transform.init(params), params)[0]["w"])
    np.testing.assert_array_equal(*updates)


@pytest.mark.parametrize("name", optimizers.shipped())
def test_shipped_optimizers_train_and_say_where_they_come_from(name):
    found = optimizers.read(name)
    assert {"config", "objective", "steps", "final_loss"} <= found.card.keys()
    transform = optimizers.load(name, num_steps=200)
    params = {"w": jnp.array([1.5, -2.0, 0.5]), "m": jnp.full((4, 3), 0.5)}

    def loss(p):
        return sum(jnp.square(x).sum() for x in jax.tree.leaves(p))

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = transform.update(grads, state, params, value=value)
        return (optax.apply_updates(params, updates), state), value

    losses = jax.jit(lambda p: jax.lax.scan(step, (p, transform.init(p)), length=200)[1])(params)
    assert jnp.isfinite(losses).all() and losses[-1] < 0.2 * losses[0]


def test_weights_of_another_optimizer_are_refused(tmp_path):
    theta = optimizers.make("star").init(jax.random.key(0))
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
    with pytest.raises(RunError, match="not finished"):
        optimizers.load(tmp_path)
    with pytest.raises(UnknownNameError, match="meta-trained optimizer"):
        optimizers.load("small-fcc")
