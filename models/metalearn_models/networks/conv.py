"""Convolutional networks as pure functions."""

from __future__ import annotations

from itertools import pairwise

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn_models.networks.mlp import Activation, Parameters, _layer, _positive
from metalearn_models.networks.network import Network


def conv(
    shape: tuple[int, ...],
    channels: tuple[int, ...],
    outputs: int,
    kernel: int = 3,
    activation: Activation = jax.nn.relu,
) -> Network:
    """A convolutional network: layers of stride 2, the mean over all places, and one dense layer.

    Args:
        shape: (H, W) or (H, W, C) of an image before it was flattened, as in `Dataset.shape`.
        channels: of every convolution, from the image on; may be empty. Each halves height and width, rounded up.
        outputs: classes.
        kernel: height and width of every filter; images are padded with zeros.
        activation: after every convolution, elementwise.

    Returns:
        The network; its parameters are `{"weight": [k, k, in, out], "bias": [out]}`, one a convolution, and those of
        the dense layer.

    Raises:
        ValueError: when a size is not positive or the shape not that of an image.
    """
    image = image_shape(shape)
    widths = _positive((image[-1], *channels, outputs))
    _positive((kernel,))

    def init(key: PRNGKeyArray) -> Parameters:
        *keys, last = jax.random.split(key, len(widths) - 1)
        filters = [(kernel, kernel, *pair) for pair in pairwise(widths[:-1])]
        layers = [_layer(k, filter_shape, None) for k, filter_shape in zip(keys, filters, strict=True)]
        return (*layers, _layer(last, widths[-2:], None))

    def apply(params: Parameters, x: Float[Array, "D"]) -> Float[Array, "C"]:
        x = x.reshape(image)
        for layer in params[:-1]:
            x = activation(convolved(layer, x, 2))
        return x.mean((0, 1)) @ params[-1]["weight"] + params[-1]["bias"]

    return Network(init, apply)


def convolved(layer: dict[str, Array], image: Float[Array, "H W I"], stride: int = 1) -> Float[Array, "h w O"]:
    """One image through one convolution with zero padding, channels last.

    Args:
        layer: `{"weight": [k, k, I, O], "bias": [O]}`.
        image: channels last.
        stride: places from one output to the next.

    Returns:
        The filters' outputs, `h = ceil(H / stride)`.
    """
    out = jax.lax.conv_general_dilated(
        image[None], layer["weight"], (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )[0]
    return out + layer["bias"][None, None, :]


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(H, W, C) of images whose channels may go without saying.

    Raises:
        ValueError: when the shape is not that of an image.
    """
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ValueError(f"an image has the shape (H, W) or (H, W, C), all at least one, got {tuple(shape)}")
    return (shape[0], shape[1], shape[2] if len(shape) == 3 else 1)
