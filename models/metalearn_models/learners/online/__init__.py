"""Learners that train a network online: by SGD, Adam or a learned optimizer, on a learned loss, from learned weights.

The builders are also in `metalearn_models.learners`.
"""

from metalearn_models.learners.online.loss import online_with_learnable_loss as online_with_learnable_loss
from metalearn_models.learners.online.loss import online_with_loss as online_with_loss
from metalearn_models.learners.online.maml import MAMLConfig as MAMLConfig
from metalearn_models.learners.online.maml import maml as maml
from metalearn_models.learners.online.maml import maml_network as maml_network
from metalearn_models.learners.online.network import OnlineConfig as OnlineConfig
from metalearn_models.learners.online.network import OnlineState as OnlineState
from metalearn_models.learners.online.network import online_learner as online_learner
from metalearn_models.learners.online.network import online_mlp as online_mlp
from metalearn_models.learners.online.network import online_network as online_network
from metalearn_models.learners.online.optimizer import OnlineOptimizerConfig as OnlineOptimizerConfig
from metalearn_models.learners.online.optimizer import PretrainedOptimizerConfig as PretrainedOptimizerConfig
from metalearn_models.learners.online.optimizer import online_optimizer as online_optimizer
from metalearn_models.learners.online.optimizer import online_pretrained_optimizer as online_pretrained_optimizer
from metalearn_models.learners.online.optimizer import online_with_optimizer as online_with_optimizer

__all__ = [
    "MAMLConfig",
    "OnlineConfig",
    "OnlineOptimizerConfig",
    "OnlineState",
    "PretrainedOptimizerConfig",
    "maml",
    "maml_network",
    "online_learner",
    "online_mlp",
    "online_network",
    "online_optimizer",
    "online_pretrained_optimizer",
    "online_with_learnable_loss",
    "online_with_loss",
    "online_with_optimizer",
]


def __dir__() -> list[str]:
    return __all__
