"""A learned loss in a training loop of one's own: flax and optax, three lines changed.

The loop is the one of any tutorial: an nnx network, an optax optimizer, cross-entropy. With `--loss NAME` it trains by
another loss of `metalearn_models.losses`, hand-made or learned; the lines that change are marked. The labels of the
training examples may be wrong in part, which is where losses differ.

    python experiments/losses/downstream.py                                    # cross-entropy and a learned loss
    python experiments/losses/downstream.py --losses focal gce --noise 0.2
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import metalearn_models.losses  # changed line 1


@dataclass(frozen=True)
class DownstreamConfig:
    """Train a network on scikit-learn's digits by several losses."""

    losses: tuple[str, ...] = ("cross-entropy", "label-noise")
    """Names of `metalearn loss list`."""
    noise: float = 0.4
    """Share of training labels replaced by random other ones."""
    steps: int = 600
    """Training steps."""
    seeds: int = 5
    """Networks trained by each loss."""
    json: bool = False
    """Print one JSON object as the last line."""


class Network(nnx.Module):
    """64 - 64 - 10 with ReLU."""

    def __init__(self, rngs: nnx.Rngs):
        """Draw the weights."""
        self.hidden, self.head = nnx.Linear(64, 64, rngs=rngs), nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        """Logits of a batch."""
        return self.head(nnx.relu(self.hidden(x)))


def trained_accuracy(name: str, config: DownstreamConfig, seed: int) -> float:
    """Train a network by the named loss; its accuracy on test digits, whose labels are right."""
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


def main(config: DownstreamConfig) -> dict[str, list[float]]:
    """Test accuracy of every loss, one network a seed."""
    return {name: [trained_accuracy(name, config, seed) for seed in range(config.seeds)] for name in config.losses}


if __name__ == "__main__":
    command = tyro.cli(DownstreamConfig, description=__doc__)
    found = main(command)
    for name, accuracies in found.items():
        half = 1.96 * np.std(accuracies) / max(1, len(accuracies) - 1) ** 0.5
        print(f"{name:>20} {np.mean(accuracies):.3f} ± {half:.3f}")
    if command.json:
        print(json.dumps(found))
