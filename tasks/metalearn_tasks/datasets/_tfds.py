"""Read data sets that tensorflow-datasets prepared, without TensorFlow and without a network.

Preparing an image data set needs TensorFlow and a download. Reading one in array_record format needs neither. So this
module never prepares: if a data set is not on this machine, the error has the command that prepares it.

`tfds build` is not that command: in tensorflow-datasets 4.9.10 it also needs apache_beam, which the Python call does
not. The Python call needs importlib_resources, which tensorflow-datasets does not install.
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

_NAME = re.compile(r"(?P<set>[^\W\d]\w*)(/(?P<config>[\w.+-]+))?(:(?P<version>[\d.*]+))?")
_NOISE = ("OpenCV is not installed", "Variant folder")  # log messages of absl that are of no use to our caller


def read(source: str, data_dir: str | os.PathLike[str] | None, bundled: list[str]) -> dict[str, tuple[Any, Any]]:
    """Read a data set by its tensorflow-datasets name: `mnist`, `emnist/letters`, `mnist:3.0.1`.

    Args:
        source: the name. A name that tensorflow-datasets does not know is still read if `data_dir` has it.
        data_dir: where data sets were prepared. None: the default of tensorflow-datasets.
        bundled: names of the bundled sets, for the error about an unknown name.

    Returns:
        The splits of the set, name -> `(X, y)`; X is a list if the images have different sizes.

    Raises:
        UnknownNameError: neither tensorflow-datasets nor `data_dir` knows the name.
        DataNotPreparedError: the data set is not on this machine, or not readable.
        ValueError: the data set is not a classification of images or numeric arrays.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import constants, read_only_builder, registered

    match = _NAME.fullmatch(source)
    if match is None:
        raise _unknown(source, bundled)
    folder = None if data_dir is None else os.path.expanduser(data_dir)
    again = f"Remove it and prepare it again:\n  {prepare_command(source, folder)}"
    try:
        # Not tfds.builder, which looks up the metadata of an unprepared set over the network.
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
    """Read the folder of a prepared data set.

    Args:
        folder: the folder that has dataset_info.json, or one up to three levels above it.

    Returns:
        The name of the data set, and its splits in the form that `read` returns.

    Raises:
        DataNotPreparedError: the folder has no data set, or no readable one.
        ValueError: the folder has several data sets, or one that is not a classification of images or numeric arrays.
    """
    if folder.is_file():
        raise DataNotPreparedError(
            f"{folder} is neither a folder nor an .npz or .csv file: save its table as one of these"
        )
    if not folder.is_dir():
        raise DataNotPreparedError(f"there is no folder {folder}")
    folders: list[Path] = []
    for below in ("", "*/", "*/*/", "*/*/*/"):  # version, name/version, name/configuration/version
        folders = folders or sorted(path.parent for path in folder.glob(below + "dataset_info.json"))
    if not folders:
        raise DataNotPreparedError(
            f"{folder} has no data set prepared by tensorflow-datasets: there is no dataset_info.json in it "
            f"or up to three levels below. Prepare one with\n  {prepare_command('NAME', folder)}"
        )
    if len(folders) > 1:
        raise ValueError(f"{folder} has several data sets, give the path of one: {', '.join(map(str, folders))}")
    import tensorflow_datasets as tfds

    again = "Remove it and prepare it again."
    try:
        builder = tfds.builder_from_directory(folders[0])
    except Exception as error:
        raise DataNotPreparedError(f"{folders[0]} cannot be opened as a data set: {error}\n{again}") from error
    return builder.name, _read_builder(builder, again)


def prepare_command(name: str, data_dir: str | os.PathLike[str] | None) -> str:
    """Format the shell command that downloads `name` and prepares it in array_record format in `data_dir`."""
    place = "" if data_dir is None else f", data_dir={os.fspath(data_dir)!r}"
    call = f"tfds.builder({name!r}, file_format='array_record'{place}).download_and_prepare()"
    program = shlex.quote(f"import tensorflow_datasets as tfds; {call}")
    if '"' not in call and not set(call) & set("$`\\!"):
        program = f'"import tensorflow_datasets as tfds; {call}"'  # Means the same to a shell, and is easier to read.
    return f"pip install tensorflow importlib_resources && python -c {program}"


def _unknown(name: str, bundled: list[str]) -> UnknownNameError:
    import difflib

    import tensorflow_datasets as tfds

    # All names of tensorflow-datasets would fill a page, so only the nearest ones are listed.
    near = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False), n=3, cutoff=0.6)
    return UnknownNameError(
        f"{unknown_name('data set', name, [*bundled, *near])} Also allowed: any name in "
        "tensorflow_datasets.list_builders(with_community_datasets=False), a data set of your own in `data_dir`, "
        "the path of an existing prepared folder (./folder, /path/to/folder), or a file of your own (.npz, .csv)."
    )


def _check_config(name: str, config: str | None) -> None:
    import tensorflow_datasets as tfds

    if config is None:
        return
    try:
        known = tfds.builder_cls(name).builder_configs
    except Exception:  # The builder needs packages that are not installed; preparing the set will say so.
        return
    if config not in known:
        raise unknown_name(f"configuration of {name}", config, known)


def _read_builder(builder: Any, again: str) -> dict[str, tuple[Any, Any]]:
    """All examples of the splits that `load` uses: train, and test or else validation."""
    import tensorflow_datasets as tfds

    info, name = builder.info, builder.info.full_name
    keys = info.supervised_keys
    if not (isinstance(keys, tuple) and len(keys) == 2 and all(isinstance(k, str) for k in keys)):
        raise ValueError(f"{name} does not say which feature to predict from which: its supervised_keys are {keys!r}")
    feature = info.features[keys[0]]
    plain = isinstance(feature, tfds.features.Tensor | tfds.features.Image)
    # Text is also a Tensor, of bytes.
    if not plain or np.dtype(cast(Any, feature).np_dtype).kind not in "buif":
        raise ValueError(f"the inputs of {name} must be images or numeric arrays, but {keys[0]!r} is {feature!r}")
    if "train" not in info.splits:
        raise ValueError(f"{name} has no split 'train', only {', '.join(map(repr, info.splits)) or 'none'}")
    wanted = ["train", *[s for s in ("test", "validation") if s in info.splits][:1]]
    try:
        with _quiet():
            return {split: _columns(builder.as_data_source(split=split), *keys) for split in wanted}
    except NotImplementedError as error:
        raise DataNotPreparedError(
            f"{name} in {builder.data_path} is prepared as {info.file_format.value}, which cannot be read "
            "without TensorFlow. Prepare it as array_record in another folder, and give that folder as data_dir:\n"
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
    """Drop the log lines in `_NOISE`, and no others, inside this context."""

    def keep(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(_NOISE)

    logger = logging.getLogger("absl")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
