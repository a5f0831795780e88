"""The generator as an optimizer: its jumps, Adam after them, and what it refuses."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from metalearn.errors import RunError
from metalearn_models import optimizers
from metalearn_models.networks.mlp import mlp
from metalearn_models.optimizers import library
from metalearn_models.optimizers.gpt.jumping import tokens_of, unflatten_like
from metalearn_models.optimizers.registry import make

SETTINGS = {
    "widths": (3, 4, 2),
    "generator": {"method": "regression", "network": {"width": 8, "layers": 1, "heads": 2}, "steps": 1},
}


def network(hidden=4, dtype=jnp.float32):
    """Parameters of a network of three inputs and two outputs, in the form in which `mlp` has them."""
    shapes, rng = jax.eval_shape(mlp(3, (hidden,), 2).init, jax.random.key(0)), np.random.default_rng(1)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), dtype), shapes)


@pytest.fixture(scope="module")
def made():
    """A generator whose proposal is the present parameters plus 0.25, since only its decoders' biases are not zero."""
    optimizer = make("gpt", **SETTINGS, learning_rate=0.1, jumps=2)
    theta = jax.jit(optimizer.init)(jax.random.key(0))
    for decoder in theta["network"]["decoders"]:
        decoder["bias"] = jnp.asarray(np.asarray(decoder["bias"]) + np.float32(0.25))
    return optimizer, theta


def test_jumps_replace_the_parameters_and_adam_follows(made):
    optimizer, theta = made
    params = network()
    grads, bad = (jax.tree.map(lambda x, v=v: jnp.asarray(np.full_like(x, v)), params) for v in (1, np.nan))

    @jax.jit
    def four(theta, params):
        transform, moved = optimizer.transform(theta), []
        state = transform.init(params)
        # A loss that is not a number makes no jump, a gradient that is not one makes no step.
        for value, g in ((1.0, grads), (jnp.nan, grads), (1.0, bad), (1.0, grads)):
            updates, state = transform.update(g, state, params, value=jnp.float32(value))
            moved.append(updates)
        return moved, state

    (jumped, unknown, not_finite, stepped), state = four(theta, params)
    with jax.numpy_dtype_promotion("standard"):
        adam = optax.adam(0.1)
        expected, _ = jax.jit(lambda g, p: adam.update(g, adam.init(p)))(grads, params)  # the first step of Adam here
    for a, b, c, d, e in zip(*map(jax.tree.leaves, (jumped, unknown, not_finite, stepped, expected)), strict=True):
        np.testing.assert_allclose(a, np.full(a.shape, 0.25), atol=1e-6)
        assert not np.any(b) and not np.any(c)
        np.testing.assert_allclose(d, e, rtol=1e-5)
    assert int(state.step) == 4


def test_parameters_keep_their_type(made):
    optimizer, theta = made
    params = network(dtype=jnp.bfloat16)

    def first(params):
        transform = optimizer.transform(theta)
        return transform.update(params, transform.init(params), params, value=jnp.float32(1))[0]

    updates = jax.eval_shape(first, params)
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}


def test_files_hold_it_and_settings_may_change(made, tmp_path):
    _, theta = made
    path = tmp_path / "gpt.safetensors"
    library.save(path, "gpt", theta, SETTINGS)
    params = network()
    transform = optimizers.load(path, jumps=0, learning_rate=0.0)
    first = jax.jit(lambda p: transform.update(p, transform.init(p), p, value=jnp.float32(1))[0])
    assert not any(np.any(x) for x in jax.tree.leaves(first(params)))
    with pytest.warns(UserWarning, match=r"prompt 1e-05 is outside of the losses .* 0.001 to 10"):
        optimizers.load(path, prompt=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizers.load(path, prompt=0.5)
    with pytest.raises(ValueError, match="another optimizer or to other settings"):
        optimizers.load(path, widths=(3, 5, 2))
    with pytest.raises(RunError, match="theta of another optimizer"):
        library.save(path, "gpt", theta, {**SETTINGS, "widths": (3, 5, 2)})


def test_parameters_of_another_network_and_missing_losses_are_refused(made):
    optimizer, theta = made
    transform = optimizer.transform(theta)
    more = network(5)
    with pytest.raises(ValueError, match=r"made for the 26 parameters .* got 32"):
        transform.init(more)
    params = network()
    with pytest.raises(ValueError, match="value=None"):
        transform.update(params, transform.init(params), params)


@pytest.mark.unchecked_types
@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"jumps": -1}, "jumps and learning_rate must be at least 0"),
        ({"prompt": float("nan")}, "prompt a positive loss"),
        ({"widths": (3,)}, "inputs, hidden layers and outputs"),
        ({"tokens": "words"}, "units or chunks, got 'words'"),
        ({"generator": {"depth": 3}}, "takes the fields of GeneratorConfig"),
    ],
)
def test_settings_out_of_range_are_refused(settings, text):
    with pytest.raises(ValueError, match=text):
        make("gpt", **SETTINGS | settings)


def test_flat_parameters_are_in_the_order_of_ravel_pytree():
    params = network()
    flat, back = ravel_pytree(params)
    for a, b in zip(jax.tree.leaves(unflatten_like((3, 4, 2))(flat)), jax.tree.leaves(back(flat)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert tokens_of((3, 4, 2), "units").size == flat.size == tokens_of((3, 4, 2), "chunks", 5).size
