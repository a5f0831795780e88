"""What a process of eight devices finds out about every optimizer, printed as JSON for `test_conformance_devices`."""

import json
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from metalearn_models.optimizers.learned.parts import celo_rule, fused
from tests.models.optimizers.conformance_cases import NAMES, NOT_EXPLICIT, make, params, update

SPECS = {"matrix": P("x", "y"), "vector": P("y")}
"""Of the leaves that are spread; the others lie on all devices."""


def main() -> None:
    found = {"adam": on_automatic_axes(optax.adam(1e-3))}
    with mock.patch.object(fused, "BLOCK", 8), mock.patch.object(celo_rule, "BLOCK", 8):  # small tensors have blocks
        for name in NAMES:
            found[name] = on_automatic_axes(make(name))
            found[name] |= {} if name in NOT_EXPLICIT else on_explicit_axes(make(name))
    print(json.dumps(found))


def on_automatic_axes(tx):
    """Placements that are lost, collectives that gather, and the updates, of a compiled update.

    Its parameters are the gradients too.
    """
    tx = optax.with_extra_args_support(tx)
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    tree = params()
    spread = jax.device_put(tree, {k: x if x is None else place(mesh, k) for k, x in tree.items()})
    state = init(tx, spread)
    compiled = jax.jit(lambda grads, state, params: update(tx, grads, state, params)).lower(spread, state, spread)
    compiled = compiled.compile()
    after = compiled(spread, state, spread)
    text = compiled.as_text()
    gathers = sum(text.count(f" {name}(") for name in ("all-gather", "all-to-all", "collective-permute"))
    updates = {k: np.asarray(x, np.float32).tolist() for k, x in after[0].items() if x is not None}
    return {"lost": lost((state, *after)), "gathers": gathers, "updates": updates}


def on_explicit_axes(tx):
    """Placements that are lost in a traced update: there the types have them."""
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        shapes = {"matrix": (8, 8), "vector": (8,), "scalar": ()}
        spread = {k: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place(mesh, k)) for k, shape in shapes.items()}
        state = jax.eval_shape(lambda params: init(tx, params), spread)
        after = jax.eval_shape(lambda *a: update(tx, *a), spread, state, spread)
        return {"explicit": lost((state, *after))}


def place(mesh, name):
    return NamedSharding(mesh, SPECS.get(name, P()))


def init(tx, params):
    with jax.numpy_dtype_promotion("standard"):
        return tx.init(params)


def lost(tree):
    """The leaves of a tensor's shape that do not lie where the tensor lies."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    matrices = [(path, getattr(x.sharding, "spec", P())) for path, x in leaves if x.shape[-2:] == (8, 8)]
    return [f"{jax.tree_util.keystr(path)}: {spec}" for path, spec in matrices if tuple(spec)[-2:] != ("x", "y")]


if __name__ == "__main__":
    main()
