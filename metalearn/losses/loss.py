"""Losses as functions of logits and labels, one value for each example, with optax's conventions.

A loss here is a sum over classes (regression: a mean over outputs) of one elementwise function of the target y and
the prediction f. The link makes f of the logits: `softmax` and `sigmoid` for classification, `identity` for
regression, where the logits are the predictions. `SymbolicLoss` takes the elementwise function from a formula.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

from metalearn.errors import unknown_name
from metalearn.files import write_atomically
from metalearn.losses import expression
from metalearn.losses.expression import LIMIT, Expr

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
    logits = logits.astype(expression.at_least_single(logits.dtype))
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


@dataclass(frozen=True, eq=False)
class SymbolicLoss:
    """A formula used as a loss.

    It is a pytree whose leaves are the coefficients: it can be passed through `jit`, `vmap` and `grad`, and trained.
    The value is bounded and has a finite gradient for all logits that are numbers. Where the formula takes log
    directly of f, the logarithm of the link is used, not the clamped one of `expression`, so that confidently wrong
    predictions keep their gradient; `log(1 - f)` and the like are clamped at 1e-7.

    Attributes:
        expr: contains y and f.
        coefficients: one an edge, prefix order; None: all 1.
        link: "softmax", "sigmoid" or "identity".
        provenance: where it comes from, anything JSON can hold. Two losses are equal if all the rest is.

    Raises:
        ValueError: a formula without y or f, an unknown link, a wrong number of coefficients.
    """

    expr: Expr
    coefficients: tuple[float, ...] | Float[Array, "E"] | None = None
    link: Link = "softmax"
    provenance: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        expression.check_loss(self.expr)
        if self.link not in LINKS:
            raise unknown_name("link", self.link, LINKS)
        expected = expression.number_of_coefficients(self.expr)
        if self.coefficients is None:
            object.__setattr__(self, "coefficients", (1.0,) * expected)
        elif not isinstance(self.coefficients, jax.Array):  # hashable, and numbers rather than leaves of any kind
            object.__setattr__(self, "coefficients", tuple(float(c) for c in self.coefficients))
        shape = np.shape(self.coefficients)  # type: ignore[arg-type]
        if shape != (expected,):
            raise ValueError(f"{self.expr!s:.200} has {expected} coefficients, one an edge; got shape {shape}")

    def __call__(self, logits: Float[ArrayLike, "... C"], labels: ArrayLike) -> Float[Array, "..."]:
        """The loss of each example; see `per_example` for shapes, and `check_inputs` for what is not checked."""
        return per_example(self.terms, self.link, logits, labels)

    def terms(self, y: Float[Array, "... C"], prediction: Prediction) -> Float[Array, "... C"]:
        """The formula itself, element by element."""
        return expression.evaluate(self.expr, self._vector(), y, prediction.f, prediction.log_f)

    def _vector(self) -> Array | np.ndarray | None:
        c = self.coefficients
        if c is None or isinstance(c, jax.Array):
            return c
        if all(isinstance(x, float) for x in c):
            return None if all(x == 1 for x in c) else np.asarray(c)
        return jnp.stack([jnp.asarray(x, jnp.float32) for x in c])  # leaves that JAX has put there, traced perhaps

    def cotangent(self, logits: Float[ArrayLike, "... C"], labels: ArrayLike) -> Float[Array, "... C"]:
        """The gradient d loss / d logits of each example."""
        return cotangent(self, logits, labels)

    def with_coefficients(self, coefficients: Float[ArrayLike, "E"]) -> SymbolicLoss:
        """The same formula with other coefficients, for instance those being trained."""
        return dataclasses.replace(self, coefficients=coefficients)

    def __str__(self) -> str:
        return str(self.expr)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SymbolicLoss) or (self.expr, self.link) != (other.expr, other.link):
            return False
        return self is other or np.array_equal(np.asarray(self.coefficients), np.asarray(other.coefficients))

    def __hash__(self) -> int:  # `jit(loss)` hashes it, also with coefficients in an array
        return hash((self.expr, self.link))

    def to_json(self) -> str:
        """Formula, coefficients, link and provenance as versioned JSON."""
        values = [float(c) for c in self.coefficients]  # type: ignore[union-attr]
        record = expression.to_record(self.expr, values) | {"link": self.link}
        if self.provenance is not None:
            record["provenance"] = dict(self.provenance)
        return json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False) + "\n"

    @staticmethod
    def from_json(text: str | bytes) -> SymbolicLoss:
        """Read what `to_json` wrote.

        Raises:
            ValueError: see `expression.from_json`; also an unknown link, or a formula without y or f.
        """
        record = expression.read_json(text)
        expr, coefficients = expression.from_record(record)
        link, provenance = record.get("link"), record.get("provenance")
        if not isinstance(link, str) or link not in LINKS:
            raise unknown_name("link", str(link)[:40], LINKS)
        if provenance is not None and not isinstance(provenance, dict):
            raise ValueError(f'"provenance" must be a JSON object, got {provenance!r:.80}')
        return SymbolicLoss(expr, coefficients, link, provenance)  # type: ignore[arg-type]

    def save(self, path: str | Path) -> None:
        """Write `to_json` to a file, replacing it in one step."""
        write_atomically(Path(path), self.to_json().encode())

    @staticmethod
    def read(path: str | Path) -> SymbolicLoss:
        """Read a file that `save` wrote.

        Raises:
            ValueError: see `from_json`; the message names the file.
        """
        try:
            return SymbolicLoss.from_json(Path(path).read_bytes())
        except ValueError as error:
            raise type(error)(f"{path}: {error}") from None


def _flatten(loss: SymbolicLoss) -> tuple[tuple[Any], tuple[Any, ...]]:
    provenance = None if loss.provenance is None else json.dumps(dict(loss.provenance), sort_keys=True)
    return (loss.coefficients,), (loss.expr, loss.link, provenance)


def _unflatten(aux: tuple[Any, ...], children: tuple[Any, ...]) -> SymbolicLoss:
    loss = object.__new__(SymbolicLoss)  # without the checks: JAX puts placeholders into the leaves
    expr, link, provenance = aux
    values = {"expr": expr, "coefficients": children[0], "link": link}
    for name, value in (values | {"provenance": None if provenance is None else json.loads(provenance)}).items():
        object.__setattr__(loss, name, value)
    return loss


jax.tree_util.register_pytree_node(SymbolicLoss, _flatten, _unflatten)
