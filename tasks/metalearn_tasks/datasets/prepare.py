"""Preparing arrays: resizing of images, normalisation, principal components, with the training split's statistics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

_ROWS = 4096  # converted and reduced at a time: the float64 copies stay small


def _rows(x: np.ndarray) -> Iterator[np.ndarray]:
    return (x[start : start + _ROWS] for start in range(0, len(x), _ROWS))


def _floats(x: np.ndarray, split: str) -> np.ndarray:
    """`uint8` to [0, 1]; everything else keeps its values, in float64 where float32 could not hold them."""
    if x.dtype == np.uint8:
        return np.divide(x, np.float32(255), dtype=np.float32)
    x = x.astype(np.float32 if np.can_cast(x.dtype, np.float32) else np.float64)
    if not np.isfinite(x).all():
        raise ValueError(f"the {split} inputs must be finite, got {np.sum(~np.isfinite(x))} NaN or infinite values")
    return x


def _resized(x: np.ndarray, size: int, split: str) -> np.ndarray:
    """Images `[N, H, W(, C)]` as floats `[N, size, size(, C)]`: one small matrix for each axis."""
    if x.ndim not in (3, 4):
        raise ValueError(f"size={size} needs images [N, H, W] or [N, H, W, C], the {split} inputs are {x.shape}")
    height, width = x.shape[1:3]
    down, across = _resize_matrix(height, size), _resize_matrix(width, size)
    chunks = []
    for chunk in _rows(x):
        chunk = _floats(chunk, split)
        n = len(chunk)
        chunk = down.astype(chunk.dtype) @ chunk.reshape(n, height, -1)
        chunk = across.astype(chunk.dtype) @ chunk.reshape(n, size, width, -1)
        chunks.append(chunk.reshape(n, size, size, *x.shape[3:]))
    return np.concatenate(chunks)


def _resize_matrix(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Antialiased bilinear interpolation of one axis: triangles as wide as the wider kind of pixel."""
    centre = (np.arange(new)[:, None] + 0.5) * (old / new) - 0.5
    weight = np.maximum(0.0, 1.0 - np.abs(centre - np.arange(old)) / max(old / new, 1.0))
    return weight / weight.sum(1, keepdims=True)


def _moments(x: np.ndarray, axis: int | None) -> tuple[Any, Any]:
    """Mean and standard deviation over the rows (axis 0) or over everything (None), summed in float64."""
    count = x.size if axis is None else len(x)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = sum(chunk.sum(axis, dtype=np.float64) for chunk in _rows(x)) / count
        square = sum(np.square(chunk - mean).sum(axis) for chunk in _rows(x)) / count
    if not np.isfinite(square).all():
        raise ValueError(f"the training inputs are too large to square: up to {np.abs(x).max():.3g}")
    return mean, np.sqrt(square)


def _column_scale(train: np.ndarray) -> tuple[Any, Any]:
    mean, std = _moments(train, 0)
    # A constant column is only centred. Rounding can leave it a deviation of 1e-17, hence the comparison.
    return mean, np.where((std > 0) & (train.max(0) > train.min(0)), std, 1.0)


def _scalar_scale(train: np.ndarray) -> tuple[Any, Any]:
    if train.max() == train.min():
        raise ValueError(f"all training inputs equal {train.flat[0]}: there is nothing to tell the classes by")
    mean, std = _moments(train, None)
    return mean, std + 1e-8  # as the authors' code


def _normalised(train: np.ndarray, test: np.ndarray, mean: Any, scale: Any) -> tuple[np.ndarray, np.ndarray]:
    mean, scale = np.asarray(mean, train.dtype), np.asarray(scale, train.dtype)
    with np.errstate(over="ignore"):  # a test input beyond all measure becomes infinite, which _split refuses
        return (train - mean) / scale, (test.astype(train.dtype) - mean) / scale


def _principal(train: np.ndarray, test: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Both splits on the first `count` principal axes of `train`; each axis' largest entry is positive."""
    if count > min(train.shape):
        n, d = train.shape
        raise ValueError(f"pca={count}, but {n} training examples of {d} inputs have at most {min(n, d)} components")
    centre, _ = _moments(train, 0)
    if len(train) > train.shape[1]:  # the axes of the scatter matrix, which is then the smaller
        scatter = sum(((rest := chunk - centre).T @ rest for chunk in _rows(train)), np.zeros(()))
        axes = np.linalg.eigh(scatter)[1][:, ::-1].T[:count]
    else:
        axes = np.linalg.svd(train - centre, full_matrices=False)[2][:count]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1)
    axes = axes * np.sign(largest)
    train, test = (np.concatenate([(chunk - centre) @ axes.T for chunk in _rows(x)]) for x in (train, test))
    return train, test
