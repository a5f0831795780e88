"""LeNet on MNIST by learned losses and by those made by hand, with wrong labels and without any.

The network is that of LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition"
(1998), for images of half the size: two convolutions of 6 and 16 maps, each followed by a mean over 2 x 2, and a layer
of 84. The search that found `label-noise` has seen no convolution, and no more than ten classes or 450 images. Each
loss is trained at every learning rate; the one that is best on clean validation images is reported on test images
(`loss_comparison.py`). On clean labels nothing is promised to a loss made for wrong ones; the table says what it costs.

    python -m experiments mnist_losses --mnist FOLDER     # prepared by tensorflow-datasets; minutes on two cores
    python -m experiments mnist_losses                    # the same from where tensorflow-datasets keeps "mnist"
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Float, PRNGKeyArray

from experiments.losses._comparison import Held, compare, draw_errors, summary, text_table
from metalearn.errors import DataNotPreparedError
from metalearn.pictures import new_figure, save
from metalearn_models.losses import SymbolicLoss, load
from metalearn_models.losses.search.population import LossTask, TrainingConfig
from metalearn_models.networks.network import Network
from metalearn_tasks import datasets
from metalearn_tasks.objectives.baselines import learning_rates


@dataclass(frozen=True)
class MnistLossesConfig:
    """Train LeNet on MNIST by several losses."""

    mnist: str = "mnist"
    """A folder that tensorflow-datasets prepared, or a name it knows."""
    losses: tuple[str, ...] = (
        "cross-entropy",
        "label-smoothing",
        "gce",
        "probability-mae",
        "label-noise",
    )
    """Names of `metalearn loss list`, or JSON files."""
    noise: tuple[float, ...] = (0.4, 0.0)
    """Shares of the training labels that are drawn anew from all classes."""
    size: int = 14
    """Height and width that images are reduced to."""
    train: int = 6000
    """Training images."""
    valid: int = 2000
    """Validation images, with right labels: by them a learning rate is chosen."""
    steps: int = 600
    """Steps of each training."""
    batch: int = 64
    """Images a step."""
    learning_rates: tuple[float, ...] = learning_rates(3e-4, 1e-2, per_decade=2, digits=1)
    """Of Adam; each loss has its own."""
    seeds: int = 3
    """Draws of training and validation images, of noise and of networks."""
    out: Path = Path("runs/mnist_losses")
    """Folder of the picture and the table."""
    json: bool = False
    """Print one JSON object as the last line."""


def lenet(size: int, classes: int) -> Network:
    """LeNet for images of `size` x `size` pixels, given flat; weights normal of variance 1/fan_in, biases 0.

    Args:
        size: at least 10.
        classes: C.

    Returns:
        Its `init`, and `apply(params, x[B, size * size]) -> logits[B, C]`.

    Raises:
        ValueError: images that are too small for two convolutions.
    """
    if size < 10:
        raise ValueError(f"LeNet needs images of at least 10 x 10 pixels, got {size} x {size}")
    side = (size // 2 - 3) // 2
    shapes = ((5, 5, 1, 6), (4, 4, 6, 16), (side * side * 16, 84), (84, classes))

    def init(key: PRNGKeyArray) -> tuple[dict[str, Array], ...]:
        keys = jax.random.split(key, len(shapes))
        return tuple(
            {"weight": jax.random.normal(k, shape) * math.prod(shape[:-1]) ** -0.5, "bias": jnp.zeros(shape[-1])}
            for k, shape in zip(keys, shapes, strict=True)
        )

    def apply(params: tuple[dict[str, Array], ...], x: Float[Array, "B D"]) -> Float[Array, "B C"]:
        first, second, third, last = params
        x = jnp.pad(x.reshape(-1, size, size, 1), ((0, 0), (2, 2), (2, 2), (0, 0)))
        x = halved(jax.nn.relu(convolved(x, first["weight"]) + first["bias"][None, None, None, :]))
        x = halved(jax.nn.relu(convolved(x, second["weight"]) + second["bias"][None, None, None, :]))
        x = jax.nn.relu(x.reshape(len(x), -1) @ third["weight"] + third["bias"][None, :])
        return x @ last["weight"] + last["bias"][None, :]

    return Network(init, apply)


def convolved(x: Float[Array, "B H W I"], weight: Float[Array, "K L I O"]) -> Float[Array, "B H2 W2 O"]:
    """Convolution without padding, as one product of patches: on a CPU, and at these sizes, XLA's own is far slower."""
    height, width = weight.shape[:2]
    rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
    patches = [x[:, i : i + rows, j : j + columns] for i in range(height) for j in range(width)]
    return jnp.concatenate(patches, -1) @ weight.reshape(-1, weight.shape[-1])


