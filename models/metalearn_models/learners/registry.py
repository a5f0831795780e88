"""Every learner by name: its configuration and the function that builds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from metalearn.errors import unknown_name
from metalearn.learner import Learner, Signature
from metalearn_models.learners.contextless import MLPConfig, mlp
from metalearn_models.learners.lstm import LSTMConfig, lstm
from metalearn_models.learners.online.online import MAMLConfig, OnlineConfig, maml, online
from metalearn_models.learners.online.optimizer import (
    OnlineOptimizerConfig,
    PretrainedOptimizerConfig,
    online_optimizer,
    online_pretrained,
)
from metalearn_models.learners.outer_lstm import OuterLSTMConfig, outer_lstm
from metalearn_models.learners.reference.logistic import LogisticConfig, logistic
from metalearn_models.learners.reference.neighbours import (
    NearestCentroidConfig,
    NearestNeighbourConfig,
    nearest_centroid,
    nearest_neighbour,
)
from metalearn_models.learners.reference.ridge import RidgeConfig, ridge
from metalearn_models.learners.transformer import TransformerConfig, transformer
from metalearn_models.learners.vsml import VSMLConfig, vsml


class Entry(NamedTuple):
    """A named learner: the class of its configuration, its builder, a line for people, and if it is meta-learned."""

    config: type
    build: Callable[[Signature, Any], Learner]
    description: str
    meta_learned: bool


LEARNERS: dict[str, Entry] = {
    "transformer": Entry(TransformerConfig, transformer, "GPICL Transformer, paper or pair token", True),
    "lstm": Entry(LSTMConfig, lstm, "LSTM that reads (x, previous y)", True),
    "outer-lstm": Entry(OuterLSTMConfig, outer_lstm, "outer-product LSTM, matrix-valued state", True),
    "vsml": Entry(VSMLConfig, vsml, "variable shared meta learning: a grid of weight-shared LSTMs", True),
    "mlp": Entry(MLPConfig, mlp, "contextless network, the control that can only memorise", True),
    "maml": Entry(MAMLConfig, maml, "online gradient descent from meta-learned initial weights", True),
    "learned-optimizer": Entry(
        OnlineOptimizerConfig, online_optimizer, "a fresh network trained online by an optimizer that is learned", True
    ),
    "pretrained-optimizer": Entry(
        PretrainedOptimizerConfig, online_pretrained, "a fresh network trained online by shipped small-fc", False
    ),
    "sgd": Entry(OnlineConfig, online, "a fresh network trained online by SGD or Adam", False),
    "1nn": Entry(NearestNeighbourConfig, nearest_neighbour, "1-nearest neighbour", False),
    "centroid": Entry(NearestCentroidConfig, nearest_centroid, "nearest class mean", False),
    "ridge": Entry(RidgeConfig, ridge, "ridge regression on one-hot labels", False),
    "logistic": Entry(LogisticConfig, logistic, "logistic regression, refitted at every example", False),
}


def learner_entry(name: str) -> Entry:
    """The entry of a name.

    Raises:
        UnknownNameError: with the nearest names.
    """
    if name not in LEARNERS:
        raise unknown_name("learner", name, LEARNERS)
    return LEARNERS[name]


def learner_name(config: Any) -> str:
    """The name of the learner that a configuration belongs to."""
    return next(name for name, entry in LEARNERS.items() if type(config) is entry.config)


def build_learner(signature: Signature, config: Any) -> Learner:
    """The learner of a configuration, for the shapes of `signature`."""
    return learner_entry(learner_name(config)).build(signature, config)
