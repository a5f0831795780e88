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
from tests.models.optimizers.conformance_cases import NAMES, make, update

SPECS = {"both": P("x", "y"), "vector": P("y")}


def main() -> None:
    found = {"adam": on_automatic_axes(optax.adam(1e-3))}
    with mock.patch.object(fused, "BLOCK", 8), mock.patch.object(celo_rule, "BLOCK", 8):  # small tensors have blocks
        for name in NAMES:
            found[name] = {**on_automatic_axes(make(name)), **on_explicit_axes(make(name))}
    print(json.dumps(found))


def on_automatic_axes(tx):
    """Placements that are lost, collectives that gather, and the error against one device, of a compiled update."""
    rng = np.random.default_rng(0)
    tree = {"both": jnp.asarray(rng.normal(size=(8, 8)), jnp.float32), "vector": jnp.arange(8.0)}
    tx = optax.with_extra_args_support(tx)
    step = jax.jit(lambda grads, state, params: update(tx, grads, state, params))
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    spread = jax.device_put(tree, {k: NamedSharding(mesh, spec) for k, spec in SPECS.items()})
    state = init(tx, spread)
    compiled = step.lower(spread, state, spread).compile()
    after = compiled(spread, state, spread)
    text = compiled.as_text()
    expected, _ = step(tree, init(tx, tree), tree)
    error = max(np.abs(np.asarray(after[0][k]) - np.asarray(expected[k])).max() for k in tree)
    gathers = sum(text.count(f" {name}(") for name in ("all-gather", "all-to-all", "collective-permute"))
    return {"lost": lost((state, *after)), "gathers": gathers, "error": float(error)}


def on_explicit_axes(tx):
    """Placements that are lost in a traced update: there the types have them."""
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        shapes = {"both": (8, 8), "vector": (8,)}
        spread = {
            k: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, SPECS[k]))
            for k, shape in shapes.items()
        }
        state = jax.eval_shape(lambda params: init(tx, params), spread)
        after = jax.eval_shape(lambda *a: update(tx, *a), spread, state, spread)
        return {"explicit": lost((state, *after))}


def init(tx, params):
    with jax.numpy_dtype_promotion("standard"):
        return tx.init(params)


def lost(tree):
    """The leaves of a tensor's shape that do not lie where the tensor lies."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    matrices = [(path, x.sharding.spec) for path, x in leaves if x.shape[-2:] == (8, 8)]
    return [f"{jax.tree_util.keystr(path)}: {spec}" for path, spec in matrices if tuple(spec)[-2:] != ("x", "y")]


if __name__ == "__main__":
    main()
