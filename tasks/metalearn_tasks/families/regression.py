"""In-context regression: the function classes of Garg, Tsipras, Liang & Valiant (2022, arXiv 2208.01066).

A task is one function; a sequence has T inputs and the values of the function there. Functions are linear, sparse
linear, two-layer ReLU networks, decision trees, and the sinusoids of MAML (Finn, Abbeel & Levine 2017, arXiv
1703.03400). Scales are those of the papers, so E[y^2], the error of always predicting 0, is known: D for `linear` and
`network`, the number of non-zero weights for `sparse_linear`, 1 for `tree`, 4.25 for `sinusoid`. The variance of the
noise adds to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn.errors import unknown_name
from metalearn.learner import Family, Signature
from metalearn.ranges import NonNegative, Seed, Size, Steps, Within
from metalearn_tasks.families._task_numbers import numbered_tasks

__all__ = [
    "FunctionClass",
    "LinearTask",
    "NetworkTask",
    "RegressionConfig",
    "SinusoidTask",
    "TreeTask",
    "function_family",
    "linear",
    "network",
    "regression",
    "sinusoid",
    "sparse_linear",
    "tree",
]


@dataclass(frozen=True)
class RegressionConfig:
    """The distribution of regression tasks; by default the linear functions of Garg et al. (2022)."""

    kind: Literal["linear", "sparse", "sinusoid", "network", "tree"] = "linear"
    """The class of functions."""
    inputs: Size | None = None
    """D, the width of one input. None: 20 as in the paper, or 1 for sinusoids, which allow no other width."""
    length: Size = 41
    """T, examples per sequence (the paper: 41 for linear and sparse, 101 for networks and trees)."""
    num_tasks: Steps | None = None
    """Number of meta-training tasks, at least 1. None: a new task every time."""
    noise: NonNegative = 0.0
    """Standard deviation of Gaussian noise added to every label."""
    seed: Seed = 0
    """Names the tasks: task i of one seed is the same whenever it is drawn."""
    nonzeros: Size = 3
    """Number of non-zero weights of a sparse function."""
    hidden: Size = 100
    """Number of hidden units of a network."""
    depth: Annotated[int, Within(1, 16)] = 4
    """Number of comparisons between the root of a tree and a leaf."""


class FunctionClass(NamedTuple):
    """A distribution over functions of D inputs, and over the inputs.

    Attributes:
        inputs: D, the width of one input.
        draw: `(key) -> task`, one function, any pytree.
        points: `(key, length) -> xs[T, D]`, inputs, independent of the function.
        value: `(task, xs[T, D]) -> ys[T]`, the function at these inputs, without noise.
    """

    inputs: int
    draw: Callable[[PRNGKeyArray], Any]
    points: Callable[[PRNGKeyArray, int], Array]
    value: Callable[[Any, Array], Array]


class LinearTask(NamedTuple):
    """The function `y = weights . x`."""

    weights: Float[Array, " D"]


class SinusoidTask(NamedTuple):
    """The function `y = amplitude sin(x - phase)`, with the phase in radians."""

    amplitude: Float[Array, ""]
    phase: Float[Array, ""]


class NetworkTask(NamedTuple):
    """The function `y = sum_i output_i relu(hidden_i . x)`, without biases."""

    hidden: Float[Array, "D H"]
    output: Float[Array, " H"]


class TreeTask(NamedTuple):
    """A full tree in breadth-first order: after node n comes 2n + 2 if `x[coordinates[n]] > 0`, else 2n + 1."""

    coordinates: Int[Array, " N"]
    leaves: Float[Array, " L"]


def regression(config: RegressionConfig) -> Family:
    """Make the family of regression tasks that a configuration describes; its `data` is `()`.

    Raises:
        UnknownNameError: an unknown kind.
        ValueError: a size out of range, or sinusoids of more than one input.
    """
    width = 20 if config.inputs is None else config.inputs
    builders: dict[str, Callable[[], FunctionClass]] = {
        "linear": lambda: linear(width),
        "sparse": lambda: sparse_linear(width, config.nonzeros),
        "sinusoid": sinusoid,
        "network": lambda: network(width, config.hidden),
        "tree": lambda: tree(width, config.depth),
    }
    if config.kind not in builders:
        raise unknown_name("kind of regression", config.kind, builders)
    functions = builders[config.kind]()
    if config.inputs not in (None, functions.inputs):
        raise ValueError(f"inputs must be 1 or None for sinusoids, got {config.inputs}")
    return function_family(functions, config.length, config.num_tasks, config.noise, config.seed)


def function_family(
    functions: FunctionClass, length: int, num_tasks: int | None = None, noise: float = 0.0, seed: int = 0
) -> Family:
    """Make the family of tasks of any class of functions; its `data` is `()`.

    Args:
        functions: the distributions of functions and inputs.
        length: T, examples per sequence.
        num_tasks: number of meta-training tasks, at least 1. None: a new task every time.
        noise: standard deviation of the Gaussian noise of each label, independent of everything else.
        seed: names the tasks.

    Raises:
        ValueError: a length, number of tasks or noise out of range.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    if not 0.0 <= noise < math.inf:
        raise ValueError(f"noise must be finite and at least 0, got {noise}")
    sample, seen, unseen = numbered_tasks(lambda data, key: functions.draw(key), num_tasks, seed)

    def episode(data: Any, task: Any, key: PRNGKeyArray) -> tuple[Array, Array]:
        del data
        key_points, key_noise = jax.random.split(key)
        xs = functions.points(key_points, length)
        return xs, functions.value(task, xs) + noise * jax.random.normal(key_noise, (length,), jnp.float32)

    return Family(Signature(functions.inputs, 1, length, regression=True), sample, seen, unseen, episode)


