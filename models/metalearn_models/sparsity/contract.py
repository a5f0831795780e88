"""What a rule for sparse training is: when connections change, and which.

A sparse leaf has a mask, a boolean array of its shape: True is a connection, False is off. A tree of masks has the
structure of the parameters, with None where a leaf is dense. Rules are pure functions over such trees, so that every
rule, with any inner optimizer, is jitted, vmapped, scanned and saved like any other transformation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Int, PRNGKeyArray, UInt32

__all__ = ["Change", "Masks", "Moment", "Rule", "SparseState"]

Masks = Any
"""A tree like the parameters: a boolean array of the leaf's shape where it is sparse, None where it is dense."""


class Moment(NamedTuple):
    """What a rule sees when connections are due to change.

    Attributes:
        step: number of the training step, from 0.
        key: random key of this step.
        params: the parameters; after the gradient step if the rule takes one.
        grads: the dense gradient, also of what is off.
        masks: connections so far.
        memory: what the rule remembers.
    """

    step: Int[Array, ""]
    key: PRNGKeyArray
    params: Any
    grads: Any
    masks: Masks
    memory: Any


class Change(NamedTuple):
    """What a rule decides.

    Attributes:
        masks: the connections from now on.
        fresh: masks of the connections that start at zero, with the inner optimizer's state of a new parameter.
        memory: what the rule remembers.
        skipped: number of layers that keep their connections because a score is not finite.
    """

    masks: Masks
    fresh: Masks
    memory: Any
    skipped: Int[Array, ""]


class Rule(NamedTuple):
    """How the connections change in training.

    Attributes:
        name: stands in errors.
        start: `(masks) -> masks`, the connections of the first step, from those that the distribution asks for.
        init: `(params, masks) -> memory`; `masks` are those that the distribution asks for.
        watch: `(memory, grads, masks) -> memory`, at every step.
        due: `(step) -> bool`, whether connections change at this step. None: they never change.
        change: `(Moment) -> Change`. None: they never change.
        pauses: whether the inner optimizer waits while connections change. If not, it makes its step first.
    """

    name: str
    start: Callable[[Masks], Masks]
    init: Callable[[Any, Masks], Any]
    watch: Callable[[Any, Any, Masks], Any]
    due: Callable[[Int[Array, ""]], Bool[Array, ""]] | None
    change: Callable[[Moment], Change] | None
    pauses: bool


class SparseState(NamedTuple):
    """What a sparse optimizer remembers.

    Attributes:
        step: number of steps so far.
        key: data of the random key; step t folds t into it.
        masks: connections; None where a leaf is dense.
        changes: number of times that connections have changed.
        skipped: number of layers that kept their connections at a change because a score was not finite.
        rule: `{name: memory}` of the rule.
        inner: state of the inner optimizer.
    """

    step: Int[Array, ""]
    key: UInt32[Array, "W"]
    masks: Masks
    changes: Int[Array, ""]
    skipped: Int[Array, ""]
    rule: dict[str, Any]
    inner: Any
