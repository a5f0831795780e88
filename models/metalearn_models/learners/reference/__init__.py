"""Reference learners, in which nothing is meta-learned: what a meta-trained learner is compared with."""

from metalearn_models.learners.reference.kernel import KernelRidgeConfig as KernelRidgeConfig
from metalearn_models.learners.reference.kernel import kernel_ridge as kernel_ridge
from metalearn_models.learners.reference.logistic import LogisticConfig as LogisticConfig
from metalearn_models.learners.reference.logistic import logistic as logistic
from metalearn_models.learners.reference.neighbours import NearestCentroidConfig as NearestCentroidConfig
from metalearn_models.learners.reference.neighbours import NearestNeighbourConfig as NearestNeighbourConfig
from metalearn_models.learners.reference.neighbours import nearest_centroid as nearest_centroid
from metalearn_models.learners.reference.neighbours import nearest_neighbour as nearest_neighbour
from metalearn_models.learners.reference.ridge import RidgeConfig as RidgeConfig
from metalearn_models.learners.reference.ridge import ridge as ridge

__all__ = [
    "KernelRidgeConfig",
    "LogisticConfig",
    "NearestCentroidConfig",
    "NearestNeighbourConfig",
    "RidgeConfig",
    "kernel_ridge",
    "logistic",
    "nearest_centroid",
    "nearest_neighbour",
    "ridge",
]


def __dir__() -> list[str]:
    return __all__
