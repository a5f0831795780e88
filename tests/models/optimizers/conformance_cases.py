"""Every registered optimizer and wrapper, and one small tree of parameters of every kind."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metalearn_models import optimizers
from metalearn_models.optimizers import first_order, gl2o, guard_optimizer, lgl2o, lookahead
from metalearn_models.optimizers.curvature.layers import LayerStatistics, standard_layout
from metalearn_models.sparsity import snfs, sparse

WRAPPERS = {
    "lgl2o": guard_optimizer(optimizers.make("learnable-sgd"), lambda tx: lgl2o(tx, optax.adam(0.1))),
    "gl2o": guard_optimizer(optimizers.make("learnable-adam"), lambda tx: gl2o(tx, optax.sgd(0.1, 0.9))),
    "lookahead": guard_optimizer(
        optimizers.make("learnable-momentum"), lambda tx: lookahead(tx, sync_period=2, on_sync="pull-back")
    ),
    "compass-orthogonal": optimizers.make("compass", orthogonalise=True),
    "first_order": first_order(optimizers.make("learnable-momentum")),
    "sparse": guard_optimizer(
        optimizers.make("learnable-momentum"), lambda tx: sparse(tx, snfs(end=3, every=2), sparsity=0.25)
    ),
}
NAMES = (*optimizers.names(), *WRAPPERS)
PER_LAYER = ("foof", "mac", "kfac", "kfac-standard", "natural-gradient", "mini-block-fisher", "soap")
"""They remember matrices that are as large as a layer's inputs or as an axis, and not like parameters.

Their updates are products of matrices: where these lie on automatic axes is the compiler's choice."""
MATRIX_PRODUCTS = ("muon", "orthogonal-adam", "compass-orthogonal", *PER_LAYER)
"""Their rule multiplies whole matrices: spread ones are gathered."""
NOT_EXPLICIT = ("muon", *PER_LAYER)
"""They are refused on explicit axes, where a product needs a placement: optax's Muon, and those per layer."""
DROPS = ("sparse",)
"""They set parameters to zero, in the first three steps."""
STEPS = 10
"""Number of steps that are planned; the tests continue far beyond."""


def optimizer(name):
    return WRAPPERS[name] if name in WRAPPERS else optimizers.make(name)


def make(name):
    """The transformation of `theta(name)`."""
    return optimizer(name).transform(theta(name), STEPS)


@functools.cache
def theta(name):
    """Meta-parameters that are not fresh ones, so that all their parts matter.

    Matrices are drawn by NumPy: to compile the random numbers of `init` takes longer than any test.
    """
    rng, key = np.random.default_rng(0), jax.random.key(0)
    leaves, structure = jax.tree.flatten(jax.eval_shape(optimizer(name).init, key))
    is_matrix = [x.ndim > 1 for x in leaves]

    def init_the_others(key):
        made = jax.tree.leaves(optimizer(name).init(key))
        return [x for x, matrix in zip(made, is_matrix, strict=True) if not matrix]

    others = iter(jax.jit(init_the_others)(key))
    draw = lambda x: 0.3 * rng.normal(size=x.shape) / np.sqrt(x.shape[-2])  # noqa: E731
    values = [draw(x) if matrix else next(others) for x, matrix in zip(leaves, is_matrix, strict=True)]
    return jax.tree.unflatten(structure, [jnp.asarray(np.asarray(x, np.float32) + np.float32(0.03)) for x in values])


def params(seed=0):
    """A matrix, a bfloat16 vector, a scalar, a leaf without entries and no leaf at all."""
    rng = np.random.default_rng(seed)
    draw = lambda shape, dtype: jnp.asarray(np.asarray(rng.normal(size=shape), dtype))  # noqa: E731
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
        everything = {"value": jnp.float32(1.0), "value_fn": half_square, "statistics": statistics_of(grads)}
        everything["grad_fn"] = lambda params, step: _like(params, grads)  # the same at every point
        return tx.update(grads, state, params, **everything)


def _like(params, grads):
    """The gradients of these parameters alone, in their dtypes."""
    known = {jax.tree_util.keystr(path): g for path, g in jax.tree_util.tree_leaves_with_path(grads)}
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.asarray(known[jax.tree_util.keystr(path)], x.dtype), params
    )


def statistics_of(grads):
    """Statistics of a layer per matrix: example b has the b-th unit vector as input, and outputs with this gradient."""
    found = {}
    for path, g in jax.tree_util.tree_leaves_with_path(grads):
        if jnp.ndim(g) == 2 and jnp.size(g):
            # Rows without any gradient are those of inputs that are always 0.
            inputs = jnp.eye(g.shape[0], dtype=g.dtype) * (g != 0).any(1)[:, None]
            found[jax.tree_util.keystr(path)] = LayerStatistics(
                inputs, g * g.shape[0], g, None, standard_layout(g.shape)
            )
    return found


def take_step(name, theta, num_steps, params, state, grads):
    """Parameters, state and updates after one step, which `apply_if_finite` leaves out where it must."""
    tx = optax.apply_if_finite(optimizer(name).transform(theta, num_steps), 2)
    updates, state = update(tx, grads, state, params)
    with jax.numpy_dtype_promotion("standard"):
        return optax.apply_updates(params, updates), state, updates


@functools.cache
def program(name):
    """One program of any number of steps, which donates the state: all that the tests compile of most optimizers.

    The last gradient is repeated. It returns the updates of the last step too.
    """

    def run(theta, num_steps, params, state, grads, steps):
        def body(t, carry):
            now = jax.tree.map(lambda g: g[jnp.minimum(t, g.shape[0] - 1)], grads)
            return take_step(name, theta, num_steps, *carry[:2], now)

        return jax.lax.fori_loop(0, steps, body, (params, state, jax.tree.map(jnp.zeros_like, params)))

    return jax.jit(run, donate_argnums=3)


def fresh_state(name, params, theta_=None, num_steps=STEPS):
    """The state before the first step, made operation by operation: a program would give each leaf its own buffer."""
    tx = make(name) if theta_ is None else optimizer(name).transform(theta_, num_steps)
    with jax.numpy_dtype_promotion("standard"):
        return optax.apply_if_finite(tx, 2).init(params)


def training(name, params, grads, steps):
    """Parameters, state and the last updates after some steps with `theta(name)`."""
    return program(name)(theta(name), STEPS, params, fresh_state(name, params), grads, steps)


def gradients(*scales, seed=5):
    """Gradients of four steps, the same number in every test, so that one program serves them all."""
    rng, scales = np.random.default_rng(seed), (*scales, *scales[-1:] * 3)[:4]
    draw = lambda x: np.stack([np.asarray(s * rng.normal(size=x.shape), x.dtype) for s in scales])  # noqa: E731
    return jax.tree.map(lambda x: jnp.asarray(draw(x)), params())


def forms(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)
