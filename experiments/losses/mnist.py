"""LeNet on MNIST with learned losses and with those made by hand, with wrong labels and without.

The network is that of LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition"
(1998), for images of half the size: two convolutions of 6 and 16 maps, each followed by a mean over 2 x 2, and a layer
of 84. The search that found `label-noise` has seen no convolution, and no more than ten classes or 450 images. A
network is trained with each loss at every learning rate, clean validation images choose the rate, and the error on test
images is reported (`_comparison.py`). A loss made for wrong labels may do worse on clean ones; the table says how much.

    python -m experiments mnist_losses                          # "mnist" where tensorflow-datasets keeps it; minutes
    python -m experiments mnist_losses --mnist FOLDER           # from a folder that tensorflow-datasets prepared
    python -m experiments mnist_losses quick --mnist FOLDER     # three losses, one seed, about a minute
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce
from jaxtyping import Array, Float, PRNGKeyArray

from experiments.losses._comparison import HeldOut, compare, draw_errors, format_mean, summarise_seeds
from experiments.suite.results import write_result
from experiments.suite.tables import format_columns
from metalearn.errors import DataNotPreparedError
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn_models.losses import SymbolicLoss, load
from metalearn_models.losses.search.population import LossTask, TrainingConfig
from metalearn_models.networks.network import Network
from metalearn_tasks import datasets
from metalearn_tasks.objectives.baselines import learning_rates


@dataclass(frozen=True)
class MnistLossesConfig:
    """Train LeNet on MNIST with several losses."""

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
    """Shares of the training labels that are drawn again from all classes."""
    size: int = 14
    """Height and width that images are reduced to."""
    train: int = 6000
    """Training images."""
    valid: int = 2000
    """Validation images, with right labels; they choose the learning rate."""
    steps: int = 600
    """Steps per training."""
    batch: int = 64
    """Images per step."""
    learning_rates: tuple[float, ...] = learning_rates(3e-4, 1e-2, per_decade=2, digits=1)
    """Learning rates of Adam to choose from, for each loss separately."""
    seeds: int = 3
    """Number of repetitions, each with its own images, noise and networks."""
    out: Path = Path("runs/mnist_losses")
    """Folder for the picture and the table."""


PRESETS = {
    "standard": MnistLossesConfig(),
    "quick": MnistLossesConfig(
        losses=("cross-entropy", "gce", "label-noise"),
        train=2000,
        valid=1000,
        steps=250,
        learning_rates=(1e-3, 3e-3),
        seeds=1,
    ),
}


def lenet(size: int, classes: int) -> Network:
    """LeNet for flat images of `size` x `size` pixels; weights normal with variance 1/fan_in, biases 0.

    Args:
        size: height and width of the images, at least 10.
        classes: number of classes, C.

    Returns:
        Its `init`, and `apply(params, x[B, size * size]) -> logits[B, C]`.

    Raises:
        ValueError: the images are too small for two convolutions.
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
        x = jnp.pad(rearrange(x, "b (h w) -> b h w 1", h=size, w=size), ((0, 0), (2, 2), (2, 2), (0, 0)))
        x = halve(jax.nn.relu(convolve(x, first["weight"]) + first["bias"][None, None, None, :]))
        x = halve(jax.nn.relu(convolve(x, second["weight"]) + second["bias"][None, None, None, :]))
        x = jax.nn.relu(rearrange(x, "b h w c -> b (h w c)") @ third["weight"] + third["bias"][None, :])
        return x @ last["weight"] + last["bias"][None, :]

    return Network(init, apply)


def convolve(x: Float[Array, "B H W I"], weight: Float[Array, "K L I O"]) -> Float[Array, "B H2 W2 O"]:
    """Convolve without padding, as one product of patches: far faster than XLA's own on a CPU at these sizes."""
    height, width = weight.shape[:2]
    rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
    patches = [x[:, i : i + rows, j : j + columns] for i in range(height) for j in range(width)]
    return jnp.concatenate(patches, -1) @ rearrange(weight, "k l i o -> (k l i) o")


def halve(x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C"]:
    """Average over 2 x 2 pixels; a last odd row or column is left out."""
    rows, columns = x.shape[1] // 2, x.shape[2] // 2
    x = x[:, : 2 * rows, : 2 * columns]
    return reduce(x, "b (h 2) (w 2) c -> b h w c", "mean")


def image_tasks(data: datasets.Dataset, config: MnistLossesConfig, noise: float) -> list[HeldOut]:
    """The task of each seed: its own training and validation images and noise, and all test images of the data set.

    Raises:
        ValueError: `config` asks for more images than there are.
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
        tasks.append(HeldOut(task, (np.asarray(data.test.inputs), np.asarray(data.test.labels))))
    return tasks


def run(config: MnistLossesConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Train and draw; returns what result.json holds, errors as shares.

    If the data set is not there, nothing is written, and the result is `{"skipped": the reason}`.
    """
    start = time.monotonic()
    try:
        data = datasets.load(config.mnist, size=config.size)
    except DataNotPreparedError as error:
        return {"skipped": str(error)}
    losses = {name: SymbolicLoss.read(name) if name.endswith(".json") else load(name) for name in config.losses}
    training = TrainingConfig(steps=config.steps, batch=config.batch, learning_rates=config.learning_rates)
    tasks = {_title(noise): image_tasks(data, config, noise) for noise in config.noise}
    if progress is not None:
        progress.note(f"{len(losses)} losses, {len(training.learning_rates)} rates, {config.seeds} networks each")
    scores = compare(losses, tasks, training, at_once=1)
    results = {title: {name: summarise_seeds(row[name]) for name in losses} for title, row in scores.items()}
    draw(config, results)
    result = {
        "data": f"{data.name}: {config.train} + {config.valid} of {len(data.train.labels)} training images, "
        f"{len(data.test.labels)} test images",
        "results": results,
        "seconds": round(time.monotonic() - start, 1),
        "picture": str(config.out / "mnist_losses.png"),
    }
    return write_result(config.out, result)


def format_result(result: Mapping[str, Any]) -> str:
    """The table of errors in per cent, with the chosen learning rates in brackets."""
    if "skipped" in result:
        return f"skipped, no MNIST here: {result['skipped']}"
    results = result["results"]
    names: Sequence[str] = list(next(iter(results.values())))
    columns = {
        title: [f"{format_mean(row[name], 2, 100)} ({row[name]['rate']:g})" for name in names]
        for title, row in results.items()
    }
    table = format_columns([Path(name).name for name in names], columns, "test error, % (learning rate)")
    return f"{table}\n{result['data']}; picture: {result['picture']} ({result['seconds']} s)"


def _title(noise: float) -> str:
    return f"{noise:.0%} noise" if noise else "clean"


def draw(config: MnistLossesConfig, results: Mapping[str, Any]) -> None:
    """Draw the test errors of each loss, one panel per share of noise."""
    figure, axes = new_figure(columns=len(results), width=4.2)
    for ax, (title, row) in zip(axes, results.items(), strict=True):
        draw_errors(
            ax, {Path(name).stem: [100 * e for e in row[name]["each"]] for name in row}, "test error, %", log=False
        )
        ax.set_title(f"LeNet, MNIST, {title}", fontsize=9)
    save(figure, config.out / "mnist_losses.png")
