"""Check an inner loop before it runs, and report mistakes in the terms of the user instead of a tracer's."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from metalearn.inner import InnerLoop, start

__all__ = ["check_loop"]


def check_loop(loop: InnerLoop, theta: Any, data: Any, key: PRNGKeyArray) -> Any:
    """Refuse a theta or an inner loop that no estimator can work with; nothing is computed.

    Args:
        loop: the inner loop.
        theta: meta-parameters.
        data: the data that the loop will get.
        key: any key.

    Returns:
        The shapes of one state, as from `jax.eval_shape`.

    Raises:
        TypeError: a leaf of theta is not a float array; `step` does not return (state, loss, aux); its loss is not a
            float scalar; an aux is not a scalar; or a step changes the structure, a shape or a dtype of the state.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(theta):
        if not hasattr(leaf, "dtype") or not jnp.issubdtype(leaf.dtype, jnp.floating):
            what = f"{leaf.dtype} array" if hasattr(leaf, "dtype") else type(leaf).__name__
            raise TypeError(
                f"theta{jax.tree_util.keystr(path)} is of type {what}; meta-parameters must be arrays of floats: "
                "keep everything else in data"
            )
    state = jax.eval_shape(lambda theta, data, key: start(loop, theta, data, key), theta, data, key)
    out = jax.eval_shape(loop.step, theta, state, jax.ShapeDtypeStruct((), jnp.int32), key, data)
    if not isinstance(out, tuple) or len(out) != 3:
        raise TypeError(f"step must return (state, loss, aux), aux a dict ({{}} if there is none), got {_kind(out)}")
    after, loss, aux = out
    if not hasattr(loss, "shape") or loss.shape != () or not jnp.issubdtype(loss.dtype, jnp.floating):
        got = f"{loss.dtype}{list(loss.shape)}" if hasattr(loss, "shape") else _kind(loss)
        raise TypeError(f"the loss that step returns must be a float scalar, got {got}: for example, take its mean")
    if not isinstance(aux, dict) or any(a.shape != () for a in jax.tree.leaves(aux)):
        raise TypeError(f"the aux that step returns must be a dict of scalars, got {_shapes(aux)}")
    if jax.tree.structure(state) != jax.tree.structure(after):
        raise TypeError(
            "a step must keep the structure of the state: init returns "
            f"{jax.tree.structure(state)}, step returns {jax.tree.structure(after)}"
        )
    for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(after), strict=True):
        if old.shape != new.shape or old.dtype != new.dtype:
            raise TypeError(
                f"a step must keep the shapes and dtypes of the state: state{jax.tree_util.keystr(path)} is "
                f"{old.dtype}{list(old.shape)} before a step and {new.dtype}{list(new.shape)} after it"
            )
    return state


def _kind(value: Any) -> str:
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else f"a {type(value).__name__}"


def _shapes(aux: Any) -> str:
    return (
        str({k: list(v.shape) for k, v in aux.items() if hasattr(v, "shape")}) if isinstance(aux, dict) else _kind(aux)
    )
