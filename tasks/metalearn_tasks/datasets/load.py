"""Load classification data sets as flat, normalised float arrays: bundled, by name, from a folder, or your own arrays.

The preprocessing is that of Kirsch, Harrison, Sohl-Dickstein and Metz (2022, arXiv 2212.04458): images are resized,
flattened, and normalised by one mean and one standard deviation over all examples and pixels. In order:

1. images to [0, 1], then to `size` x `size` by antialiased bilinear interpolation;
2. the split of the examples, if the source has no test split of its own;
3. with `copies`, the training images again, a little moved (`moved`); from here on they are treated as test images are,
   so that no statistic and no test image depends on them;
4. tables only: every column is standardised, because columns have units of their own. Pixels share one unit, so images
   (and `uint8` tables, which are flattened images) skip this step: standardising a pixel that is nearly always black
   would blow up the few examples in which it is not;
5. the scalar normalisation;
6. with `pca`, the leading principal components, then the scalar normalisation once more.

Every statistic is computed from the training split alone. scikit-learn and tensorflow-datasets are imported only when
they are needed.
"""

from __future__ import annotations

import dataclasses
import numbers
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int

from metalearn_tasks.datasets import _bundled, _files, _tfds
from metalearn_tasks.datasets._frames import as_list, columns_of, encode, encode_splits, fit_encoding, is_frame
from metalearn_tasks.datasets.moved import moved_copies
from metalearn_tasks.datasets.places import is_folder_name
from metalearn_tasks.datasets.prepare import (
    column_statistics,
    normalise,
    project_on_principal_axes,
    resize_images,
    scalar_statistics,
    to_floats,
)

__all__ = ["Dataset", "Split", "load", "names"]


