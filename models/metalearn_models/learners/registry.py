"""Every learner by name: its configuration and the function that builds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from metalearn.errors import unknown_name
from metalearn.learner import Learner, Signature
from metalearn_models.epistemic.registry import EpistemicConfig, epistemic
from metalearn_models.learners.contextless import MLPConfig, mlp
from metalearn_models.learners.lstm import LSTMConfig, lstm
from metalearn_models.learners.online.maml import MAMLConfig, maml
from metalearn_models.learners.online.network import OnlineConfig, online_mlp
from metalearn_models.learners.online.optimizer import (
    OnlineOptimizerConfig,
    PretrainedOptimizerConfig,
    online_optimizer,
    online_pretrained_optimizer,
)
from metalearn_models.learners.outer_lstm import OuterLSTMConfig, outer_lstm
from metalearn_models.learners.reference.kernel import KernelRidgeConfig, kernel_ridge
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

__all__ = ["LEARNERS", "Entry", "build_learner", "learner_entry", "learner_name"]


class Entry(NamedTuple):
    """A learner that has a name.

    Attributes:
        config: the class of its configuration.
        build: `(signature, config) -> learner`.
        description: one line for people.
        meta_learned: whether it has meta-parameters to learn.
    """

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
        PretrainedOptimizerConfig,
        online_pretrained_optimizer,
        "a fresh network trained online by a meta-trained optimizer",
        False,
    ),
    "sgd": Entry(OnlineConfig, online_mlp, "a fresh network trained online by SGD or Adam", False),
    "1nn": Entry(NearestNeighbourConfig, nearest_neighbour, "1-nearest neighbour", False),
    "centroid": Entry(NearestCentroidConfig, nearest_centroid, "nearest class mean", False),
    "ridge": Entry(RidgeConfig, ridge, "ridge regression on one-hot labels", False),
    "kernel": Entry(KernelRidgeConfig, kernel_ridge, "kernel ridge regression, Gaussian, on one-hot labels", False),
    "epistemic": Entry(
        EpistemicConfig, epistemic, "an epinet, ensemble or other agent, retrained at every example", False
    ),
    "logistic": Entry(LogisticConfig, logistic, "logistic regression, refitted at every example", False),
}
"""All learners by name."""


def learner_entry(name: str) -> Entry:
    """The entry with that name.

    Raises:
        UnknownNameError: no such learner; names the nearest ones.
    """
    if name not in LEARNERS:
        raise unknown_name("learner", name, LEARNERS)
    return LEARNERS[name]


def learner_name(config: Any) -> str:
    """The name of the learner that a configuration belongs to.

    Raises:
        TypeError: the configuration is that of no learner in `LEARNERS`.
    """
    for name, entry in LEARNERS.items():
        if type(config) is entry.config:
            return name
    raise TypeError(f"a {type(config).__name__} is the configuration of no learner: take a class of `LEARNERS`")


def build_learner(signature: Signature, config: Any) -> Learner:
    """The learner of a configuration.

    Args:
        signature: the shapes that it is built for.
        config: of a class in `LEARNERS`.

    Raises:
        TypeError: the configuration is that of no learner in `LEARNERS`.
        UnknownNameError: a field of the configuration is a name that its library does not know.
        ValueError: a field of the configuration is out of range, which is named, or the signature is.
    """
    return learner_entry(learner_name(config)).build(signature, config)
