"""A formula used as a loss: called like the losses of optax, trained as a pytree, stored as JSON."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Mapping, Sequence
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
from metalearn_models.losses.scaling import Scale, check_scale

__all__ = ["MOST_CLASSES", "SymbolicLoss", "weight_of_wrong"]

MOST_CLASSES = 1000
"""The largest number of classes that learned losses are screened and tested for."""


def weight_of_wrong(classes: int, found_with: int) -> float:
    """The factor of the wrong classes' terms: 1 up to `found_with` classes, beyond it (found_with - 1) / (classes - 1).

    So the wrong classes together never weigh more than they did in the search.
    """
    return min(1.0, (found_with - 1) / (classes - 1))


_Coefficients = Sequence[float] | Float[Array, "E"] | Float[np.ndarray, "E"]


@dataclass(frozen=True, eq=False)
class SymbolicLoss:
    """A formula used as a loss.

    It is a pytree whose leaves are the coefficients, so it passes through `jit`, `vmap` and `grad`, and can be trained.
    The value is bounded and has a finite gradient for all finite logits. `log(f)` in the formula uses the logarithm of
    the link, not the clamped one of `formulas`, so confidently wrong predictions keep their gradient; `log(1 - f)` and
    the like are clamped at 1e-7.

    A formula that was found with few classes adds up too much over the wrong ones of many: with 1,000 classes the term
    of the right class is one of 1,000. With `classes`, the terms of the wrong classes (y = 0) are multiplied by
    (classes - 1) / (C - 1) if there are C > classes of them. Up to `classes` the formula is as it was found.

    Attributes:
        expr: the formula; contains y and f.
        coefficients: one per edge, in prefix order. None: all 1.
        link: "softmax", "sigmoid" or "identity".
        provenance: origin of the loss, any JSON values. It does not count when two losses are compared.
        classes: largest number of classes that the formula was found with, softmax only. None: a plain sum over
            classes, as published formulas have it.
        scale: unit of the targets of regression, see `losses.scaling`; 1 with the other links.

    Raises:
        ValueError: a formula without y or f, an unknown link, a wrong number of coefficients, `classes` or `scale` out
            of range or with a link that has none.
    """

    expr: Expr
    coefficients: _Coefficients | None = None
    link: Link = "softmax"
    provenance: Mapping[str, Any] | None = None
    classes: int | None = None
    scale: Scale = 1.0

    def __post_init__(self) -> None:
        formulas.check_loss(self.expr)
        if self.link not in LINKS:
            raise unknown_name("link", self.link, LINKS)
        expected = formulas.number_of_coefficients(self.expr)
        if self.coefficients is None:
            object.__setattr__(self, "coefficients", (1.0,) * expected)
        elif not isinstance(self.coefficients, jax.Array):  # a tuple of numbers can be hashed
            object.__setattr__(self, "coefficients", tuple(float(c) for c in self.coefficients))
        shape = np.shape(self.coefficients)  # type: ignore[arg-type]
        if shape != (expected,):
            raise ValueError(f"{self.expr!s:.200} has {expected} coefficients, one per edge; got shape {shape}")
        if self.classes is not None and (self.link != "softmax" or self.classes < 2):
            raise ValueError(f"classes must be at least 2, with link 'softmax', got {self.classes} with {self.link!r}")
        object.__setattr__(self, "scale", check_scale(self.scale))
        if self.link != "identity" and self.scale != 1.0:
            raise ValueError(f"only losses of regression have a scale, got {self.scale!r} with link {self.link!r}")

    def __call__(self, logits: Float[ArrayLike, "... C"], labels: ArrayLike) -> Float[Array, "..."]:
        """The loss per example; `per_example` describes the shapes, and `check_inputs` checks the values."""
        return per_example(self.terms, self.link, logits, labels, self.scale)

    def terms(self, y: Float[Array, "... C"], prediction: Prediction) -> Float[Array, "... C"]:
        """The formula itself, element by element, of targets and predictions in units of `scale`."""
        values = formulas.evaluate(self.expr, self._vector(), y, prediction.f, prediction.log_f)
        if self.classes is None or prediction.classes <= self.classes:
            return values
        if prediction.classes > MOST_CLASSES:
            warnings.warn(
                f"the loss {self!s:.80} was screened for 2 to {MOST_CLASSES} classes, got {prediction.classes}: "
                "compare it with cross-entropy before you rely on it",
                stacklevel=4,
            )
        return (y + (1 - y) * weight_of_wrong(prediction.classes, self.classes)) * values

    def _vector(self) -> Array | np.ndarray | None:
        c = self.coefficients
        if c is None or isinstance(c, jax.Array):
            return c
        if all(isinstance(x, float) for x in c):
            return None if all(x == 1 for x in c) else np.asarray(c)
        return jnp.stack([jnp.asarray(x, jnp.float32) for x in c])  # leaves that JAX put there, perhaps traced

    def cotangent(self, logits: Float[ArrayLike, "... C"], labels: ArrayLike) -> Float[Array, "... C"]:
        """The gradient d loss / d logits per example."""
        return cotangent(self, logits, labels)

    def with_coefficients(self, coefficients: _Coefficients) -> SymbolicLoss:
        """The same loss with other coefficients, for instance those in training."""
        return dataclasses.replace(self, coefficients=coefficients)

    def __str__(self) -> str:
        return str(self.expr)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SymbolicLoss) or self._fixed() != other._fixed():
            return False
        return self is other or np.array_equal(np.asarray(self.coefficients), np.asarray(other.coefficients))

    def __hash__(self) -> int:  # `jit(loss)` hashes it, also if its coefficients are an array
        return hash(self._fixed())

    def _fixed(self) -> tuple[Any, ...]:
        return self.expr, self.link, self.classes, self.scale

    def to_json(self) -> str:
        """All fields as versioned JSON. Version 2 is for losses with `classes` or `scale`, which version 1 lacks."""
        values = [float(c) for c in self.coefficients]  # type: ignore[union-attr]
        record = to_record(self.expr, values) | {"link": self.link}
        if self.classes is not None:
            record |= {"version": 2, "classes": self.classes}
        if self.scale != 1.0:
            record |= {"version": 2, "scale": self.scale}
        if self.provenance is not None:
            record["provenance"] = dict(self.provenance)
        return json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False) + "\n"

    @staticmethod
    def from_json(text: str | bytes) -> SymbolicLoss:
        """Read the JSON that `to_json` wrote.

        Raises:
            ValueError: see `formulas.from_json`; also an unknown link, a formula without y or f, or `classes` or
                `scale` that are wrong.
        """
        record = read_json(text)
        expr, coefficients = from_record(record)
        link, provenance = record.get("link"), record.get("provenance")
        if not isinstance(link, str) or link not in LINKS:
            raise unknown_name("link", str(link)[:40], LINKS)
        if provenance is not None and not isinstance(provenance, dict):
            raise ValueError(f'"provenance" must be a JSON object, got {provenance!r:.80}')
        classes, scale = record.get("classes"), record.get("scale", 1.0)
        if classes is not None and type(classes) is not int:
            raise ValueError(f'"classes" must be an integer of at least 2, got {classes!r:.80}')
        if type(scale) not in (int, float, str):
            raise ValueError(f'"scale" must be a positive number or "batch", got {scale!r:.80}')
        return SymbolicLoss(expr, coefficients, link, provenance, classes, scale)  # type: ignore[arg-type]

    def save(self, path: str | Path) -> None:
        """Write `to_json` to a file, replacing it in one step."""
        write_atomically(
            Path(path).expanduser(), self.to_json().encode(errors="backslashreplace")
        )  # lone surrogates, as JSON has them

    @staticmethod
    def read(path: str | Path) -> SymbolicLoss:
        """Read a file that `save` wrote.

        Raises:
            ValueError: see `from_json`; the message names the file.
        """
        try:
            return SymbolicLoss.from_json(Path(path).expanduser().read_bytes())
        except ValueError as error:
            raise type(error)(f"{path}: {error}") from None


def _flatten(loss: SymbolicLoss) -> tuple[tuple[Any], tuple[Any, ...]]:
    provenance = None if loss.provenance is None else json.dumps(dict(loss.provenance), sort_keys=True)
    return (loss.coefficients,), (*loss._fixed(), provenance)


def _unflatten(aux: tuple[Any, ...], children: tuple[Any, ...]) -> SymbolicLoss:
    loss = object.__new__(SymbolicLoss)  # without the checks: JAX puts placeholders into the leaves
    *fixed, provenance = aux
    values = dict(zip(("expr", "link", "classes", "scale"), fixed, strict=True)) | {"coefficients": children[0]}
    for name, value in (values | {"provenance": None if provenance is None else json.loads(provenance)}).items():
        object.__setattr__(loss, name, value)
    return loss


jax.tree_util.register_pytree_node(SymbolicLoss, _flatten, _unflatten)
