"""Training a classifier as an optimisation problem, on which learned optimizers are meta-trained and judged.

One hidden layer of 32 units on 8x8 images is the meta-training task of Metz, Freeman, Harrison, Maheswaranathan and
Sohl-Dickstein 2022 (arXiv 2203.11860). 20 sigmoid units on batches of 128 are that of Andrychowicz et al. 2016 (arXiv
1606.04474). Two moons are one of the tasks of Maheswaranathan, Sussillo, Metz, Sun and Sohl-Dickstein 2020 (arXiv
2011.02159).
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn_models.networks.conv import conv
from metalearn_models.networks.mlp import layer_norm_mlp, mlp
from metalearn_models.networks.network import Activation, Network
from metalearn_models.optimizers.curvature import mark_logits
from metalearn_tasks.datasets import Split
from metalearn_tasks.objectives.objective import Objective, draw_nothing

__all__ = [
    "classification",
    "conv_classification",
    "layer_norm_classification",
    "mlp_classification",
    "moons",
    "two_moons",
]


def classification(network: Network, batch: int = 64) -> Objective:
    """Train any network on labelled examples; the loss is the mean cross-entropy in nats.

    Args:
        network: maps an example `[D]` to logits `[C]`.
        batch: examples per batch, drawn with replacement.

    Returns:
        An objective over a `Split`, whose parameters are the network's.

    Raises:
        ValueError: the batch is empty.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")

    def init(problem: tuple[()], key: PRNGKeyArray) -> Any:
        del problem
        return network.init(key)

    def loss(problem: tuple[()], params: Any, examples: Split) -> Float[Array, ""]:
        del problem
        logits = jax.vmap(network.apply, (None, 0))(params, jnp.asarray(examples.inputs))
        each = optax.losses.softmax_cross_entropy_with_integer_labels(mark_logits(logits), examples.labels)
        return each.mean()

    def sample(problem: tuple[()], data: Split, key: PRNGKeyArray) -> Split:
        del problem
        return _sample_rows(data, batch, key)

    return Objective(draw_nothing, init, loss, sample)


def mlp_classification(
    inputs: int,
    hidden: int | tuple[int, ...],
    classes: int,
    batch: int = 64,
    activation: Activation = jax.nn.relu,
    scale: float | None = None,
) -> Objective:
    """Train a multilayer perceptron on labelled examples; the loss is the mean cross-entropy in nats.

    Args:
        inputs: D, the width of an example.
        hidden: widths of the hidden layers; may be `()`.
        classes: C.
        batch: examples per batch, drawn with replacement.
        activation: elementwise activation of every hidden layer.
        scale: standard deviation of every initial weight and bias, normal about 0. None: weights are truncated normal
            of variance 1 / fan_in, biases 0.

    Returns:
        An objective over a `Split`. Its parameters are `{"weight": [in, out], "bias": [out]}`, one per layer.

    Raises:
        ValueError: a size that is not positive, or a negative scale.
    """
    return classification(mlp(inputs, _widths(hidden), classes, activation, scale), batch)


def layer_norm_classification(
    inputs: int, hidden: int | tuple[int, ...], classes: int, batch: int = 64, activation: Activation = jax.nn.relu
) -> Objective:
    """Train a multilayer perceptron with layer normalisation on labelled examples; see `networks.mlp.layer_norm_mlp`.

    Args:
        inputs: D, the width of an example.
        hidden: widths of the hidden layers; may be `()`.
        classes: C.
        batch: examples per batch, drawn with replacement.
        activation: elementwise activation of every hidden layer.

    Returns:
        An objective over a `Split`.

    Raises:
        ValueError: a size that is not positive.
    """
    return classification(layer_norm_mlp(inputs, _widths(hidden), classes, activation), batch)


def conv_classification(
    shape: tuple[int, ...],
    channels: tuple[int, ...] = (16, 32),
    classes: int = 10,
    batch: int = 64,
    kernel: int = 3,
    activation: Activation = jax.nn.relu,
) -> Objective:
    """Train a small convolutional network on labelled images, given flat; see `networks.conv.conv`.

    Args:
        shape: (H, W) or (H, W, C) of an image before it was flattened, such as `Dataset.shape`.
        channels: output channels of each convolution.
        classes: C.
        batch: examples per batch, drawn with replacement.
        kernel: height and width of every filter.
        activation: elementwise activation after every convolution.

    Returns:
        An objective over a `Split`.

    Raises:
        ValueError: a size that is not positive, or a shape that is not that of an image.
    """
    return classification(conv(shape, channels, classes, kernel, activation), batch)


def two_moons(
    hidden: int | tuple[int, ...] = (32, 32),
    examples: int = 256,
    noise: float = 0.1,
    batch: int = 64,
    activation: Activation = jnp.tanh,
) -> Objective:
    """Train a multilayer perceptron to tell two interleaved half circles apart; every run draws new points.

    The default sizes are our choice.

    Args:
        hidden: widths of the hidden layers; may be `()`.
        examples: size of a run's data set.
        noise: standard deviation of the noise on each coordinate; the circles have radius 1.
        batch: examples per batch, drawn with replacement.
        activation: elementwise activation of every hidden layer.

    Returns:
        An objective over `()`; its problems are the `Split` of the run.

    Raises:
        ValueError: a size that is not positive, or negative noise.
    """
    if examples < 1:
        raise ValueError(f"examples must be at least 1, got {examples}")
    if noise < 0:
        raise ValueError(f"noise must be at least 0, got {noise}")
    on_data = mlp_classification(2, hidden, 2, batch, activation)

    def init(problem: Split, key: PRNGKeyArray) -> Any:
        del problem
        return on_data.init((), key)

    def loss(problem: Split, params: Any, batch: Split) -> Float[Array, ""]:
        del problem
        return on_data.loss((), params, batch)

    def sample(problem: Split, data: Any, key: PRNGKeyArray) -> Split:
        del data
        return on_data.sample((), problem, key)

    return Objective(lambda key: moons(key, examples, noise), init, loss, sample)


def moons(key: PRNGKeyArray, examples: int, noise: float | Float[Array, ""]) -> Split:
    """Draw points around two half circles: class 0 above (0, 0), class 1 below (1, 0.5), equally likely.

    Args:
        key: random key.
        examples: N.
        noise: standard deviation of the noise on each coordinate.

    Returns:
        Inputs[N, 2] and labels[N].
    """
    label_key, angle_key, noise_key = jax.random.split(key, 3)
    labels = jax.random.bernoulli(label_key, shape=(examples,)).astype(jnp.int32)
    angle = math.pi * jax.random.uniform(angle_key, (examples,))
    upper = jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)
    lower = jnp.stack([1.0 - jnp.cos(angle), 0.5 - jnp.sin(angle)], 1)
    points = jnp.where(labels[:, None] == 1, lower, upper)
    return Split(points + noise * jax.random.normal(noise_key, (examples, 2)), labels)


def _widths(hidden: int | tuple[int, ...]) -> tuple[int, ...]:
    return (hidden,) if isinstance(hidden, int) else hidden


def _sample_rows(data: Split, count: int, key: PRNGKeyArray) -> Split:
    rows = jax.random.randint(key, (count,), 0, data.labels.shape[0])
    return Split(jnp.asarray(data.inputs)[rows], jnp.asarray(data.labels)[rows])
