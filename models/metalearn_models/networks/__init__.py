"""Networks as pairs of pure functions: what optimizers train, in objectives and in learners that train online."""

from metalearn_models.networks.attention import attention as attention
from metalearn_models.networks.conv import conv as conv
from metalearn_models.networks.mlp import layer_norm_mlp as layer_norm_mlp
from metalearn_models.networks.mlp import mlp as mlp
from metalearn_models.networks.network import Activation as Activation
from metalearn_models.networks.network import Network as Network
from metalearn_models.networks.network import Parameters as Parameters
from metalearn_models.networks.recurrent import lstm_update as lstm_update

__all__ = ["Activation", "Network", "Parameters", "attention", "conv", "layer_norm_mlp", "lstm_update", "mlp"]


def __dir__() -> list[str]:
    return __all__
