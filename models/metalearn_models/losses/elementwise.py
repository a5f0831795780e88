"""Losses as functions of logits and labels, one value per example, with optax's conventions.

A loss here is a sum over classes (regression: a mean over outputs) of one elementwise function of the target y and
the prediction f. The link turns logits into f: `softmax` and `sigmoid` for classification, `identity` for regression,
where the logits are the predictions.
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
from metalearn_models.losses.scaling import Scale, batch_unit

__all__ = ["Prediction", "check_inputs", "cotangent", "per_example", "predict"]

Link = Literal["softmax", "sigmoid", "identity"]
LINKS: tuple[str, ...] = get_args(Link)


class Prediction(NamedTuple):
    """The prediction, in the forms that an elementwise loss may use.

    Attributes:
        f: probabilities, or the predicted values.
        log_f: log of the probabilities, exact where f itself underflows, at least -LIMIT. None: regression.
        log_not_f: `() -> log(1 - f)`, exact where f rounds to 1. Raises ValueError in regression.
        classes: size of the last axis of the logits.
    """

    f: Float[Array, "... C"]
    log_f: Float[Array, "... C"] | None
    log_not_f: Callable[[], Float[Array, "... C"]]
    classes: int


Terms = Callable[[Float[Array, "... C"], Prediction], Float[Array, "... C"]]


def predict(logits: Float[Array, "... C"], link: Link) -> Prediction:
    """The prediction that belongs to logits.

    Raises:
        ValueError: softmax logits of a single class.
    """
    classes = logits.shape[-1]
    if link == "identity":
        return Prediction(logits, None, lambda: _no_probability(), classes)
    if link == "sigmoid":
        log_f = jnp.maximum(jax.nn.log_sigmoid(logits), -LIMIT)
        return Prediction(jax.nn.sigmoid(logits), log_f, lambda: jax.nn.log_sigmoid(-logits), classes)
    if classes < 2:
        raise ValueError("softmax needs logits of at least 2 classes on the last axis, got 1: use link='sigmoid'")
    # Bounded: the product 0 * log_f of a class that is masked by a logit of -inf must be finite.
    log_f = jnp.maximum(jax.nn.log_softmax(logits), -LIMIT)
    f = jnp.exp(log_f)

    def log_not_f() -> Array:
        # 1 - f loses all digits only for the likeliest class; there the other probabilities are added up.
        likeliest = jax.nn.one_hot(jnp.argmax(logits, -1), classes, dtype=bool)
        others = jax.nn.logsumexp(log_f, -1, keepdims=True, where=~likeliest)
        return jnp.maximum(jnp.where(likeliest, others, jnp.log1p(-jnp.where(likeliest, 0, f))), -LIMIT)

    return Prediction(f, log_f, log_not_f, classes)


def _no_probability() -> Array:
    raise ValueError("a prediction of regression is not a probability, so log(1 - f) does not exist")


def per_example(
    terms: Terms, link: Link, logits: ArrayLike, labels: ArrayLike, scale: Scale = 1.0
) -> Float[Array, "..."]:
    """Add up elementwise terms per example.

    Args:
        terms: `(y, prediction) -> values`, all of the logits' shape.
        link: turns logits into predictions.
        logits: floats `[..., C]`; half precision is widened to float32.
        labels: softmax: integer classes `[...]`, or distributions `[..., C]`; sigmoid: `[..., C]` in [0, 1];
            identity: targets `[..., C]`. With one output, C = 1, the last two may also be `[...]`. Logits `[N]` with
            labels `[N]` are one example with N outputs: for N examples, give the logits as `[N, 1]`.
        scale: regression only: the unit s of the targets, see `losses.scaling`. The loss is
            `s^2 terms(y / s, f / s)`. "batch": estimated per output from the targets of all examples.

    Returns:
        `[...]`: sums over classes; with the identity link means over outputs. NaN in logits or labels gives NaN, in the
        value and in the gradient. An example with an integer label that is not a class has the value NaN and the
        gradient 0; mask it with `jnp.where`, since a product with NaN is NaN.

    Raises:
        TypeError: labels or logits of the wrong dtype.
        ValueError: shapes that do not fit; the message says what would be right.
    """
    logits = jnp.asarray(logits)
    y, valid = _targets(logits, jnp.asarray(labels), link)
    logits = logits.astype(at_least_single(logits.dtype))
    y = y.astype(logits.dtype)
    if scale == 1.0:
        values = terms(y, predict(logits, link))
    else:
        unit = batch_unit(scale, y)
        values = unit**2 * terms(y / unit, predict(logits / unit, link))
    total = values.mean(-1) if link == "identity" else values.sum(-1)
    total = _carry_nan(total, logits)
    return total if valid is None else jnp.where(valid, total, jnp.nan)


def _carry_nan(total: Float[Array, "..."], logits: Float[Array, "... C"]) -> Float[Array, "..."]:
    """Make the gradient by the logits NaN where the value is: maxima, clips and ReLUs have the slope 0 at NaN."""
    bad = jnp.isnan(total)
    poison = jnp.where(bad, jnp.nan, 0.0).astype(total.dtype)
    return total + poison * jnp.where(bad[..., None], logits, 0).sum(-1)


def _targets(logits: Array, labels: Array, link: Link) -> tuple[Array, Array | None]:
    """Labels in the shape of the logits, and for integer classes whether each label is a class."""
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"logits must be floating point, got {logits.dtype}")
    if logits.ndim == 0:
        raise ValueError("logits need a last axis of classes or outputs, got a scalar")
    if labels.shape == logits.shape:
        if link == "softmax" and labels.ndim == 1 and jnp.issubdtype(labels.dtype, jnp.integer):
            raise ValueError(
                f"logits of the shape {logits.shape} are those of one example with {logits.size} classes. Its label is "
                "one integer or a distribution of floats: give the logits of B examples as [B, C], with C at least 2"
            )
        return labels, None
    classes = logits.shape[-1]
    if link == "softmax" and labels.shape == logits.shape[:-1]:
        if not jnp.issubdtype(labels.dtype, jnp.integer):
            raise TypeError(f"labels without a class axis must be integer classes, got {labels.dtype}")
        return jax.nn.one_hot(labels, classes), (labels >= 0) & (labels < classes)
    if link != "softmax" and classes == 1 and labels.shape == logits.shape[:-1]:
        return labels[..., None], None
    right = f"{logits.shape}" + (f" or integers {logits.shape[:-1]}" if link == "softmax" else "")
    what = "a loss for numbers" if link == "identity" else "a loss for classes"
    raise ValueError(
        f"logits {logits.shape} with link {link!r} ({what}) need labels of shape {right}, got {labels.shape}"
    )


def cotangent(
    loss: Callable[[Array, Array], Array], logits: Float[ArrayLike, "... C"], labels: ArrayLike
) -> Float[Array, "... C"]:
    """The gradient d loss / d logits per example, for any loss of this signature; it can be differentiated again."""
    return jax.grad(lambda z: loss(z, jnp.asarray(labels)).sum())(jnp.asarray(logits))


def check_inputs(logits: ArrayLike, labels: ArrayLike, link: Link = "softmax") -> None:
    """Check the values of logits and labels once, outside `jit`: traced losses cannot raise for values.

    Args:
        logits: as for the loss.
        labels: as for the loss.
        link: link of the loss, `loss.link`.

    Raises:
        ValueError: NaN or +inf among the logits (-inf is allowed as a mask), labels out of range or not finite, or
            shapes that do not fit. Says where the first wrong value is.
        TypeError: wrong dtypes, or traced values.
    """
    if any(isinstance(x, Tracer) for x in (logits, labels)):
        raise TypeError("check_inputs reads values: call it outside jit, grad and vmap")
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
