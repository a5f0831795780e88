"""Convolutional networks: strided convolutions, the mean over all places, and one dense layer."""

from __future__ import annotations

from itertools import pairwise

import jax
from einops import reduce
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn_models.networks._layers import check_widths, draw_layer
from metalearn_models.networks.network import Activation, Network, Parameters

__all__ = ["conv", "convolve", "image_shape"]


def conv(
    shape: tuple[int, ...],
    channels: tuple[int, ...],
    outputs: int,
    kernel: int = 3,
    activation: Activation = jax.nn.relu,
) -> Network:
    """A convolutional network on flat images: layers of stride 2, the mean over all places, and one dense layer.

    Args:
        shape: (H, W) or (H, W, C) of an image before it was flattened, as in `Dataset.shape`.
        channels: channels of each convolution, from the image on; may be empty. Every convolution halves height and
            width, rounded up.
        outputs: classes.
        kernel: height and width of every filter; images are padded with zeros.
        activation: applied after every convolution.

    Returns:
        The network. Its parameters are one `{"weight": [k, k, in, out], "bias": [out]}` per convolution, and
        `{"weight": [in, out], "bias": [out]}` of the dense layer.

    Raises:
        ValueError: a size is not positive, or the shape is not that of an image.
    """
    image = image_shape(shape)
    widths = check_widths((image[-1], *channels, outputs))
    check_widths((kernel,))

    def init(key: PRNGKeyArray) -> Parameters:
        *keys, last = jax.random.split(key, len(widths) - 1)
        filters = [(kernel, kernel, *pair) for pair in pairwise(widths[:-1])]
        layers = [draw_layer(k, filter_shape, None) for k, filter_shape in zip(keys, filters, strict=True)]
        return (*layers, draw_layer(last, widths[-2:], None))

    def apply(params: Parameters, x: Float[Array, "D"]) -> Float[Array, "C"]:
        x = x.reshape(image)
        for layer in params[:-1]:
            x = activation(convolve(layer, x, 2))
        return reduce(x, "h w c -> c", "mean") @ params[-1]["weight"] + params[-1]["bias"]

    return Network(init, apply)


def convolve(layer: dict[str, Array], image: Float[Array, "H W I"], stride: int = 1) -> Float[Array, "h w O"]:
    """Convolve one image, padded with zeros.

    Args:
        layer: `{"weight": [k, k, I, O], "bias": [O]}`.
        image: channels last.
        stride: places from one output to the next.

    Returns:
        The outputs of the filters, with `h = ceil(H / stride)` and `w = ceil(W / stride)`.
    """
    out = jax.lax.conv_general_dilated(
        image[None], layer["weight"], (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )[0]
    return out + layer["bias"][None, None, :]


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(H, W, C) of an image of that shape; C is 1 if the shape does not name it.

    Raises:
        ValueError: the shape is not that of an image.
    """
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ValueError(f"an image has the shape (H, W) or (H, W, C), all at least one, got {tuple(shape)}")
    return (shape[0], shape[1], shape[2] if len(shape) == 3 else 1)
