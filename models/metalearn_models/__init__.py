"""Models: in-context learners and reference learners by name (`registry`), and a classifier to take home."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metalearn_models.tabular.classifier import InContextClassifier as InContextClassifier

__all__ = ["InContextClassifier"]


def __getattr__(name: str) -> Any:
    # scikit-learn takes a second to import, which whoever only wants a Transformer should not pay.
    if name == "InContextClassifier":
        from metalearn_models.tabular.classifier import InContextClassifier

        return InContextClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
