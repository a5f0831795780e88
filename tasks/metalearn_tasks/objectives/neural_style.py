"""Neural style transfer as an optimisation problem: the parameters are the pixels of an image.

The loss is that of Gatys, Ecker and Bethge 2015, "A neural algorithm of artistic style" (arXiv 1508.06576), with the
roughness penalty of Andrychowicz et al. 2016, "Learning to learn by gradient descent by gradient descent" (arXiv
1606.04474), section 3.4. Both papers take features from a VGG network trained on ImageNet. Here any function from an
image to feature maps serves, and `digits_features` trains a small one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn_models.networks.conv import conv, convolve
from metalearn_models.networks.network import Parameters
from metalearn_tasks.datasets import load
from metalearn_tasks.objectives.classification import classification
from metalearn_tasks.objectives.objective import Objective

__all__ = [
    "Features",
    "Pair",
    "StyleTargets",
    "digits_features",
    "digits_network",
    "feature_maps",
    "gram_matrix",
    "neural_style",
    "style_targets",
]

Features = Callable[[Float[Array, "H W C"]], Sequence[Float[Array, "h w c"]]]
"""Maps an image to its feature maps, one per layer, channels last."""


class StyleTargets(NamedTuple):
    """The features that N content images and M style images ask for.

    Attributes:
        contents: feature maps of the content layer, per content image.
        grams: per layer, the Gram matrices of its features, per style image.
    """

    contents: Float[Array, "N h w c"]
    grams: tuple[Float[Array, "M c c"], ...]


class Pair(NamedTuple):
    """Which content image and which style image a run has.

    Attributes:
        content: index of the content image, as a fraction of their number, in [0, 1).
        style: index of the style image, as a fraction of their number, in [0, 1).
    """

    content: Float[Array, ""]
    style: Float[Array, ""]


def gram_matrix(features: Float[Array, "h w c"]) -> Float[Array, "c c"]:
    """Average the products of each two features over all positions.

    Gatys et al. sum them and divide by the number of positions later. The mean lets style images have another size.
    """
    rows = rearrange(features, "h w c -> (h w) c")
    return rows.T @ rows / rows.shape[0]


def style_targets(
    features: Features,
    contents: Float[np.ndarray | Array, "N H W C"],
    styles: Float[np.ndarray | Array, "M h w C"],
    content_layer: int = -1,
) -> StyleTargets:
    """Compute the features of the images to imitate, which are the data of `neural_style`.

    Args:
        features: the feature function of the objective.
        contents: content images, of the size of the image to make.
        styles: style images, of any size.
        content_layer: the content layer of the objective.
    """
    content_maps = jax.vmap(lambda image: features(image)[content_layer])(jnp.asarray(contents))
    grams = jax.vmap(lambda image: tuple(gram_matrix(maps) for maps in features(image)))(jnp.asarray(styles))
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
    """Find an image with the content of one image and the style of another, both drawn per run.

    The loss is content_weight C + style_weight S + roughness_weight R. C is half the squared distance between the
    features of the content layer. S is the mean over layers of |G - A|^2 / (4 c^2), where G and A are the Gram matrices
    of the c features of the image and of the style image. R is the sum of the squared differences between neighbouring
    pixels.

    Args:
        features: maps an image to its feature maps.
        shape: (H, W, C) of the image.
        content_layer: index of the layer that holds the content.
        content_weight: weight of C.
        style_weight: weight of S. Gatys et al. call the ratio of the two weights alpha / beta and set it to 1e-3 or
            1e-4. With the default both terms matter for `digits_features`.
        roughness_weight: weight of R, which Gatys et al. do not have.
        scale: standard deviation of the initial pixels, normal about 0.

    Returns:
        An objective over `StyleTargets` without noise. Its problems are `Pair`, its parameters image[H, W, C].

    Raises:
        ValueError: a shape that is not that of an image, or a negative weight.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape must be (H, W, C), each at least 1, got {shape}")
    weights = (content_weight, style_weight, roughness_weight)
    if min(weights) < 0:
        raise ValueError(f"the weights of content, style and roughness must be at least 0, got {weights}")

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
            ((gram_matrix(m) - target) ** 2).sum() / (4 * target.shape[0] ** 2)
            for m, target in zip(maps, batch.grams, strict=True)
        ]
        style = sum(distances, jnp.zeros_like(content)) / len(distances)
        rough = (jnp.diff(params, axis=0) ** 2).sum() + (jnp.diff(params, axis=1) ** 2).sum()
        return content_weight * content + style_weight * style + roughness_weight * rough

    def sample(problem: Pair, data: StyleTargets, key: PRNGKeyArray) -> StyleTargets:
        del key  # The gradient is exact.
        return StyleTargets(
            _pick(problem.content, data.contents), tuple(_pick(problem.style, grams) for grams in data.grams)
        )

    return Objective(draw, init, loss, sample)


def digits_features(key: PRNGKeyArray, channels: tuple[int, ...] = (8, 16), steps: int = 300) -> Features:
    """Train a small convolutional network on the bundled digits, which takes seconds, and return its feature maps.

    Args:
        key: random key of the initial weights and the batches.
        channels: output channels of the convolutions, each of which halves height and width.
        steps: training steps.

    Returns:
        A function of images [H, W, 1] of any size, normalised like those of `datasets.load("digits")`.
    """
    return feature_maps(digits_network(key, channels, steps))


def digits_network(key: PRNGKeyArray, channels: tuple[int, ...] = (8, 16), steps: int = 300) -> Parameters:
    """Train `networks.conv.conv((8, 8), channels, 10)` on the training split of the digits; return its parameters."""
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
    """Make a function that returns the output of each convolution of a `networks.conv.conv`, after its ReLU.

    Args:
        params: parameters of the whole network; its last layer, which is dense, is not used.
    """

    def features(image: Float[Array, "H W C"]) -> tuple[Float[Array, "h w c"], ...]:
        maps = []
        for layer in params[:-1]:
            image = jax.nn.relu(convolve(layer, image, 2))
            maps.append(image)
        return tuple(maps)

    return features


def _pick(fraction: Float[Array, ""], rows: Float[Array, "N *S"]) -> Float[Array, "*S"]:
    # The largest fraction below 1, times N, can round to N.
    number = jnp.minimum((fraction * rows.shape[0]).astype(jnp.int32), rows.shape[0] - 1)
    return rows[number]
