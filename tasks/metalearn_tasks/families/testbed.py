"""The neural testbed: classification tasks of random networks, made to score joint predictions.

Osband et al. 2022, "The neural testbed" (arXiv 2110.04629). Inputs are standard normal. A teacher, a ReLU network with
two hidden layers of 50 units, gives logits, which are divided by a temperature; labels are drawn from their softmax.
The weights are those of the released code: normal with variance 1 / fan_in, cut at two standard deviations, biases of
the first layer normal with variance 1 / D, the other biases 0. The released sweep has inputs of 2, 10 and 100
dimensions, 1 to 1,000 examples per dimension, and the temperatures .01, .1 and .5; the last are the default here.

A share of the examples may visit a place again (`repeats`), each with a fresh label. The testbed asks about few places
several times, so a learner that is meta-trained on these tasks should have met that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn.learner import Family, Signature
from metalearn.ranges import NonEmpty, Positive, Seed, Share, Size, Steps, Within
from metalearn_tasks.families._task_numbers import numbered_tasks

__all__ = ["Teacher", "TestbedConfig", "draw_label", "draw_teacher", "teacher_logits", "testbed"]

HIDDEN = 50
RECENT = 10
"""How far back a repeated input lies, at most; our choice."""


@dataclass(frozen=True)
class TestbedConfig:
    """Tasks of the neural testbed."""

    inputs: Size = 2
    """D, the width of one input."""
    classes: Annotated[int, Within(2, 2**16)] = 2
    """C, classes of every task."""
    length: Size = 30
    """T, examples per sequence."""
    temperatures: Annotated[tuple[Positive, ...], NonEmpty()] = (0.01, 0.1, 0.5)
    """What the logits of a teacher are divided by: one of these per task, with equal probability."""
    repeats: Share = 0.0
    """Share of the examples whose input is that of one of the ten before."""
    num_tasks: Steps | None = None
    """Number of meta-training tasks, at least 1. None: a new task every time."""
    seed: Seed = 0
    """Names the tasks: task i of one seed is the same whenever it is drawn."""


class Teacher(NamedTuple):
    """The parameters of one task.

    Attributes:
        first: weights from the inputs to the first hidden layer.
        bias: of the first hidden layer.
        second: weights between the hidden layers.
        last: weights to the logits.
        temperature: what the logits are divided by.
    """

    first: Float[Array, "D H"]
    bias: Float[Array, "H"]
    second: Float[Array, "H H"]
    last: Float[Array, "H C"]
    temperature: Float[Array, ""]


def testbed(config: TestbedConfig) -> Family:
    """Make the family of the neural testbed; its `data` is `()`.

    Raises:
        ValueError: a size or a temperature is out of range, or there is no temperature.
    """
    if config.inputs < 1 or config.length < 1 or config.classes < 2:
        raise ValueError(
            f"need inputs >= 1, length >= 1 and classes >= 2, got {config.inputs}, {config.length} and {config.classes}"
        )
    if not config.temperatures or not all(0 < t < math.inf for t in config.temperatures):
        raise ValueError(f"temperatures must be positive numbers, at least one; got {config.temperatures}")
    if not 0.0 <= config.repeats <= 1.0:
        raise ValueError(f"repeats must be a share, between 0 and 1, got {config.repeats}")
    sample, seen, unseen = numbered_tasks(lambda data, key: _draw_task(config, key), config.num_tasks, config.seed)

    def episode(data: Any, task: Teacher, key: PRNGKeyArray) -> tuple[Array, Array]:
        del data
        key_inputs, key_repeats, key_labels = jax.random.split(key, 3)
        xs = jax.random.normal(key_inputs, (config.length, config.inputs), jnp.float32)
        if config.repeats > 0:
            xs = xs[_places(key_repeats, config.length, config.repeats)]
        labels = jax.random.categorical(key_labels, teacher_logits(task, xs))
        return xs, labels.astype(jnp.int32)

    return Family(Signature(config.inputs, config.classes, config.length), sample, seen, unseen, episode)


def draw_teacher(key: PRNGKeyArray, inputs: int, classes: int, temperature: Float[Array, ""] | float) -> Teacher:
    """Draw a teacher.

    Args:
        key: random key.
        inputs: D.
        classes: C.
        temperature: of its labels.
    """
    keys = jax.random.split(key, 4)

    def weights(key: PRNGKeyArray, rows: int, columns: int) -> Array:
        return jax.random.truncated_normal(key, -2.0, 2.0, (rows, columns), jnp.float32) / math.sqrt(rows)

    return Teacher(
        weights(keys[0], inputs, HIDDEN),
        jax.random.normal(keys[1], (HIDDEN,), jnp.float32) / math.sqrt(inputs),
        weights(keys[2], HIDDEN, HIDDEN),
        weights(keys[3], HIDDEN, classes),
        jnp.asarray(temperature, jnp.float32),
    )


def teacher_logits(teacher: Teacher, xs: Float[Array, "*B D"]) -> Float[Array, "*B C"]:
    """The logits of a teacher, over its temperature: labels are drawn from their softmax.

    Args:
        teacher: a task.
        xs: inputs.
    """
    rows = xs.reshape(-1, xs.shape[-1])
    hidden = jax.nn.relu(rows @ teacher.first + teacher.bias[None])
    logits = jax.nn.relu(hidden @ teacher.second) @ teacher.last / teacher.temperature
    return logits.reshape(*xs.shape[:-1], logits.shape[-1])


def draw_label(teacher: Teacher, key: PRNGKeyArray, x: Float[Array, "D"]) -> Int[Array, ""]:
    """A fresh label of one input, as `metalearn.joint.draw_polyad` needs it.

    Args:
        teacher: a task.
        key: random key.
        x: input.
    """
    return jax.random.categorical(key, teacher_logits(teacher, x)).astype(jnp.int32)


def _draw_task(config: TestbedConfig, key: PRNGKeyArray) -> Teacher:
    key_temperature, key_weights = jax.random.split(key)
    temperature = jax.random.choice(key_temperature, jnp.array(config.temperatures, jnp.float32))
    return draw_teacher(key_weights, config.inputs, config.classes, temperature)


def _places(key: PRNGKeyArray, length: int, share: float) -> Int[Array, " T"]:
    """For each example the one whose input it has: itself, or in the end an earlier one."""
    again, back = jax.random.uniform(key, (2, length), jnp.float32)
    t = jnp.arange(length)
    reach = jnp.minimum(t, RECENT)
    earlier = t - 1 - jnp.floor(back * reach.astype(jnp.float32)).astype(jnp.int32)
    source = jnp.where((again < share) & (t > 0), earlier, t)
    for _ in range(max(1, math.ceil(math.log2(length)))):  # a repeated example may repeat another
        source = source[source]
    return source
