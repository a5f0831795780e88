"""What can be said about an inner loop before it runs: mistakes named in the user's terms, not in a tracer's."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from metalearn.inner import InnerLoop, start

__all__ = ["check_loop"]


def check_loop(loop: InnerLoop, theta: Any, data: Any, key: PRNGKeyArray) -> Any:
    """Refuse a theta or an inner loop that no estimator could work with; nothing is computed.

    Args:
        loop: the inner loop.
        theta: meta-parameters.
        data: what the loop will be given.
        key: any.

    Returns:
        The shapes of one state, as `jax.eval_shape` gives them.

    Raises:
        TypeError: a leaf of theta is no array of floats; `step` returns something other than (state, loss, aux); its
            loss is no float scalar; an aux is no scalar; or the state changes its structure, shapes or dtypes
            between two steps.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(theta):
        if not hasattr(leaf, "dtype") or not jnp.issubdtype(leaf.dtype, jnp.floating):
            what = f"{leaf.dtype} array" if hasattr(leaf, "dtype") else type(leaf).__name__
            raise TypeError(
                f"theta{jax.tree_util.keystr(path)} is of type {what}; meta-parameters are arrays of floats: "
                "keep what is not learned in data"
            )
    state = jax.eval_shape(lambda theta, data, key: start(loop, theta, data, key), theta, data, key)
    out = jax.eval_shape(loop.step, theta, state, jax.ShapeDtypeStruct((), jnp.int32), key, data)
    if not isinstance(out, tuple) or len(out) != 3:
        raise TypeError(f"step must return (state, loss, aux), aux a dict, {{}} if there is none; got {_kind(out)}")
    after, loss, aux = out
    if not hasattr(loss, "shape") or loss.shape != () or not jnp.issubdtype(loss.dtype, jnp.floating):
        got = f"{loss.dtype}{list(loss.shape)}" if hasattr(loss, "shape") else _kind(loss)
        raise TypeError(f"the loss that step returns must be one float, got {got}: take its mean, for example")
    if not isinstance(aux, dict) or any(a.shape != () for a in jax.tree.leaves(aux)):
        raise TypeError(f"the aux that step returns must be a dict of scalars, got {_shown(aux)}")
    if jax.tree.structure(state) != jax.tree.structure(after):
        raise TypeError(
            "the state must keep its structure between steps: init makes "
            f"{jax.tree.structure(state)}, step makes {jax.tree.structure(after)}"
        )
    for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(after), strict=True):
        if old.shape != new.shape or old.dtype != new.dtype:
            raise TypeError(
                f"the state must keep its shapes and dtypes between steps: state{jax.tree_util.keystr(path)} is "
                f"{old.dtype}{list(old.shape)} before a step and {new.dtype}{list(new.shape)} after it"
            )
    return state


def _kind(value: Any) -> str:
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else f"a {type(value).__name__}"


def _shown(aux: Any) -> str:
    return (
        str({k: list(v.shape) for k, v in aux.items() if hasattr(v, "shape")}) if isinstance(aux, dict) else _kind(aux)
    )