def halved(x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C"]:
    """Means over 2 x 2 pixels; a last odd row or column is left out."""
    rows, columns = x.shape[1] // 2, x.shape[2] // 2
    x = x[:, : 2 * rows, : 2 * columns]
    return x.reshape(x.shape[0], rows, 2, columns, 2, x.shape[3]).mean((2, 4))


def image_tasks(data: datasets.Dataset, config: MnistLossesConfig, noise: float) -> list[Held]:
    """The task of each seed: other training and validation images, other noise, the data set's own test images.

    Raises:
        ValueError: more examples asked for than there are.
    """
    xs, ys = (np.asarray(a) for a in data.train)
    if config.train + config.valid > len(ys):
        raise ValueError(
            f"{data.name} has {len(ys)} training images, got train={config.train} and valid={config.valid}: "
            "ask for fewer"
        )
    network = lenet(config.size, data.classes)
    tasks = []
    for seed in range(config.seeds):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(ys))[: config.train + config.valid]
        train, valid = order[: config.train], order[config.train :]
        labels = ys[train].copy()
        hit = rng.permutation(len(labels))[: round(noise * len(labels))]
        labels[hit] = rng.integers(data.classes, size=len(hit))
        parts = (xs[train], labels), (xs[valid], ys[valid])
        task = LossTask(data.name, *parts, "classification", data.classes, network.init, network.apply)
        tasks.append(Held(task, (np.asarray(data.test.inputs), np.asarray(data.test.labels))))
    return tasks


def main(config: MnistLossesConfig) -> dict[str, Any]:
    """Train, draw; returns what result.json holds, errors as shares; or `{"skipped": why}` where there is no data."""
    began = time.monotonic()
    try:
        data = datasets.load(config.mnist, size=config.size)
    except DataNotPreparedError as error:
        return {"skipped": str(error)}
    losses = {name: SymbolicLoss.read(name) if name.endswith(".json") else load(name) for name in config.losses}
    tasks = {_title(noise): image_tasks(data, config, noise) for noise in config.noise}
    training = TrainingConfig(steps=config.steps, batch=config.batch, learning_rates=config.learning_rates)
    scores = compare(losses, tasks, training, at_once=1)
    result = {
        "data": f"{data.name}: {config.train} + {config.valid} of {len(data.train.labels)} training images, "
        f"{len(data.test.labels)} test images",
        "results": {title: {name: summary(row[name]) for name in losses} for title, row in scores.items()},
        "seconds": round(time.monotonic() - began, 1),
        "picture": str(config.out / "mnist_losses.png"),
    }
    _draw(config, result["results"])
    (config.out / "result.json").write_text(json.dumps(result, indent=2))
    return result


def printed(result: dict[str, Any]) -> str:
    """The table that is shown, errors in per cent, the chosen learning rates in brackets."""
    results = result["results"]
    names: Sequence[str] = list(next(iter(results.values())))
    columns = {
        title: [f"{100 * row[n]['mean']:.2f} ± {100 * row[n]['sem']:.2f} ({row[n]['rate']:g})" for n in names]
        for title, row in results.items()
    }
    return text_table([Path(name).name for name in names], columns, "test error, % (learning rate)")


def _title(noise: float) -> str:
    return f"{noise:.0%} noise" if noise else "clean"


def _draw(config: MnistLossesConfig, results: dict[str, Any]) -> None:
    figure, axes = new_figure(columns=len(results), width=4.2)
    for ax, (title, row) in zip(axes, results.items(), strict=True):
        draw_errors(
            ax, {Path(name).stem: [100 * e for e in row[name]["each"]] for name in row}, "test error, %", log=False
        )
        ax.set_title(f"LeNet, MNIST, {title}", fontsize=9)
    save(figure, config.out / "mnist_losses.png")


if __name__ == "__main__":
    command = tyro.cli(MnistLossesConfig, description=__doc__)
    outcome = main(command)
    if "skipped" in outcome:
        print(f"skipped, no MNIST here: {outcome['skipped']}")
    else:
        print(printed(outcome))
        print(f"{outcome['data']}; picture: {outcome['picture']} ({outcome['seconds']} s)")
    if command.json:
        print(json.dumps(outcome))
