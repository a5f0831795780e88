"""A learned loss in a training loop of one's own: flax and optax, three lines changed.

The loop is that of any tutorial: an nnx network, an optax optimizer, cross-entropy. With `--losses` it trains with
other losses of `metalearn_models.losses`, hand-made or learned; the changed lines are marked. A share of the training
labels may be wrong, which is where losses differ.

    python -m experiments downstream_loss                               # cross-entropy and a learned loss
    python -m experiments downstream_loss quick                         # the same with three networks per loss
    python -m experiments downstream_loss --losses focal gce --noise 0.2
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import metalearn_models.losses  # changed line 1
from experiments.suite.intervals import list_interval
from experiments.suite.tables import format_estimate
from metalearn.runs.json_values import finite_or_null
from metalearn.runs.progress import Progress


@dataclass(frozen=True)
class DownstreamConfig:
    """Train networks on scikit-learn's digits with several losses."""

    losses: tuple[str, ...] = ("cross-entropy", "label-noise")
    """Names of `metalearn loss list`."""
    noise: float = 0.4
    """Share of the training labels that is replaced by other classes."""
    steps: int = 600
    """Training steps."""
    seeds: int = 5
    """Networks per loss."""


PRESETS = {"standard": DownstreamConfig(), "quick": DownstreamConfig(seeds=3)}


class Network(nnx.Module):
    """64 - 64 - 10 with ReLU."""

    def __init__(self, rngs: nnx.Rngs):
        """Draw the weights."""
        self.hidden, self.head = nnx.Linear(64, 64, rngs=rngs), nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        """Logits of a batch."""
        return self.head(nnx.relu(self.hidden(x)))


def train_and_test(name: str, config: DownstreamConfig, seed: int) -> float:
    """Train a network with the named loss; returns its accuracy on test digits, whose labels are right."""
    xs, ys = load_digits(return_X_y=True)
    xs, test_xs, ys, test_ys = train_test_split(xs / 16.0, ys, test_size=397, random_state=0)
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(ys)) < config.noise
    ys = np.where(wrong, (ys + rng.integers(1, 10, len(ys))) % 10, ys)
    model = Network(nnx.Rngs(seed))
    optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)
    loss = metalearn_models.losses.load(name)  # changed line 2

    @nnx.jit
    def step(model: Network, optimizer: nnx.Optimizer, x: Any, y: Any) -> None:
        def objective(model: Network) -> Any:
            return loss(model(x), y).mean()  # changed line 3; it was optax.softmax_cross_entropy_with_integer_labels

        optimizer.update(model, nnx.grad(objective)(model))

    for _ in range(config.steps):
        batch = rng.integers(0, len(xs), 64)
        step(model, optimizer, jnp.asarray(xs[batch], jnp.float32), jnp.asarray(ys[batch], jnp.int32))
    predictions = jax.device_get(model(jnp.asarray(test_xs, jnp.float32))).argmax(-1)
    return float((predictions == test_ys).mean())


def run(config: DownstreamConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Train with every loss; returns the test accuracies: mean and 95 % interval per loss, and each network's."""
    each: dict[str, list[float]] = {}
    for name in config.losses:
        if progress is not None:
            progress.note(f"training {config.seeds} networks with {name}")
        each[name] = [train_and_test(name, config, seed) for seed in range(config.seeds)]
    return finite_or_null({"accuracy": {name: list_interval(row) for name, row in each.items()}, "each": each})


def format_result(result: Mapping[str, Any]) -> str:
    """One line per loss: mean test accuracy with its 95 % interval over networks."""
    return "\n".join(f"{name:>20} {format_estimate(row)}" for name, row in result["accuracy"].items())
