"""Neural style transfer as an optimisation problem: the image is the parameter.

The loss of Gatys, Ecker and Bethge 2015, "A neural algorithm of artistic style" (arXiv 1508.06576), with the penalty
on roughness of Andrychowicz et al. 2016, "Learning to learn by gradient descent by gradient descent" (arXiv
1606.04474), section 3.4. Both papers take features from a VGG network trained on ImageNet; here any function from an
image to feature maps will do, and `digits_features` trains a small one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn_models.networks.conv import conv, convolved
from metalearn_models.networks.mlp import Parameters
from metalearn_tasks.datasets.load import load
from metalearn_tasks.objectives.classification import classification
from metalearn_tasks.objectives.objective import Objective

Features = Callable[[Float[Array, "H W C"]], Sequence[Float[Array, "h w c"]]]
"""An image to its feature maps, one a layer, channels last."""


class StyleTargets(NamedTuple):
    """What N content and M style images ask of the features of an image.

    Attributes:
        contents: the content layer's feature maps of each content image.
        grams: for each layer, the Gram matrices of its features, of each style image.
    """

    contents: Float[Array, "N h w c"]
    grams: tuple[Float[Array, "M c c"], ...]


class Pair(NamedTuple):
    """Which content goes with which style, as fractions of how many there are; in [0, 1)."""

    content: Float[Array, ""]
    style: Float[Array, ""]


def gram(features: Float[Array, "h w c"]) -> Float[Array, "c c"]:
    """The mean over places of the products of each two features there.

    Gatys et al. have the sum and divide by the number of places later; the mean lets a style image have another size.
    """
    rows = features.reshape(-1, features.shape[-1])
    return rows.T @ rows / rows.shape[0]


def style_targets(
    features: Features,
    contents: Float[np.ndarray | Array, "N H W C"],
    styles: Float[np.ndarray | Array, "M h w C"],
    content_layer: int = -1,
) -> StyleTargets:
    """Features of the images to imitate, computed once: the data of `neural_style`.

    Args:
        features: the same as the objective's.
        contents: as large as the image that is to be made.
        styles: as large as one likes.
        content_layer: the same as the objective's.
    """
    content_maps = jax.vmap(lambda image: features(image)[content_layer])(jnp.asarray(contents))
    grams = jax.vmap(lambda image: tuple(gram(maps) for maps in features(image)))(jnp.asarray(styles))
    return StyleTargets(content_maps, grams)


def neural_style(
    features: Features,
    shape: tuple[int, ...],
    content_layer: int = -1,
    content_weight: float = 1.0,
    style_weight: float = 10.0,
    roughness_weight: float = 0.0,
    scale: float = 0.1,
) -> Objective:
    """Find the image with the content of one image and the style of another, drawn for every run.

    The loss is content_weight C + style_weight S + roughness_weight R: C is half the squared distance between the
    content layer's features; S the mean over layers of |G - A|^2 / (4 c^2), G and A the Gram matrices of the image's
    and the style's c features; R the sum of the squared differences between neighbouring pixels.

    Args:
        features: an image to its feature maps.
        shape: (H, W, C) of the image.
        content_layer: number of the layer that holds the content.
        content_weight: of C.
        style_weight: of S. The ratio of the two is what Gatys et al. call alpha / beta and set to 1e-3 or 1e-4; the
            default makes both matter with `digits_features`.
        roughness_weight: of R, which Gatys et al. do not have.
        scale: standard deviation of the initial pixels, normal about 0.

    Returns:
        An objective over `StyleTargets` without noise. Its problems are `Pair`, its parameters image[H, W, C].

    Raises:
        ValueError: when the shape is not that of an image or a weight negative.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"an image has the shape (H, W, C), all at least one, got {shape}")
    weights = (content_weight, style_weight, roughness_weight)
    if min(weights) < 0:
        raise ValueError(f"the weights of content, style and roughness are at least 0, got {weights}")

    def draw(key: PRNGKeyArray) -> Pair:
        content_key, style_key = jax.random.split(key)
        return Pair(jax.random.uniform(content_key), jax.random.uniform(style_key))

    def init(problem: Pair, key: PRNGKeyArray) -> Float[Array, "H W C"]:
        del problem
        return scale * jax.random.normal(key, shape)

    def loss(problem: Pair, params: Float[Array, "H W C"], batch: StyleTargets) -> Float[Array, ""]:
        del problem
        maps = features(params)
        content = 0.5 * ((maps[content_layer] - batch.contents) ** 2).sum()
        distances = [
            ((gram(m) - target) ** 2).sum() / (4 * target.shape[0] ** 2)
            for m, target in zip(maps, batch.grams, strict=True)
        ]
        style = sum(distances, jnp.zeros_like(content)) / len(distances)
        rough = (jnp.diff(params, axis=0) ** 2).sum() + (jnp.diff(params, axis=1) ** 2).sum()
        return content_weight * content + style_weight * style + roughness_weight * rough

    def sample(problem: Pair, data: StyleTargets, key: PRNGKeyArray) -> StyleTargets:
        del key  # the gradient is exact
        return StyleTargets(
            _chosen(problem.content, data.contents), tuple(_chosen(problem.style, grams) for grams in data.grams)
        )

    return Objective(draw, init, loss, sample)


def digits_features(key: PRNGKeyArray, channels: tuple[int, ...] = (8, 16), steps: int = 300) -> Features:
    """The feature maps of a small convolutional network, trained here on the bundled digits; takes seconds.

    Args:
        key: of its initial weights and its batches.
        channels: of its convolutions, each of which halves height and width.
        steps: of training.

    Returns:
        A function of images [H, W, 1] of any size in the units of `datasets.load("digits")`, mean 0 and variance 1.
    """
    return feature_maps(digits_network(key, channels, steps))


def digits_network(key: PRNGKeyArray, channels: tuple[int, ...] = (8, 16), steps: int = 300) -> Parameters:
    """Parameters of `networks.conv((8, 8), channels, 10)`, trained on the training split of the digits."""
    data = load("digits")
    objective = classification(conv(data.shape, channels, data.classes), batch=128)
    descent = optax.sgd(0.1, momentum=0.9)
    init_key, batch_key = jax.random.split(key)
    params = objective.init((), init_key)

    def step(carry: tuple[Any, Any], key: PRNGKeyArray) -> tuple[tuple[Any, Any], None]:
        params, memory = carry
        gradient = jax.grad(objective.loss, 1)((), params, objective.sample((), train, key))
        updates, memory = descent.update(gradient, memory, params)
        return (optax.apply_updates(params, updates), memory), None

    train = jax.tree.map(jnp.asarray, data.train)
    run = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys)[0])
    return run((params, descent.init(params)), jax.random.split(batch_key, steps))[0]


def feature_maps(params: Parameters) -> Features:
    """What each convolution of a `networks.conv` puts out, after its ReLU.

    Args:
        params: of the whole network; the dense layer, its last, is left out.
    """

    def features(image: Float[Array, "H W C"]) -> tuple[Float[Array, "h w c"], ...]:
        maps = []
        for layer in params[:-1]:
            image = jax.nn.relu(convolved(layer, image, 2))
            maps.append(image)
        return tuple(maps)

    return features


def _chosen(fraction: Float[Array, ""], rows: Float[Array, "N *S"]) -> Float[Array, "*S"]:
    # The largest fraction below 1 times N can round to N.
    number = jnp.minimum((fraction * rows.shape[0]).astype(jnp.int32), rows.shape[0] - 1)
    return rows[number]
