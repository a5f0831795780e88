"""Prepare arrays: resize images, normalise, project on principal components.

The order in which `load` calls these functions is that of Kirsch et al. 2022 (arXiv 2212.04458). Every statistic is
computed from the training split alone and applied to both splits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Float, Shaped

__all__ = [
    "column_statistics",
    "normalise",
    "project_on_principal_axes",
    "resize_images",
    "scalar_statistics",
    "to_floats",
]

_ROWS = 4096  # Rows are converted and summed in chunks of this many, so that their float64 copies stay small.


def to_floats(x: Shaped[np.ndarray, "..."], split: str) -> Float[np.ndarray, "..."]:
    """Convert inputs to floats: `uint8` is divided by 255, all other values stay as they are.

    Args:
        x: real numbers.
        split: name of the split, for the error.

    Returns:
        float32, or float64 for types whose values float32 cannot hold.

    Raises:
        ValueError: NaN or infinite values.
    """
    if x.dtype == np.uint8:
        return np.divide(x, np.float32(255), dtype=np.float32)
    x = x.astype(np.float32 if np.can_cast(x.dtype, np.float32) else np.float64)
    if not np.isfinite(x).all():
        raise ValueError(f"the {split} inputs must be finite, got {np.sum(~np.isfinite(x))} NaN or infinite values")
    return x


def resize_images(x: Shaped[np.ndarray, "N *S"], size: int, split: str) -> Float[np.ndarray, "N {size} {size} *C"]:
    """Resize images to `size` x `size` by antialiased bilinear interpolation, whatever their aspect ratio.

    Args:
        x: images `[N, H, W]` or `[N, H, W, C]`, which are converted by `to_floats`.
        size: the new height and width.
        split: name of the split, for the error.

    Raises:
        ValueError: inputs that are not images, or values that are not finite.
    """
    if x.ndim not in (3, 4):
        raise ValueError(f"size={size} needs images [N, H, W] or [N, H, W, C], the {split} inputs are {x.shape}")
    height, width = x.shape[1:3]
    down, across = _resize_matrix(height, size), _resize_matrix(width, size)
    chunks = []
    for chunk in _chunks(x):
        rows = rearrange(to_floats(chunk, split), "n h w ... -> n h (w ...)")
        rows = down.astype(rows.dtype) @ rows
        pixels = across.astype(rows.dtype) @ rearrange(rows, "n h (w c) -> n h w c", w=width)
        chunks.append(pixels if x.ndim == 4 else rearrange(pixels, "n h w 1 -> n h w"))
    return np.concatenate(chunks)


def column_statistics(train: Float[np.ndarray, "N D"]) -> tuple[Float[np.ndarray, " D"], Float[np.ndarray, " D"]]:
    """Compute the mean and the standard deviation of each column; the deviation of a constant column is set to 1.

    Raises:
        ValueError: values too large to square.
    """
    mean, std = _moments(train, 0)
    # Rounding can leave a constant column a deviation of 1e-17, hence the comparison of its extremes.
    return mean, np.where((std > 0) & (train.max(0) > train.min(0)), std, 1.0)


def scalar_statistics(train: Float[np.ndarray, "N D"]) -> tuple[np.float64, np.float64]:
    """Compute one mean and one standard deviation over everything; 1e-8 is added to the deviation.

    Raises:
        ValueError: all values are equal, or too large to square.
    """
    if train.max() == train.min():
        raise ValueError(f"all training inputs equal {train.flat[0]}: there is nothing to tell the classes by")
    mean, std = _moments(train, None)
    return mean, std + 1e-8  # The same constant as in the authors' code.


def normalise(
    train: Float[np.ndarray, "N D"], test: Float[np.ndarray, "M D"], mean: Any, scale: Any
) -> tuple[Float[np.ndarray, "N D"], Float[np.ndarray, "M D"]]:
    """Compute `(x - mean) / scale` for both splits, in the float type of `train`.

    Args:
        train: training inputs.
        test: test inputs.
        mean: one number, or one per column.
        scale: one number, or one per column.
    """
    mean, scale = np.asarray(mean, train.dtype), np.asarray(scale, train.dtype)
    with np.errstate(over="ignore"):  # A test input too large for the float type becomes infinite; `load` refuses it.
        return (train - mean) / scale, (test.astype(train.dtype) - mean) / scale


def project_on_principal_axes(
    train: Float[np.ndarray, "N D"], test: Float[np.ndarray, "M D"], count: int
) -> tuple[Float[np.ndarray, "N {count}"], Float[np.ndarray, "M {count}"]]:
    """Project both splits on the first `count` principal axes of `train`; the largest entry of each axis is positive.

    Raises:
        ValueError: `count` exceeds the number of principal axes.
    """
    if count > min(train.shape):
        n, d = train.shape
        raise ValueError(f"pca={count}, but {n} training examples of {d} inputs have at most {min(n, d)} components")
    centre, _ = _moments(train, 0)
    if len(train) > train.shape[1]:  # The D x D scatter matrix is smaller than the inputs and has the same axes.
        scatter = sum(((rest := chunk - centre).T @ rest for chunk in _chunks(train)), np.zeros(()))
        axes = np.linalg.eigh(scatter)[1][:, ::-1].T[:count]
    else:
        axes = np.linalg.svd(train - centre, full_matrices=False)[2][:count]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1)
    axes = axes * np.sign(largest)
    train, test = (np.concatenate([(chunk - centre) @ axes.T for chunk in _chunks(x)]) for x in (train, test))
    return train, test


def _chunks(x: np.ndarray) -> Iterator[np.ndarray]:
    return (x[start : start + _ROWS] for start in range(0, len(x), _ROWS))


def _resize_matrix(old: int, new: int) -> Float[np.ndarray, "{new} {old}"]:
    """Antialiased bilinear interpolation along one axis: triangles as wide as the larger of the two pixel sizes."""
    centre = (np.arange(new)[:, None] + 0.5) * (old / new) - 0.5
    weight = np.maximum(0.0, 1.0 - np.abs(centre - np.arange(old)) / max(old / new, 1.0))
    return weight / weight.sum(1, keepdims=True)


def _moments(x: np.ndarray, axis: int | None) -> tuple[Any, Any]:
    """Mean and standard deviation over the rows (axis 0) or over everything (None), summed in float64."""
    count = x.size if axis is None else len(x)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = sum(chunk.sum(axis, dtype=np.float64) for chunk in _chunks(x)) / count
        square = sum(np.square(chunk - mean).sum(axis) for chunk in _chunks(x)) / count
    if not np.isfinite(square).all():
        raise ValueError(f"the training inputs are too large to square: up to {np.abs(x).max():.3g}")
    return mean, np.sqrt(square)
