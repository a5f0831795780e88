"""Optimizers that know the inputs and output gradients of every layer; `statistics.py` gives both in one pass."""

from metalearn_models.optimizers.curvature._layerwise import reads_statistics as reads_statistics
from metalearn_models.optimizers.curvature.differentiation import loss_and_exact_statistics as loss_and_exact_statistics
from metalearn_models.optimizers.curvature.differentiation import (
    loss_and_sampled_statistics as loss_and_sampled_statistics,
)
from metalearn_models.optimizers.curvature.differentiation import loss_and_statistics as loss_and_statistics
from metalearn_models.optimizers.curvature.fisher import mark_logits as mark_logits
from metalearn_models.optimizers.curvature.fisher import mark_means as mark_means
from metalearn_models.optimizers.curvature.fisher import (
    value_grad_and_exact_statistics as value_grad_and_exact_statistics,
)
from metalearn_models.optimizers.curvature.fisher import (
    value_grad_and_sampled_statistics as value_grad_and_sampled_statistics,
)
from metalearn_models.optimizers.curvature.fisher import (
    value_grad_and_sampled_statistics_if as value_grad_and_sampled_statistics_if,
)
from metalearn_models.optimizers.curvature.foof import foof as foof
from metalearn_models.optimizers.curvature.foof import scale_by_foof as scale_by_foof
from metalearn_models.optimizers.curvature.kfac import kfac as kfac
from metalearn_models.optimizers.curvature.kfac import kfac_standard as kfac_standard
from metalearn_models.optimizers.curvature.kfac import scale_by_kfac as scale_by_kfac
from metalearn_models.optimizers.curvature.kfac import scale_by_kfac_standard as scale_by_kfac_standard
from metalearn_models.optimizers.curvature.layers import KernelLayout as KernelLayout
from metalearn_models.optimizers.curvature.layers import LayerStatistics as LayerStatistics
from metalearn_models.optimizers.curvature.mac import mac as mac
from metalearn_models.optimizers.curvature.mac import scale_by_mac as scale_by_mac
from metalearn_models.optimizers.curvature.mfac import mfac as mfac
from metalearn_models.optimizers.curvature.mfac import scale_by_mfac as scale_by_mfac
from metalearn_models.optimizers.curvature.mini_block import mini_block_fisher as mini_block_fisher
from metalearn_models.optimizers.curvature.mini_block import scale_by_mini_blocks as scale_by_mini_blocks
from metalearn_models.optimizers.curvature.natural_gradient import natural_gradient as natural_gradient
from metalearn_models.optimizers.curvature.natural_gradient import (
    scale_by_natural_gradient as scale_by_natural_gradient,
)
from metalearn_models.optimizers.curvature.soap import scale_by_soap as scale_by_soap
from metalearn_models.optimizers.curvature.soap import soap as soap
from metalearn_models.optimizers.curvature.statistics import find_layers as find_layers
from metalearn_models.optimizers.curvature.statistics import value_grad_and_statistics as value_grad_and_statistics

__all__ = [
    "KernelLayout",
    "LayerStatistics",
    "find_layers",
    "foof",
    "kfac",
    "kfac_standard",
    "loss_and_exact_statistics",
    "loss_and_sampled_statistics",
    "loss_and_statistics",
    "mac",
    "mark_logits",
    "mark_means",
    "mfac",
    "mini_block_fisher",
    "natural_gradient",
    "reads_statistics",
    "scale_by_foof",
    "scale_by_kfac",
    "scale_by_kfac_standard",
    "scale_by_mac",
    "scale_by_mfac",
    "scale_by_mini_blocks",
    "scale_by_natural_gradient",
    "scale_by_soap",
    "soap",
    "value_grad_and_exact_statistics",
    "value_grad_and_sampled_statistics",
    "value_grad_and_sampled_statistics_if",
    "value_grad_and_statistics",
]


def __dir__() -> list[str]:
    return __all__
