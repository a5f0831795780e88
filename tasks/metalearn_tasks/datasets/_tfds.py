"""Data sets prepared by tensorflow-datasets, read without TensorFlow and without a network.

Preparing an image data set needs TensorFlow and a download; reading one in array_record format needs neither.
So nothing here prepares: what is not on this machine is answered with the command that puts it there.

`tfds build` is not that command: in tensorflow-datasets 4.9.10 it also wants apache_beam, which the Python
call does not. The Python call wants importlib_resources, which tensorflow-datasets does not install.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np

from metalearn.errors import DataNotPreparedError, UnknownNameError, unknown_name

_NAME = re.compile(r"(?P<set>\w+)(/(?P<config>[\w.+-]+))?(:(?P<version>[\d.*]+))?")
_NOISE = ("OpenCV is not installed", "Variant folder")  # absl messages that say nothing to our caller


def read(source: str, data_dir: str | os.PathLike[str] | None, bundled: list[str]) -> dict[str, tuple[Any, Any]]:
    """Read a data set by its tensorflow-datasets name: `mnist`, `emnist/letters`, `mnist:3.0.1`.

    Args:
        source: the name; one that tensorflow-datasets does not know is still read when `data_dir` holds it.
        data_dir: where data sets were prepared; None for tensorflow-datasets' own default.
        bundled: the names of the bundled sets, for the message about an unknown name.

    Returns:
        The splits there are, name -> `(X, y)`; X a list where the images have different sizes.

    Raises:
        UnknownNameError: when nobody knows the name.
        DataNotPreparedError: when the data set is not on this machine, or not readable.
        ValueError: when it is no classification of images or numeric arrays.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import constants, read_only_builder, registered

    match = _NAME.fullmatch(source)
    if match is None:
        raise _unknown(source, bundled)
    folder = None if data_dir is None else os.path.expanduser(data_dir)
    again = f"Remove what is there and prepare it again:\n  {prepare_command(source, folder)}"
    try:
        # Not tfds.builder: for a set that is not prepared it asks a storage bucket for metadata.
        builder = read_only_builder.builder_from_files(source, data_dir=folder)
    except registered.DatasetNotFoundError:
        if match["set"] not in tfds.list_builders(with_community_datasets=False):
            raise _unknown(source, bundled) from None
        _check_config(match["set"], match["config"])
        where = folder if folder is not None else constants.get_default_data_dir()
        raise DataNotPreparedError(
            f"data set {source!r} is not prepared in {where}. Prepare it once (this downloads it):\n"
            f"  {prepare_command(source, folder)}"
        ) from None
    except Exception as error:
        raise DataNotPreparedError(f"data set {source!r} cannot be opened: {error}\n{again}") from error
    return _read_builder(builder, again)


def read_folder(folder: Path) -> tuple[str, dict[str, tuple[Any, Any]]]:
    """Read the folder of a prepared data set: the one with dataset_info.json, or one above it.

    Args:
        folder: the folder.

    Returns:
        The data set's name, and its splits as `read`.

    Raises:
        DataNotPreparedError: when there is no data set, or not a readable one.
        ValueError: when there are several, or it is no classification of images or numeric arrays.
    """
    if not folder.is_dir():
        raise DataNotPreparedError(f"no such folder: {folder}")
    found: list[Path] = []
    for below in ("", "*/", "*/*/", "*/*/*/"):  # version, name/version, name/configuration/version
        found = found or sorted(path.parent for path in folder.glob(below + "dataset_info.json"))
    if not found:
        raise DataNotPreparedError(
            f"{folder} holds no data set prepared by tensorflow-datasets: no dataset_info.json in it "
            f"or up to three folders below. Prepare one with\n  {prepare_command('NAME', folder)}"
        )
    if len(found) > 1:
        raise ValueError(f"{folder} holds several data sets, name one of: {', '.join(map(str, found))}")
    import tensorflow_datasets as tfds

    again = "Remove it and prepare it again."
    try:
        builder = tfds.builder_from_directory(found[0])
    except Exception as error:
        raise DataNotPreparedError(f"{found[0]} cannot be opened as a data set: {error}\n{again}") from error
    return builder.name, _read_builder(builder, again)


