"""Learners: in-context learners, networks that are trained online, and reference learners.

`transformer(signature, TransformerConfig(...))` and the other builders make a learner of a configuration.
`make("lstm", signature, hidden=32)` makes one by its name, and `names()` lists the names. `load("...")` is a
meta-trained learner: one of `shipped()`, a run's folder, or a file that `save` wrote.
"""

from metalearn_models.learners.attention_probe import attention_weights as attention_weights
from metalearn_models.learners.averaged import averaged as averaged
from metalearn_models.learners.contextless import MLPConfig as MLPConfig
from metalearn_models.learners.contextless import mlp as mlp
from metalearn_models.learners.library import TrainedLearner as TrainedLearner
from metalearn_models.learners.library import load as load
from metalearn_models.learners.library import make as make
from metalearn_models.learners.library import names as names
from metalearn_models.learners.library import save as save
from metalearn_models.learners.library import shipped as shipped
from metalearn_models.learners.lstm import LSTMConfig as LSTMConfig
from metalearn_models.learners.lstm import lstm as lstm
from metalearn_models.learners.mixed import mixed as mixed
from metalearn_models.learners.online import MAMLConfig as MAMLConfig
from metalearn_models.learners.online import OnlineConfig as OnlineConfig
from metalearn_models.learners.online import OnlineOptimizerConfig as OnlineOptimizerConfig
from metalearn_models.learners.online import PretrainedOptimizerConfig as PretrainedOptimizerConfig
from metalearn_models.learners.online import maml as maml
from metalearn_models.learners.online import maml_network as maml_network
from metalearn_models.learners.online import online_learner as online_learner
from metalearn_models.learners.online import online_mlp as online_mlp
from metalearn_models.learners.online import online_network as online_network
from metalearn_models.learners.online import online_optimizer as online_optimizer
from metalearn_models.learners.online import online_pretrained_optimizer as online_pretrained_optimizer
from metalearn_models.learners.online import online_with_learnable_loss as online_with_learnable_loss
from metalearn_models.learners.online import online_with_loss as online_with_loss
from metalearn_models.learners.online import online_with_optimizer as online_with_optimizer
from metalearn_models.learners.outer_lstm import OuterLSTMConfig as OuterLSTMConfig
from metalearn_models.learners.outer_lstm import outer_lstm as outer_lstm
from metalearn_models.learners.reference import KernelRidgeConfig as KernelRidgeConfig
from metalearn_models.learners.reference import LogisticConfig as LogisticConfig
from metalearn_models.learners.reference import NearestCentroidConfig as NearestCentroidConfig
from metalearn_models.learners.reference import NearestNeighbourConfig as NearestNeighbourConfig
from metalearn_models.learners.reference import RidgeConfig as RidgeConfig
from metalearn_models.learners.reference import kernel_ridge as kernel_ridge
from metalearn_models.learners.reference import logistic as logistic
from metalearn_models.learners.reference import nearest_centroid as nearest_centroid
from metalearn_models.learners.reference import nearest_neighbour as nearest_neighbour
from metalearn_models.learners.reference import ridge as ridge
from metalearn_models.learners.registry import build_learner as build_learner
from metalearn_models.learners.transformer import TransformerConfig as TransformerConfig
from metalearn_models.learners.transformer import transformer as transformer
from metalearn_models.learners.vsml import VSMLConfig as VSMLConfig
from metalearn_models.learners.vsml import vsml as vsml

__all__ = [
    "KernelRidgeConfig",
    "LSTMConfig",
    "LogisticConfig",
    "MAMLConfig",
    "MLPConfig",
    "NearestCentroidConfig",
    "NearestNeighbourConfig",
    "OnlineConfig",
    "OnlineOptimizerConfig",
    "OuterLSTMConfig",
    "PretrainedOptimizerConfig",
    "RidgeConfig",
    "TrainedLearner",
    "TransformerConfig",
    "VSMLConfig",
    "attention_weights",
    "averaged",
    "build_learner",
    "kernel_ridge",
    "load",
    "logistic",
    "lstm",
    "make",
    "maml",
    "maml_network",
    "mixed",
    "mlp",
    "names",
    "nearest_centroid",
    "nearest_neighbour",
    "online_learner",
    "online_mlp",
    "online_network",
    "online_optimizer",
    "online_pretrained_optimizer",
    "online_with_learnable_loss",
    "online_with_loss",
    "online_with_optimizer",
    "outer_lstm",
    "ridge",
    "save",
    "shipped",
    "transformer",
    "vsml",
]


def __dir__() -> list[str]:
    return __all__
