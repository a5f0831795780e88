"""Sparse networks: pruning, and what it saves and costs."""

from metalearn_models.sparsity.report import Layer as Layer
from metalearn_models.sparsity.report import Report as Report
from metalearn_models.sparsity.report import report as report

__all__ = ["Layer", "Report", "report"]


def __dir__() -> list[str]:
    return __all__
