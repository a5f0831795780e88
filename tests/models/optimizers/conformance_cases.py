"""Every registered optimizer and wrapper, and one small tree of parameters of every kind."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metalearn_models import optimizers
from metalearn_models.optimizers import first_order, gl2o, guard_optimizer, lgl2o

WRAPPERS = {
    "lgl2o": guard_optimizer(optimizers.make("learnable-sgd"), lambda tx: lgl2o(tx, optax.adam(0.1))),
    "gl2o": guard_optimizer(optimizers.make("learnable-adam"), lambda tx: gl2o(tx, optax.sgd(0.1, 0.9))),
    "first_order": first_order(optimizers.make("learnable-momentum")),
}
NAMES = (*optimizers.names(), *WRAPPERS)
STEPS = 10
"""Number of steps that are planned; the tests continue far beyond."""


def optimizer(name):
    return WRAPPERS[name] if name in WRAPPERS else optimizers.make(name)


def make(name):
    """The transformation of `theta(name)`."""
    return optimizer(name).transform(theta(name), STEPS)


@functools.cache
def theta(name):
    """Meta-parameters that are not fresh ones, so that all their parts matter."""
    return jax.tree.map(lambda x: x + 0.03, optimizer(name).init(jax.random.key(0)))


def params(seed=0):
    """A matrix, a bfloat16 vector, a scalar, a leaf without entries and no leaf at all."""
    rng = np.random.default_rng(seed)
    draw = lambda shape, dtype: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
    return {
        "matrix": draw((8, 8), jnp.float32),
        "vector": draw((8,), jnp.bfloat16),
        "scalar": draw((), jnp.float32),
        "empty": jnp.zeros((0, 3)),
        "none": None,
    }


def half_square(tree):
    return sum(jnp.square(jnp.asarray(x, jnp.float32)).sum() for x in jax.tree.leaves(tree)) / 2


def update(tx, grads, state, params):
    """One update, with all that any optimizer may ask for."""
    with jax.numpy_dtype_promotion("standard"):  # optax relies on it
        return tx.update(grads, state, params, value=jnp.float32(1.0), value_fn=half_square)


def forms(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)
