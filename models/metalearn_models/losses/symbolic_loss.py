"""A formula used as a loss: called as optax's losses are, trained as a pytree, kept as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from metalearn.errors import unknown_name
from metalearn.runs.files import write_atomically
from metalearn_models.losses import formulas
from metalearn_models.losses.elementwise import LINKS, Link, Prediction, cotangent, per_example
from metalearn_models.losses.formulas import Expr
from metalearn_models.losses.formulas.notation import from_record, read_json, to_record

__all__ = ["SymbolicLoss"]


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
        formulas.check_loss(self.expr)
        if self.link not in LINKS:
            raise unknown_name("link", self.link, LINKS)
        expected = formulas.number_of_coefficients(self.expr)
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
        return formulas.evaluate(self.expr, self._vector(), y, prediction.f, prediction.log_f)

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
        record = to_record(self.expr, values) | {"link": self.link}
        if self.provenance is not None:
            record["provenance"] = dict(self.provenance)
        return json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False) + "\n"

    @staticmethod
    def from_json(text: str | bytes) -> SymbolicLoss:
        """Read what `to_json` wrote.

        Raises:
            ValueError: see `formulas.from_json`; also an unknown link, or a formula without y or f.
        """
        record = read_json(text)
        expr, coefficients = from_record(record)
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
