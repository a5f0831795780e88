"""Small trainings with given gradients, for the exact claims of sparse training."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metalearn_models.sparsity import apply_masks, erk, sparse

STEPS = 12
INNER = optax.sgd(0.05, momentum=0.9)
SHAPES = {"a": (6, 9), "b": (9, 4), "bias": (9,)}


def params(seed=0):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}


def grads(seed=1):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=(STEPS, *shape)), jnp.float32) for name, shape in SHAPES.items()}


def train(tx, params, grads):
    """The start, and parameters, states and updates after every step."""
    state: Any = tx.init(params)
    params = apply_masks(params, state.masks)

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, state, updates)

    return (params, state), jax.lax.scan(step, (params, state), grads)[1]


def run(rule, sparsity=0.6, inner=INNER, given=None):
    """`train` under a rule, in one program."""
    return jax.jit(lambda p, g: train(sparse(inner, rule, erk, sparsity), p, g))(params(), given or grads())
