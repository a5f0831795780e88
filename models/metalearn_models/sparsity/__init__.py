"""Sparse networks: training around any optimizer, pruning, and what sparsity saves and costs.

`sparse(optax.adam(1e-3), rigl(end=7_500), erk, 0.9)` is an optax transformation. A tree of masks has the structure of
the parameters: boolean arrays where a leaf is sparse, None where it is dense.
"""

from metalearn_models.sparsity.contract import Change as Change
from metalearn_models.sparsity.contract import Masks as Masks
from metalearn_models.sparsity.contract import Moment as Moment
from metalearn_models.sparsity.contract import Rule as Rule
from metalearn_models.sparsity.contract import SparseState as SparseState
from metalearn_models.sparsity.distributions import Distribution as Distribution
from metalearn_models.sparsity.distributions import erdos_renyi as erdos_renyi
from metalearn_models.sparsity.distributions import erk as erk
from metalearn_models.sparsity.distributions import uniform as uniform
from metalearn_models.sparsity.masks import apply_masks as apply_masks
from metalearn_models.sparsity.masks import check_masks as check_masks
from metalearn_models.sparsity.masks import count_masks as count_masks
from metalearn_models.sparsity.masks import draw_masks as draw_masks
from metalearn_models.sparsity.masks import kernels as kernels
from metalearn_models.sparsity.report import Layer as Layer
from metalearn_models.sparsity.report import Report as Report
from metalearn_models.sparsity.report import report as report
from metalearn_models.sparsity.rules import gradual_pruning as gradual_pruning
from metalearn_models.sparsity.rules import learned_rule as learned_rule
from metalearn_models.sparsity.rules import learned_topology as learned_topology
from metalearn_models.sparsity.rules import rigl as rigl
from metalearn_models.sparsity.rules import rigl_released as rigl_released
from metalearn_models.sparsity.rules import set_rule as set_rule
from metalearn_models.sparsity.rules import snfs as snfs
from metalearn_models.sparsity.rules import srigl as srigl
from metalearn_models.sparsity.rules import static as static
from metalearn_models.sparsity.sparse import sparse as sparse
from metalearn_models.sparsity.sparse import sparse_with_masks as sparse_with_masks

__all__ = [
    "Change",
    "Distribution",
    "Layer",
    "Masks",
    "Moment",
    "Report",
    "Rule",
    "SparseState",
    "apply_masks",
    "check_masks",
    "count_masks",
    "draw_masks",
    "erdos_renyi",
    "erk",
    "gradual_pruning",
    "kernels",
    "learned_rule",
    "learned_topology",
    "report",
    "rigl",
    "rigl_released",
    "set_rule",
    "snfs",
    "sparse",
    "sparse_with_masks",
    "srigl",
    "static",
    "uniform",
]


def __dir__() -> list[str]:
    return __all__
