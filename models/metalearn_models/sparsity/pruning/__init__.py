"""One-shot pruning of trained parameters: scores, the choice of what stays, and masks."""

from metalearn_models.sparsity.pruning.trees import apply_masks as apply_masks
from metalearn_models.sparsity.pruning.trees import paired_leaves as paired_leaves

__all__ = ["apply_masks", "paired_leaves"]


def __dir__() -> list[str]:
    return __all__
