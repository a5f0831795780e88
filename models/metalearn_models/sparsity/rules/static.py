"""Static sparse training: the connections of the first step stay."""

from __future__ import annotations

from metalearn_models.sparsity.contract import Rule

__all__ = ["static"]


def static() -> Rule:
    """Connections never change: the baseline of every rule, and the training of what was pruned."""
    return Rule("static", lambda masks: masks, lambda *_: None, lambda memory, *_: memory, None, None, pauses=False)
