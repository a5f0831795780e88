"""Losses as functions of logits and labels, one value for each example, with optax's conventions.

A loss here is a sum over classes (regression: a mean over outputs) of one elementwise function of the target y and
the prediction f. The link makes f of the logits: `softmax` and `sigmoid` for classification, `identity` for
regression, where the logits are the predictions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

from metalearn_models.losses.formulas import LIMIT
from metalearn_models.losses.formulas.values import at_least_single

__all__ = ["Prediction", "check_inputs", "cotangent", "per_example", "predict"]

Link = Literal["softmax", "sigmoid", "identity"]
LINKS: tuple[str, ...] = get_args(Link)


class Prediction(NamedTuple):
    """What an elementwise loss may know of the prediction.

    Attributes:
        f: probabilities, or the values predicted.
        log_f: log of the probabilities, exact where f itself underflows, at least -LIMIT; None in regression.
        log_not_f: `() -> log(1 - f)`, exact where f rounds to 1; in regression it must not be called.
        classes: size of the last axis of the logits.
    """

    f: Float[Array, "... C"]
    log_f: Float[Array, "... C"] | None
    log_not_f: Callable[[], Float[Array, "... C"]]
    classes: int


Terms = Callable[[Float[Array, "... C"], Prediction], Float[Array, "... C"]]


def predict(logits: Float[Array, "... C"], link: Link) -> Prediction:
    """The prediction that logits stand for."""
    classes = logits.shape[-1]
    if link == "identity":
        return Prediction(logits, None, lambda: _no_probability(), classes)
    if link == "sigmoid":
        log_f = jnp.maximum(jax.nn.log_sigmoid(logits), -LIMIT)
        return Prediction(jax.nn.sigmoid(logits), log_f, lambda: jax.nn.log_sigmoid(-logits), classes)
    if classes < 2:
        raise ValueError("softmax needs logits of at least 2 classes on the last axis, got 1: use link='sigmoid'")
    # bounded, so that a class masked by a logit of -inf has the finite product 0 * log_f and no NaN
    log_f = jnp.maximum(jax.nn.log_softmax(logits), -LIMIT)
    f = jnp.exp(log_f)

    def log_not_f() -> Array:
        # 1 - f loses all digits only for the likeliest class: there the others are added up
        likeliest = jax.nn.one_hot(jnp.argmax(logits, -1), classes, dtype=bool)
        others = jax.nn.logsumexp(log_f, -1, keepdims=True, where=~likeliest)
        return jnp.maximum(jnp.where(likeliest, others, jnp.log1p(-jnp.where(likeliest, 0, f))), -LIMIT)

    return Prediction(f, log_f, log_not_f, classes)


def _no_probability() -> Array:
    raise ValueError("a regression prediction is no probability")


def per_example(terms: Terms, link: Link, logits: ArrayLike, labels: ArrayLike) -> Float[Array, "..."]:
    """Add up elementwise terms for each example.

    Args:
        terms: `(y, prediction) -> values`, all of the logits' shape.
        link: what makes predictions of logits.
        logits: floats `[..., C]`; half precision is widened to float32.
        labels: softmax: integer classes `[...]`, or distributions `[..., C]`; sigmoid: `[..., C]` in [0, 1];
            identity: targets `[..., C]`. With one output, C = 1, the last two may also be `[...]`.

    Returns:
        `[...]`: sums over classes; with the identity link means over outputs. An example whose integer label is no
        class gets NaN and no gradient: multiply nothing by it, mask it with `jnp.where`.

    Raises:
        TypeError: labels or logits of the wrong dtype.
        ValueError: shapes that do not belong together; the message says what would be right.
    """
    logits = jnp.asarray(logits)
    y, valid = _targets(logits, jnp.asarray(labels), link)
    logits = logits.astype(at_least_single(logits.dtype))
    values = terms(y.astype(logits.dtype), predict(logits, link))
    total = values.mean(-1) if link == "identity" else values.sum(-1)
    return total if valid is None else jnp.where(valid, total, jnp.nan)


def _targets(logits: Array, labels: Array, link: Link) -> tuple[Array, Array | None]:
    """Labels in the shape of the logits; for integer classes also which of them exist."""
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"logits must be floating point, got {logits.dtype}")
    if logits.ndim == 0:
        raise ValueError("logits need a last axis of classes or outputs, got a scalar")
    if labels.shape == logits.shape:
        return labels, None
    classes = logits.shape[-1]
    if link == "softmax" and labels.shape == logits.shape[:-1]:
        if not jnp.issubdtype(labels.dtype, jnp.integer):
            raise TypeError(f"labels without a class axis must be integer classes, got {labels.dtype}")
        return jax.nn.one_hot(labels, classes), (labels >= 0) & (labels < classes)
    if link != "softmax" and classes == 1 and labels.shape == logits.shape[:-1]:
        return labels[..., None], None
    right = f"{logits.shape}" + (f" or integers {logits.shape[:-1]}" if link == "softmax" else "")
    raise ValueError(f"logits {logits.shape} with link {link!r} need labels of shape {right}, got {labels.shape}")


def cotangent(
    loss: Callable[[Array, Array], Array], logits: Float[ArrayLike, "... C"], labels: ArrayLike
) -> Float[Array, "... C"]:
    """The gradient d loss / d logits of each example, for any loss of this signature; differentiable itself."""
    return jax.grad(lambda z: loss(z, jnp.asarray(labels)).sum())(jnp.asarray(logits))


def check_inputs(logits: ArrayLike, labels: ArrayLike, link: Link = "softmax") -> None:
    """Look at the values themselves, once, outside `jit`: the losses cannot raise for values while traced.

    Args:
        logits: as for the loss.
        labels: as for the loss.
        link: of the loss, `loss.link`.

    Raises:
        ValueError: NaN among the logits (-inf, as a mask, is allowed; +inf is not), labels out of range, not finite,
            or negative, or shapes that do not belong together. Says where the first one is.
        TypeError: wrong dtypes, or values that are traced.
    """
    if any(isinstance(x, Tracer) for x in (logits, labels)):
        raise TypeError("check_inputs looks at values, call it outside jit, grad and vmap")
    _targets(jnp.asarray(logits), jnp.asarray(labels), link)
    z, y = np.asarray(logits, np.float64), np.asarray(labels)
    wrong = ~np.isfinite(z) if link == "identity" else np.isnan(z) | (z == np.inf)
    _refuse(wrong, "logits must be numbers", z)
    if np.issubdtype(y.dtype, np.integer) and y.shape == z.shape[:-1] and link == "softmax":
        _refuse((y < 0) | (y >= z.shape[-1]), f"labels must be classes from 0 to {z.shape[-1] - 1}", y)
        return
    y = y.astype(np.float64)
    _refuse(~np.isfinite(y), "labels must be finite", y)
    if link != "identity":
        _refuse((y < 0) | (y > 1), "labels must be probabilities from 0 to 1", y)
    if link == "softmax":
        total = y.sum(-1)
        _refuse(np.abs(total - 1) > 1e-3, "the labels of an example must sum to 1", total)


def _refuse(wrong: np.ndarray, rule: str, values: np.ndarray) -> None:
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(f"{rule}; {int(wrong.sum())} of {wrong.size} are not, the first is {values[at]} at {at}")
