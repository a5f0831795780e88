"""The contextless network: it predicts from x alone and learns nothing within a sequence.

The control of Kirsch, Harrison, Sohl-Dickstein & Metz 2022 (arXiv 2212.04458, figure 2). It can store tasks only in its
weights. What it scores on the tasks of meta-training is memorised; on other tasks it must score chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.learner import Labels, Learner, Signature
from metalearn.ranges import Size
from metalearn_models.learners._common import check_settings
from metalearn_models.learners._dense import Dense, make_functional

__all__ = ["MLPConfig", "mlp"]


@dataclass(frozen=True)
class MLPConfig:
    """Size of the contextless network. The paper varies it from 2 to 1024; 64 is ours."""

    hidden: Size = 64
    """Units of each of the two hidden layers."""


def mlp(signature: Signature, config: MLPConfig = MLPConfig()) -> Learner:
    """A network of two ReLU layers that sees only x.

    Args:
        signature: shapes of the sequences.
        config: see `MLPConfig`.

    Returns:
        The learner. Its state is empty, so `state_size` is 0. Its theta is a nested dict of float32 arrays.

    Raises:
        ValueError: a field of `config` or of `signature` is out of range, which is named.
    """
    check_settings(signature, config)
    init, bind = make_functional(lambda rngs: _MLP(signature.inputs, config.hidden, signature.outputs, rngs))

    def start(theta: Any, key: PRNGKeyArray) -> tuple[()]:
        del theta, key
        return ()

    def predict(theta: Any, state: tuple[()], x: Float[Array, "D"]) -> Float[Array, "C"]:
        del state
        return bind(theta)(x)

    def observe(theta: Any, state: tuple[()], x: Float[Array, "D"], y: Labels) -> tuple[()]:
        del theta, x, y
        return state

    def run(theta: Any, xs: Float[Array, "*B T D"], ys: Labels) -> Float[Array, "*B T C"]:
        del ys
        return bind(theta)(xs)

    return Learner(init, start, predict, observe, run, 0, signature)


class _MLP(nnx.Module):
    """Two ReLU layers and a linear head."""

    def __init__(self, inputs: int, hidden: int, outputs: int, rngs: nnx.Rngs):
        """Build with `hidden` units in both layers."""
        self.hidden_1 = Dense(inputs, hidden, rngs=rngs)
        self.hidden_2 = Dense(hidden, hidden, rngs=rngs)
        self.head = Dense(hidden, outputs, rngs=rngs)

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B C"]:
        """Logits, or predicted values in regression."""
        return self.head(jax.nn.relu(self.hidden_2(jax.nn.relu(self.hidden_1(x)))))
