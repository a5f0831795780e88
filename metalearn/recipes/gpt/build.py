"""From the configuration of a generator's training to checkpoints, generator and meta-training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.errors import RunError
from metalearn.gradients import backprop
from metalearn.ranges import check
from metalearn.recipes.driving import MetaTraining
from metalearn.recipes.gpt.config import FREE, TrainGPTConfig, to_json
from metalearn.recipes.outer_optimizer import check_warmup, outer_optimizer
from metalearn.recipes.streams import stream
from metalearn.runs.processes import all_do, first_does
from metalearn.runs.progress import Progress
from metalearn.zoo import Training, Zoo, fill_zoo, open_zoo, train_by_gradients
from metalearn_models.networks.mlp import mlp
from metalearn_models.optimizers import library
from metalearn_models.optimizers.gpt import (
    Generator,
    alignment,
    compile_jumps,
    fit_generator_scales,
    linear_schedule,
    make_generator,
    pairs_loop,
    prompts_below,
    with_average,
)
from metalearn_models.optimizers.gpt.diffusion import respace
from metalearn_models.optimizers.gpt.jumping import pack_theta, tokens_of, unflatten_like
from metalearn_models.optimizers.gpt.training import Pairs
from metalearn_tasks import datasets
from metalearn_tasks.datasets import Dataset

__all__ = ["CheckpointTraining", "GPTRecipe", "align", "checkpoint_training", "prepare", "widths_of"]


class GPTRecipe(NamedTuple):
    """What a configuration builds.

    Attributes:
        config: the configuration.
        zoo: the checkpoints.
        losses: compiled `(flat[R, Q, P]) -> training losses[R, Q]`.
        generator: what is trained.
        jumps: its compiled jumps, see `compile_jumps`.
        training: its training, ready to be driven.
    """

    config: TrainGPTConfig
    zoo: Zoo
    losses: Any
    generator: Generator
    jumps: Any
    training: MetaTraining


def widths_of(config: TrainGPTConfig, dataset: Dataset) -> tuple[int, ...]:
    """Inputs, hidden layers and outputs of the network."""
    return (dataset.inputs, *config.hidden, dataset.classes)


class CheckpointTraining(NamedTuple):
    """The training runs that are recorded.

    Attributes:
        training: the runs.
        loss: `(params, (inputs, labels)) -> mean loss`.
        sample: `(key) -> (inputs, labels)` of a batch.
        train: all training examples of the runs.
    """

    training: Training
    loss: Callable[[Any, Any], Float[Array, ""]]
    sample: Callable[[PRNGKeyArray], Any]
    train: tuple[Array, Array]


def checkpoint_training(dataset: Dataset, hidden: tuple[int, ...], rate: float, examples: int) -> CheckpointTraining:
    """Training runs of a perceptron by SGD.

    The last fifth of the data set's training examples is for validation.

    Args:
        dataset: what is learned.
        hidden: widths of the hidden layers.
        rate: learning rate.
        examples: per batch.
    """
    network = mlp(dataset.inputs, hidden, dataset.classes)
    inputs, labels = jnp.asarray(dataset.train.inputs), jnp.asarray(dataset.train.labels)
    count = len(labels) * 4 // 5
    parts = {
        "train": (inputs[:count], labels[:count]),
        "validation": (inputs[count:], labels[count:]),
        "test": (jnp.asarray(dataset.test.inputs), jnp.asarray(dataset.test.labels)),
    }

    def loss(params: Any, batch: Any) -> Float[Array, ""]:
        logits = jax.vmap(network.apply, (None, 0))(params, batch[0])
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    def sample(key: PRNGKeyArray) -> Any:
        rows = jax.random.randint(key, (examples,), 0, count)
        return inputs[rows], labels[rows]

    def losses(params: Any) -> dict[str, Float[Array, ""]]:
        return {name: loss(params, part) for name, part in parts.items()}

    training = train_by_gradients(network.init, loss, sample, optax.sgd(rate), losses)
    return CheckpointTraining(training, loss, sample, parts["train"])


def prepare(config: TrainGPTConfig, folder: Path, progress: Progress | None = None) -> GPTRecipe:
    """Record the checkpoints that are missing, and build everything that a configuration names.

    Args:
        config: what to do.
        folder: of the checkpoints.
        progress: counts recorded runs.

    Raises:
        ValueError: unknown names, numbers out of range, or parts that do not fit each other; before anything is
            recorded.
        RunError: the folder holds other checkpoints, or damaged ones.
    """
    check(config)
    check_warmup(config.outer_optimizer, config.steps)
    dataset = datasets.load(config.data)
    widths = widths_of(config, dataset)
    # What can be refused is refused before anything is recorded.
    if config.tokens == "units" and len(config.hidden) != 1:
        raise ValueError(f"--tokens units needs one hidden layer, got --hidden {config.hidden}: take --tokens chunks")
    tokeniser = tokens_of(widths, config.tokens, config.chunk)
    respace(linear_schedule(), config.generator.steps)
    if config.checkpoints.unseen < 1:
        raise ValueError("--checkpoints.unseen must be at least 1, got 0: alignment is measured on unseen runs")
    recorded = checkpoint_training(dataset, config.hidden, config.rate, config.examples)
    about = {"data": config.data, "widths": widths, "rate": config.rate, "examples": config.examples}
    first_does(lambda: fill_zoo(folder, recorded.training, config.checkpoints, about, progress))
    zoo = all_do(lambda: open_zoo(folder))
    seen = zoo.seen()
    if not len(seen.runs) or not len(zoo.unseen().runs):
        raise RunError(f"{folder} needs runs to train on and unseen ones, {zoo.diverged} runs diverged")
    losses = zoo.loss(seen, "train")
    generator = make_generator(config.generator, tokeniser, fit_generator_scales(tokeniser, seen.params, losses))
    pairs = Pairs(jax.jit(generator.scaled)(jnp.asarray(seen.params)), jnp.asarray(losses))
    values = to_json(config)

    def save_theta(path: Path, theta: Any, step: int) -> None:
        card = {"config": values, "objective": f"checkpoints of {'-'.join(map(str, widths))} on {config.data}"}
        settings = {
            "widths": widths,
            "tokens": config.tokens,
            "chunk": config.chunk,
            "generator": values["generator"],
        }
        library.save(path, "gpt", pack_theta(generator, theta), settings, {**card, "steps": step})

    meta = MetaTraining(
        values,
        FREE if config.outer_optimizer.knows_the_end else ("steps", *FREE),
        lambda: jax.jit(generator.init)(stream(config.seed, "theta")),
        stream(config.seed, "outer"),
        pairs,
        backprop(pairs_loop(generator, config.initial_share), batch=config.batch),
        with_average(outer_optimizer(config.outer_optimizer, config.steps), config.average),
        config.steps,
        config.steps_per_call,
        dict,
        save_theta,
    )
    unflatten = unflatten_like(widths)
    losses_of = jax.jit(jax.vmap(jax.vmap(lambda flat: recorded.loss(unflatten(flat), recorded.train))))
    return GPTRecipe(config, zoo, losses_of, generator, compile_jumps(generator), meta)


def align(
    recipe: GPTRecipe, theta: Any, unseen: bool, errors: Float[Array, "T"] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Wished and achieved losses of one jump from the initialisation.

    Args:
        recipe: what was trained.
        theta: weights of its Transformer.
        unseen: whether the networks are of runs that it was not trained on.
        errors: see `metalearn_models.optimizers.gpt.jump`.

    Returns:
        Wished [R, Q], achieved [R, Q], and R^2 [R].
    """
    config, zoo = recipe.config, recipe.zoo
    shard = zoo.unseen() if unseen else zoo.seen()
    flat = jnp.asarray(shard.params[: config.eval_runs, 0])
    present = zoo.loss(shard, "train")[: config.eval_runs, 0]
    best = float(recipe.generator.scales.losses[0])
    wished = np.stack([prompts_below(best, float(x), config.prompts) for x in present]).astype(np.float32)
    keys = jax.random.split(stream(config.seed, "evaluation"), wished.shape)
    found = recipe.jumps(theta, flat, jnp.asarray(present), jnp.asarray(wished), keys, errors)
    achieved = np.asarray(recipe.losses(found))
    return wished, achieved, alignment(wished, achieved)
