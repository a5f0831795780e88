"""How every optimizer goes together with optax and with JAX's modes: traced, and not compiled, which would take long.

A trace shows structures, shapes and dtypes; that they stay what they are in a loop is the condition of `scan`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from metalearn_models import optimizers
from tests.models.optimizers.conformance_cases import (
    NAMES,
    PER_LAYER,
    STEPS,
    WRAPPERS,
    forms,
    make,
    params,
    theta,
    update,
)


def _traced(tx, tree, steps=2):
    """State and updates of a scan over steps, as forms; a state that changes its form is refused by the scan."""

    def training(tree):
        with jax.numpy_dtype_promotion("standard"):
            state = tx.init(tree)

        def body(state, _):
            updates, state = update(tx, tree, state, tree)
            return state, updates

        return jax.lax.scan(body, state, length=steps)

    return jax.eval_shape(training, tree)


def _expect_updates_like(tree, updates, steps=2):
    assert forms(updates) == jax.tree.map(lambda x: ((steps, *jnp.shape(x)), jnp.result_type(x)), tree)


@pytest.mark.parametrize("name", NAMES)
def test_64_bits_change_the_dtype_of_updates_and_of_no_state(name):
    """With float32 and float64 parameters, small ones and ones of more than a block."""
    tree = {"large": np.ones((300, 250), np.float32), "vector": np.ones(5, np.float32), "scalar": np.float32(1)}
    state, _ = _traced(make(name), tree)
    with jax.enable_x64(True):
        tx = make(name)  # theta was made without
        same, updates = _traced(tx, tree)
        assert forms(same) == forms(state)
        _expect_updates_like(tree, updates)
        wide = jax.tree.map(np.float64, tree)
        state64, updates = _traced(tx, wide)
        _expect_updates_like(wide, updates)
        if name not in FOLLOWS_PARAMETERS:
            assert forms(state64) == forms(state)
        optimizer = WRAPPERS[name] if name in WRAPPERS else optimizers.make(name)
        fresh = jax.eval_shape(optimizer.init, jax.random.key(0))
        assert {x.dtype for x in jax.tree.leaves(fresh)} == {jnp.dtype(jnp.float32)}


FOLLOWS_PARAMETERS = ("schedule", "lgl2o", "gl2o", "lookahead")
"""They keep the state of an optimizer of optax, or slow weights, whose dtype is that of the parameters."""


@pytest.mark.parametrize("name", NAMES)
def test_python_floats_are_parameters(name):
    """They cannot be arguments of a program, so that the steps are traced one by one."""
    tree = {"a": 0.5, "b": [2.0, jnp.ones(3)]}

    def two_steps():
        tx = make(name)
        state = tx.init(tree)
        updates, state = update(tx, {"a": jnp.asarray(0.1), "b": [0.2, jnp.ones(3)]}, state, tree)
        with jax.numpy_dtype_promotion("standard"):
            return update(tx, updates, state, optax.apply_updates(tree, updates))[0]

    assert forms(jax.eval_shape(two_steps)) == jax.tree.map(lambda x: (jnp.shape(x), jnp.dtype(jnp.float32)), tree)


@pytest.mark.parametrize("name", NAMES)
def test_trees_without_anything_to_update(name):
    """Of no leaves, of leaves without entries, masked with nothing, and an unused label of `multi_transform`."""
    tx = make(name)
    for tree in ({}, {"a": jnp.zeros((0, 3))}, {"a": None}):
        state, updates = _traced(tx, tree)
        assert all(x.size for x in jax.tree.leaves(state))
        _expect_updates_like(tree, updates)
    tree = params()
    for wrapped in (
        optax.masked(tx, jax.tree.map(lambda _: False, tree)),
        optax.multi_transform({"used": optax.sgd(0.1), "unused": tx}, "used"),
        optax.multi_transform({"used": tx, "unused": tx}, jax.tree.map(lambda x: "used" if x.ndim else "unused", tree)),
    ):
        _expect_updates_like(tree, _traced(wrapped, tree)[1])


@pytest.mark.parametrize("name", NAMES)
def test_the_parameters_in_a_state_are_found_by_optax(name):
    """`tree_map_params`, by which states are laid out over devices."""
    tx, tree = make(name), {"matrix": jnp.ones((7, 5)), "vector": jnp.ones(7)}
    state = jax.eval_shape(tx.init, tree)
    mapped = optax.tree_utils.tree_map_params(tx, lambda x: "parameter", state)
    assert jax.tree.structure(mapped) == jax.tree.structure(state)
    for kind, x in zip(jax.tree.leaves(mapped), jax.tree.leaves(state), strict=True):
        assert (kind == "parameter") == (x.shape[-1:] in ((5,), (7,))), (kind, x)


@pytest.mark.parametrize("name", NAMES)
def test_wrappers_of_optax_go_around_it(name):
    tree = {**params(), "vector": jnp.ones(5)}  # hyper-parameters of float32 make float32 of bfloat16 updates
    hyper = optax.inject_hyperparams(lambda scale: optax.chain(optax.clip(1.0), make(name), optax.scale(scale)))
    for wrapped in (
        hyper(scale=0.5),
        hyper(scale=optax.linear_schedule(1.0, 0.1, 10)),  # made again within every trace
        optax.MultiSteps(make(name), 2).gradient_transformation(),
        optax.masked(make(name), jax.tree.map(lambda x: x.ndim == 2, tree)),
    ):
        _expect_updates_like(tree, _traced(wrapped, tree)[1])


class Model(nnx.Module):
    """One parameter of each rank, and one without entries."""

    def __init__(self):
        self.matrix, self.vector = nnx.Param(jnp.ones((3, 2))), nnx.Param(jnp.ones(2))
        self.scalar, self.empty = nnx.Param(jnp.float32(1)), nnx.Param(jnp.zeros((0, 2)))


LOST_BY_NNX = tuple(name for name in PER_LAYER if name != "natural-gradient")
"""`nnx.Optimizer` makes a mapping of any tuple below the parameters, and they keep one per layer there."""


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LOST_BY_NNX])
def test_nnx_optimizers_keep_its_state_from_one_program_to_the_next(name):
    """`nnx.jit` takes objects apart and puts them together again."""
    tx = make(name)
    complete = optax.GradientTransformationExtraArgs(tx.init, lambda g, state, p: update(tx, g, state, p))

    def two_steps():
        model = Model()
        optimizer = nnx.Optimizer(model, complete, wrt=nnx.Param)
        steps, states = [], []
        for _ in range(2):
            model, optimizer = nnx.merge(*nnx.split((model, optimizer)))
            steps.append(optimizer.update(model, nnx.state(model, nnx.Param)))
            states.append(nnx.split(optimizer)[1])
        return steps, states

    with jax.numpy_dtype_promotion("standard"):
        steps, states = jax.eval_shape(two_steps)
    assert forms(steps[0]) == forms(steps[1]) == forms(nnx.as_pure(nnx.state(Model(), nnx.Param)))
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1]) and forms(states[0]) == forms(states[1])


@pytest.mark.parametrize("name", optimizers.names())
def test_files_of_every_optimizer_are_loaded_inside_a_trace(name, tmp_path):
    optimizers.save(tmp_path / "w.safetensors", name, theta(name))

    class Late:
        """An optimizer that is read from its file where it is used, as a model under `nnx.jit` does."""

        init = staticmethod(lambda tree: optimizers.load(tmp_path / "w.safetensors", STEPS).init(tree))
        update = staticmethod(lambda *a, **b: optimizers.load(tmp_path / "w.safetensors", STEPS).update(*a, **b))

    tree = {"matrix": jnp.ones((3, 2))}
    state, updates = _traced(Late, tree)
    expected, _ = _traced(make(name), tree)
    assert jax.tree.structure(state) == jax.tree.structure(expected) and forms(state) == forms(expected)
    _expect_updates_like(tree, updates)
