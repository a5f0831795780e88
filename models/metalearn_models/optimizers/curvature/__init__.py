"""Optimizers that know the inputs and output gradients of every layer; `statistics.py` gives both in one pass."""

from metalearn_models.optimizers.curvature.differentiation import loss_and_statistics as loss_and_statistics
from metalearn_models.optimizers.curvature.foof import foof as foof
from metalearn_models.optimizers.curvature.foof import scale_by_foof as scale_by_foof
from metalearn_models.optimizers.curvature.layers import KernelLayout as KernelLayout
from metalearn_models.optimizers.curvature.layers import LayerStatistics as LayerStatistics
from metalearn_models.optimizers.curvature.statistics import find_layers as find_layers
from metalearn_models.optimizers.curvature.statistics import value_grad_and_statistics as value_grad_and_statistics

__all__ = [
    "KernelLayout",
    "LayerStatistics",
    "find_layers",
    "foof",
    "loss_and_statistics",
    "scale_by_foof",
    "value_grad_and_statistics",
]


def __dir__() -> list[str]:
    return __all__