class Split(NamedTuple):
    """Labelled examples, a pytree to pass to a compiled function.

    Attributes:
        inputs: float32.
        labels: int32, from 0 to C - 1.
    """

    inputs: Float[np.ndarray | Array, "N D"]
    labels: Int[np.ndarray | Array, " N"]


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A classification data set, ready to learn from.

    Attributes:
        name: name of the data set.
        train: examples for meta-training; all statistics come from them.
        test: examples for meta-testing.
        classes: C, the number of classes in train and test together.
        shape: shape of one example after the resize, before flattening and projection.
        origin: where the two splits come from, in words.
    """

    name: str
    train: Split
    test: Split
    classes: int
    shape: tuple[int, ...]
    origin: str

    @property
    def inputs(self) -> int:
        """D, the width of one example."""
        return self.train.inputs.shape[1]


def names() -> dict[str, str]:
    """List the data sets that need no download, as name -> description in one line."""
    return dict(_bundled.NAMES)


def load(
    source: Any = "digits",
    *,
    size: int | None = None,
    pca: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    test_fraction: float = 0.221,
    seed: int = 0,
    copies: int = 1,
) -> Dataset:
    """Load a data set and prepare it as described at the top of this module. Nothing is ever downloaded.

    Args:
        source: one of `names()`; or a name of tensorflow-datasets (`"mnist"`, `"emnist/letters"`, `"mnist:3.0.1"`); or
            a folder that tensorflow-datasets prepared, as a path object or as a string that begins with `.`, `~` or
            a root, or that has a separator and exists; or a file, `FILE.npz` with arrays X and y or X_train, y_train,
            X_test and y_test, `FILE.csv` with the labels in the last column, or `FILE.csv:LABEL` with the labels in
            the column LABEL; or a frame of pandas or polars with the labels in the last column; or arrays or frames
            `(X, y)` or `(X_train, y_train, X_test, y_test)`, X `[N, ...]` numbers, y `[N]` or one column, integers or
            anything hashable. Columns of texts are categories: each becomes a column of 0 and 1 per text of the
            training examples. Columns of a test frame are matched by name.
        size: height and width to which images are resized, whatever their aspect ratio. None: no resize. Arrays
            `[N, H, W]` and `[N, H, W, C]` are images.
        pca: number of principal components to keep. None: the inputs stay as they are.
        data_dir: where tensorflow-datasets finds names. None: its own default, `TFDS_DATA_DIR` or
            `~/tensorflow_datasets`.
        test_fraction: fraction of the examples drawn at random as the test split, if the source has none. The default
            leaves 1,400 of the 1,797 digits for training. A split named test, or else validation, is used as it is.
        seed: seed of the random split, of the images of `"random"`, and of the movements of copies.
        copies: how many times each training image is there: once as it is, then shifted, turned and scaled a little.

    Returns:
        The data set, as NumPy arrays on the host. Labels are numbered in sorted order; labels that only the test split
        has come last, so nothing about `train` depends on the test split.

    Raises:
        UnknownNameError: neither a bundled name nor one that tensorflow-datasets knows.
        DataNotPreparedError: the data set is not on this machine; the message has the command that prepares it.
        ValueError: arguments or arrays out of range; the message says what was got and what would be right.
    """
    for count_name, count in (("size", size), ("pca", pca)):
        if count is not None:
            _check_count(count_name, count, ", or None")
    _check_count("copies", copies)
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed must be an integer of at least 0, got {seed!r}")
    if not isinstance(test_fraction, numbers.Real) or not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must be a number between 0 and 1, both excluded, got {test_fraction!r}")

    name, splits = _read_source(source, size, data_dir, int(seed))
    splits = encode_splits(splits)
    held_out = next((split for split in splits if split != "train"), None)
    x, table = _read_inputs(splits["train"][0], size, "train")
    if held_out is None:
        y, _, classes = _number_labels(_read_labels(splits["train"][1], len(x), "train"), [])
        rows, held = _draw_split(len(x), test_fraction, int(seed))
        x, x_test, y, y_test = x[rows], x[held], y[rows], y[held]
        origin = f"train and test drawn at random with seed {seed}"
    else:
        x_test, _ = _read_inputs(splits[held_out][0], size, held_out)
        if x.shape[1:] != x_test.shape[1:]:
            raise ValueError(f"an example is {x.shape[1:]} in train but {x_test.shape[1:]} in {held_out}")
        labels = _read_labels(splits["train"][1], len(x), "train")
        y, y_test, classes = _number_labels(labels, _read_labels(splits[held_out][1], len(x_test), held_out))
        same = splits[held_out] is splits["train"]
        origin = f"the source's own splits, train and {held_out}" + (", the same examples" if same else "")
    if y.min() == y.max():
        raise ValueError(f"all {len(y)} training examples have the same label; at least two classes are needed")

    shape, moved = x.shape[1:], 0
    if copies > 1:
        x_moved = moved_copies(x, copies - 1, int(seed))
        moved, x_test = len(x_moved), np.concatenate([x_moved.astype(x_test.dtype), x_test])
        y = np.tile(y, copies)
    x, x_test = rearrange(x, "n ... -> n (...)"), rearrange(x_test, "n ... -> n (...)")
    if table:
        x, x_test = normalise(x, x_test, *column_statistics(x))
    x, x_test = normalise(x, x_test, *scalar_statistics(x))
    if pca is not None:
        x, x_test = project_on_principal_axes(x, x_test, pca)
        x, x_test = normalise(x, x_test, *scalar_statistics(x))
    x, x_test = np.concatenate([x, x_test[:moved]]), x_test[moved:]
    return Dataset(name, _make_split(x, y), _make_split(x_test, y_test), classes, shape, origin)


def _check_count(name: str, value: Any, otherwise: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1{otherwise}, got {value!r}")


def _read_source(source: Any, size: int | None, data_dir: Any, seed: int) -> tuple[str, dict[str, tuple[Any, Any]]]:
    """The name of the source, and its raw splits as name -> `(X, y)`, "train" first."""
    if isinstance(source, tuple):
        if len(source) not in (2, 4):
            raise ValueError(f"source must be (X, y) or (X_train, y_train, X_test, y_test), got {len(source)} items")
        return "arrays", dict(zip(("train", "test"), zip(source[::2], source[1::2], strict=True), strict=False))
    if is_frame(source):
        columns = columns_of(source)
        if len(columns) < 2:
            raise ValueError(f"a frame needs columns of inputs and then one of labels, got {len(columns)} columns")
        labels = columns.pop(next(reversed(columns)))
        return "frame", {"train": (encode(fit_encoding(columns, "the frame"), columns, "the frame"), labels)}
    if isinstance(source, str | os.PathLike) and _files.is_file_name(os.fspath(source)):
        if not Path(source).expanduser().is_dir():
            return _files.read(os.fspath(source))
    if isinstance(source, os.PathLike):
        return _tfds.read_folder(Path(source).expanduser())
    if not isinstance(source, str):
        raise ValueError(f"source must be a name, a path, a frame or a tuple of arrays, got {type(source).__name__}")
    if source in _bundled.NAMES:
        return source, _bundled.read(source, size, seed)
    if is_folder_name(source):
        return _tfds.read_folder(Path(source).expanduser())
    return source, _tfds.read(source, data_dir, list(_bundled.NAMES))


def _read_inputs(raw: Any, size: int | None, split: str) -> tuple[np.ndarray, bool]:
    """Inputs as floats `[N, ...]`, resized, and whether they are a table whose columns have units of their own."""
    if hasattr(raw, "toarray"):
        raise ValueError(f"the {split} inputs are a sparse matrix: give its .toarray()")
    try:
        x = np.asarray(raw)
    except ValueError:  # NumPy refuses rows of different shapes.
        if size is None:
            raise ValueError(f"the {split} inputs have different shapes; give images one shape with size=...") from None
        images = [resize_images(np.asarray(image)[None], size, split) for image in raw]
        if len({image.shape for image in images}) > 1:
            raise ValueError(f"the {split} images have different numbers of channels") from None
        return np.concatenate(images), False
    if x.dtype.kind not in "buif" or x.dtype.itemsize > 8:
        raise ValueError(f"the {split} inputs must be real numbers of at most 64 bits, got dtype {x.dtype}")
    if x.ndim < 2 or x.size == 0:
        raise ValueError(f"the {split} inputs must be [N, ...] with no empty axis, got shape {x.shape}")
    table = x.ndim == 2 and x.dtype != np.uint8
    return (to_floats(x, split) if size is None else resize_images(x, size, split)), table


def _read_labels(raw: Any, count: int, split: str) -> list[Any]:
    """Labels as a list of `count` hashable values."""
    if is_frame(raw):
        columns = columns_of(raw)
        if len(columns) != 1:
            raise ValueError(f"the {split} labels must be one column, got a frame with {', '.join(columns) or 'none'}")
        (labels,) = columns.values()
    elif np.ndim(raw) == 0 if isinstance(raw, np.ndarray) else not hasattr(raw, "__len__") or isinstance(raw, str):
        raise ValueError(f"the {split} labels must be a list or an array of {count} labels, got {raw!r}")
    elif isinstance(raw, dict | set | frozenset):
        raise ValueError(f"the {split} labels must be in order, as a list or an array, got a {type(raw).__name__}")
    else:
        labels = as_list(raw)
    if len(labels) != count:
        raise ValueError(f"the {split} split has {count} inputs and needs {count} labels, got {len(labels)} labels")
    if all(isinstance(label, list) and len(label) == 1 for label in labels):  # an array [N, 1]
        labels = [label for (label,) in labels]
    try:
        distinct = set(labels)
    except TypeError:
        raise ValueError(
            f"the {split} labels must be one hashable value per example, got {labels[0]!r} for the first"
        ) from None
    if any(label != label for label in distinct):
        raise ValueError(f"some {split} labels are NaN")
    real = [label for label in distinct if isinstance(label, float | np.floating) and not float(label).is_integer()]
    if real:
        raise ValueError(f"labels must name classes, got real numbers such as {real[0]!r} in {split}")
    return list(labels)


def _number_labels(labels: list[Any], more: list[Any]) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " M"], int]:
    """Both lists of labels as integers, and the number of different labels."""
    first = set(labels)
    order = [*_sort_labels(first), *_sort_labels(set(more) - first)]
    number = {label: i for i, label in enumerate(order)}
    first_numbers, more_numbers = (np.array([number[v] for v in part], np.int32) for part in (labels, more))
    return first_numbers, more_numbers, len(order)


def _sort_labels(labels: set[Any]) -> list[Any]:
    if all(isinstance(label, numbers.Real) for label in labels) or all(isinstance(label, str) for label in labels):
        return sorted(labels)
    return sorted(labels, key=lambda label: (type(label).__name__, repr(label)))  # These have no order of their own.


def _draw_split(count: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the training split and those of the test split."""
    held = round(count * fraction)
    if not 0 < held < count:
        raise ValueError(f"test_fraction={fraction} of {count} examples leaves one split empty")
    order = np.random.default_rng(seed).permutation(count)
    return order[held:], order[:held]


def _make_split(x: np.ndarray, y: np.ndarray) -> Split:
    with np.errstate(over="ignore"):
        x = np.ascontiguousarray(x, np.float32)
    if not np.isfinite(x).all():
        raise ValueError("some test inputs are too far from the training inputs: normalised, they overflow float32")
    return Split(x, y)