def linear(inputs: int) -> FunctionClass:
    """Make the class of functions `y = w . x`, w and x ~ N(0, I)."""
    return sparse_linear(inputs, inputs)


def sparse_linear(inputs: int, nonzeros: int) -> FunctionClass:
    """Make the class `linear` with all but `nonzeros` randomly chosen weights set to 0, and the others not rescaled."""
    _check_size("inputs", inputs)
    if not 1 <= nonzeros <= inputs:
        raise ValueError(f"nonzeros must be between 1 and the {inputs} inputs, got {nonzeros}")

    def draw(key: PRNGKeyArray) -> LinearTask:
        key_weights, key_support = jax.random.split(key)
        support = jax.random.permutation(key_support, inputs) < nonzeros
        return LinearTask(jnp.where(support, _normal(key_weights, inputs), 0.0))

    def value(task: LinearTask, xs: Float[Array, "T D"]) -> Float[Array, " T"]:
        return _matmul(xs, task.weights)

    return FunctionClass(inputs, draw, lambda key, length: _normal(key, length, inputs), value)


def sinusoid() -> FunctionClass:
    """Make the class `y = a sin(x - p)` of one input: a uniform in [0.1, 5], p in [0, pi], x in [-5, 5]."""

    def draw(key: PRNGKeyArray) -> SinusoidTask:
        key_amplitude, key_phase = jax.random.split(key)
        amplitude = jax.random.uniform(key_amplitude, (), jnp.float32, 0.1, 5.0)
        return SinusoidTask(amplitude, jax.random.uniform(key_phase, (), jnp.float32, 0.0, math.pi))

    def points(key: PRNGKeyArray, length: int) -> Float[Array, "T 1"]:
        return jax.random.uniform(key, (length, 1), jnp.float32, -5.0, 5.0)

    def value(task: SinusoidTask, xs: Float[Array, "T 1"]) -> Float[Array, " T"]:
        return task.amplitude * jnp.sin(xs[:, 0] - task.phase)

    return FunctionClass(1, draw, points, value)


def network(inputs: int, hidden: int) -> FunctionClass:
    """Make the class `y = sum_i a_i relu(w_i . x)` of `hidden` units, a_i ~ N(0, 2 / hidden), w_i and x ~ N(0, I)."""
    _check_size("inputs", inputs)
    _check_size("hidden", hidden)

    def draw(key: PRNGKeyArray) -> NetworkTask:
        key_hidden, key_output = jax.random.split(key)
        return NetworkTask(_normal(key_hidden, inputs, hidden), _normal(key_output, hidden) * math.sqrt(2 / hidden))

    def value(task: NetworkTask, xs: Float[Array, "T D"]) -> Float[Array, " T"]:
        return _matmul(jax.nn.relu(_matmul(xs, task.hidden)), task.output)

    return FunctionClass(inputs, draw, lambda key, length: _normal(key, length, inputs), value)


def tree(inputs: int, depth: int) -> FunctionClass:
    """Make the class of full binary trees whose nodes test the sign of a random coordinate; leaves and x ~ N(0, 1)."""
    _check_size("inputs", inputs)
    if not 1 <= depth <= 16:
        raise ValueError(f"depth must be between 1 and 16 (65,536 leaves), got {depth}")

    def draw(key: PRNGKeyArray) -> TreeTask:
        key_coordinates, key_leaves = jax.random.split(key)
        coordinates = jax.random.randint(key_coordinates, (2**depth - 1,), 0, inputs, jnp.int32)
        return TreeTask(coordinates, _normal(key_leaves, 2**depth))

    def value(task: TreeTask, xs: Float[Array, "T D"]) -> Float[Array, " T"]:
        node = jnp.zeros(xs.shape[0], jnp.int32)
        for _ in range(depth):
            tested = jnp.take_along_axis(xs, task.coordinates[node][:, None], axis=1)[:, 0]
            node = 2 * node + 1 + (tested > 0).astype(jnp.int32)
        return task.leaves[node - (2**depth - 1)]

    return FunctionClass(inputs, draw, lambda key, length: _normal(key, length, inputs), value)


def _normal(key: PRNGKeyArray, *shape: int) -> Array:
    return jax.random.normal(key, shape, jnp.float32)


def _matmul(a: Array, b: Array) -> Array:
    # Full float32: the reduced precision that accelerators have by default would act as label noise.
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _check_size(name: str, size: int) -> None:
    if size < 1:
        raise ValueError(f"{name} must be at least 1, got {size}")