def prepare_command(name: str, data_dir: str | os.PathLike[str] | None) -> str:
    """The shell command that downloads `name` and prepares it in array_record format in `data_dir`."""
    place = "" if data_dir is None else f", data_dir={os.fspath(data_dir)!r}"
    call = f"tfds.builder({name!r}, file_format='array_record'{place}).download_and_prepare()"
    program = shlex.quote(f"import tensorflow_datasets as tfds; {call}")
    if '"' not in call and not set(call) & set("$`\\!"):
        program = f'"import tensorflow_datasets as tfds; {call}"'  # the same to a shell, and readable
    return f"pip install tensorflow importlib_resources && python -c {program}"


def _unknown(name: str, bundled: list[str]) -> UnknownNameError:
    import difflib

    import tensorflow_datasets as tfds

    # All names of tensorflow-datasets would be a page; the nearest of them are what helps.
    near = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False), n=3, cutoff=0.6)
    return UnknownNameError(
        f"{unknown_name('data set', name, [*bundled, *near])} Also right: any name that "
        "tensorflow_datasets.list_builders(with_community_datasets=False) gives, a data set of your own "
        "in `data_dir`, or the path of a prepared folder that exists (./folder, /path/to/folder)."
    )


def _check_config(name: str, config: str | None) -> None:
    import tensorflow_datasets as tfds

    if config is None:
        return
    try:
        known = tfds.builder_cls(name).builder_configs
    except Exception:  # a builder whose code wants packages that are not here: preparing it will say so
        return
    if config not in known:
        raise unknown_name(f"configuration of {name}", config, known)


def _read_builder(builder: Any, again: str) -> dict[str, tuple[Any, Any]]:
    """Every example of the splits that `load` uses: train, and test or else validation."""
    import tensorflow_datasets as tfds

    info, name = builder.info, builder.info.full_name
    keys = info.supervised_keys
    if not (isinstance(keys, tuple) and len(keys) == 2 and all(isinstance(k, str) for k in keys)):
        raise ValueError(f"{name} says not which feature to predict from which: its supervised_keys are {keys!r}")
    feature = info.features[keys[0]]
    plain = isinstance(feature, tfds.features.Tensor | tfds.features.Image)
    # Text is a Tensor too, of bytes.
    if not plain or np.dtype(cast(Any, feature).np_dtype).kind not in "buif":
        raise ValueError(f"{name}: inputs must be images or numeric arrays, {keys[0]!r} is {feature!r}")
    if "train" not in info.splits:
        raise ValueError(f"{name} has no split 'train', only {', '.join(map(repr, info.splits)) or 'none at all'}")
    wanted = ["train", *[s for s in ("test", "validation") if s in info.splits][:1]]
    try:
        with _quiet():
            return {split: _columns(builder.as_data_source(split=split), *keys) for split in wanted}
    except NotImplementedError as error:
        raise DataNotPreparedError(
            f"{name} in {builder.data_path} is prepared as {info.file_format.value}, which cannot be read "
            "without TensorFlow. Prepare it as array_record in another folder, and give that as data_dir:\n"
            f"  {prepare_command(builder.name, 'OTHER_FOLDER')}"
        ) from error
    except Exception as error:
        raise DataNotPreparedError(f"{name} in {builder.data_path} cannot be read: {error}\n{again}") from error


def _columns(source: Any, inputs: str, label: str) -> tuple[Any, Any]:
    rows = [(row[inputs], row[label]) for row in source]
    x, y = [np.asarray(row[0]) for row in rows], np.asarray([row[1] for row in rows])
    return (x if len({image.shape for image in x}) > 1 else np.asarray(x)), y


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop the log lines in `_NOISE`, and only those, for as long as the context lasts."""

    def keep(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(_NOISE)

    logger = logging.getLogger("absl")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
