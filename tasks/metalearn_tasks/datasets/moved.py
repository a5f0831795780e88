"""Moved copies of images: each image once as it is, and again a little shifted, turned and scaled.

A learner that is meta-trained on few images comes to know them. What a person would still call the same image, moved a
little, is another example of its class (Simard, Steinkraus and Platt 2003, Best Practices for Convolutional Neural
Networks). The copies are made once, before meta-training, so its steps cost what they did.
"""

from __future__ import annotations

import numpy as np
from einops import rearrange
from jaxtyping import Float
from scipy.ndimage import affine_transform

__all__ = ["move", "moved_copies"]

SHIFT = 0.1
"""Largest shift along each axis, as a fraction of the image's height or width."""
DEGREES = 12.0
"""Largest turn, either way."""
SCALE = 1.1
"""Largest factor by which an image grows or shrinks."""


def moved_copies(images: Float[np.ndarray, "N *S"], count: int, seed: int) -> Float[np.ndarray, "M *S"]:
    """Draw copies of all images, each with a shift, a turn and a scale of its own, uniform up to the limits above.

    Args:
        images: `[N, H, W]` or `[N, H, W, C]`.
        count: copies per image.
        seed: decides the movements.

    Returns:
        M = count N images, all of the first copy before those of the second. The first copies do not depend on `count`.

    Raises:
        ValueError: the inputs are no images.
    """
    if images.ndim not in (3, 4):
        raise ValueError(
            f"copies={count + 1} needs images [N, H, W] or [N, H, W, C], an example here is {images.shape[1:]}"
        )
    rng = np.random.default_rng([seed, 1])  # [seed] splits the examples
    draws = rng.uniform(-1, 1, (count, len(images), 4))
    limits = (SHIFT * images.shape[1], SHIFT * images.shape[2], DEGREES, np.log(SCALE))
    copies = np.empty((count, *images.shape), images.dtype)
    for copy, moves in zip(copies, draws * limits, strict=True):
        for row, (down, right, degrees, growth) in enumerate(moves):
            copy[row] = move(images[row], (down, right), degrees, np.exp(growth))
    return rearrange(copies, "k n ... -> (k n) ...")


def move(
    image: Float[np.ndarray, "H W *C"], shift: tuple[float, float], degrees: float, scale: float
) -> Float[np.ndarray, "H W *C"]:
    """Scale an image about its centre, turn it anticlockwise, then shift it.

    Pixels between pixels are those of a cubic spline, which blurs less than lines do, within the image's own range.
    Past its edges an image goes on as its edges are.

    Args:
        image: one image.
        shift: pixels down and to the right.
        degrees: the turn.
        scale: 2 shows it twice as large.
    """
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / scale
    centre = (np.array(image.shape[:2]) - 1) / 2
    # From a place in the new image to its place in the old one.
    places = np.column_stack([turn, centre - turn @ (centre + np.asarray(shift))])
    planes = rearrange(image, "h w ... -> h w (...)")
    moved = [affine_transform(plane, places, order=3, mode="nearest") for plane in np.moveaxis(planes, -1, 0)]
    return np.clip(np.stack(moved, -1).reshape(image.shape), image.min(), image.max())
