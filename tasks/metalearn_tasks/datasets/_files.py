"""Read a data set of one's own from a file: arrays from `.npz`, a table from `.csv`."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from metalearn.errors import DataNotPreparedError, unknown_name
from metalearn_tasks.datasets._frames import encode, fit_encoding, is_missing

_SOURCE = re.compile(r"(?P<path>.*\.(?P<kind>npz|csv))(:(?P<label>.*))?", re.IGNORECASE | re.DOTALL)
_INPUTS, _LABELS = ("x", "inputs", "data"), ("y", "labels", "target")
_NEEDS = "X and y, or X_train, y_train, X_test and y_test"


def is_file_name(source: str) -> bool:
    """Whether a source names a file that this module reads, whether or not the file exists."""
    return _SOURCE.fullmatch(source) is not None


def file_and_label(source: str) -> tuple[Path, str | None] | None:
    """The file that a source names, and the name of the column with the labels if it says one; None: no file."""
    match = _SOURCE.fullmatch(source)
    return None if match is None else (Path(match["path"]).expanduser(), match["label"])


def read(source: str) -> tuple[str, dict[str, tuple[Any, Any]]]:
    """Read `FILE.npz`, `FILE.csv`, or `FILE.csv:LABEL`, where LABEL names the column with the labels.

    An .npz file has arrays X and y, or X_train, y_train, X_test and y_test; inputs and labels, or data and target, are
    other names for X and y, in letters of either case. The first line of a .csv file names the columns unless one of
    its cells is a number. Without a name, the last column is the label. Columns of texts are categories. A first column
    without a name that counts the rows, as pandas and R write it, is left out. Between semicolons and tabs, decimal
    commas are points.

    Returns:
        The file's name, and its splits as name -> `(X, y)`.

    Raises:
        DataNotPreparedError: no such file, or none that can be read.
        UnknownNameError: no column of that name.
        ValueError: the file does not hold what it needs to.
    """
    found = file_and_label(source)
    assert found is not None
    path, label = found
    if not path.is_file():
        raise DataNotPreparedError(f"there is no file {path.absolute()}")
    if path.suffix.lower() == ".csv":
        return path.name, {"train": _read_csv(path, label)}
    if label is not None:
        raise ValueError(f"{path} names its labels itself: give it without ':{label}'")
    return path.name, _read_npz(path)


def _read_npz(path: Path) -> dict[str, tuple[Any, Any]]:
    if not zipfile.is_zipfile(path):  # np.load would speak of pickles
        raise DataNotPreparedError(f"{path} cannot be read as an .npz file: it is no archive, np.savez writes one")
    try:
        with np.load(path) as file:
            arrays = {name.lower(): file[name] for name in file.files}
    except (OSError, zipfile.BadZipFile, EOFError, AttributeError) as error:
        raise DataNotPreparedError(f"{path} cannot be read as an .npz file: {error}") from error
    except ValueError as error:
        advice = ": save arrays of numbers or texts, not of Python objects" if "pickle" in str(error) else ""
        raise ValueError(f"{path} cannot be read: {error}{advice}") from error

    def pick(ending: str) -> tuple[Any, Any] | None:
        x, y = (next((arrays[n + ending] for n in names if n + ending in arrays), None) for names in (_INPUTS, _LABELS))
        return None if x is None or y is None else (x, y)

    whole, train, test = pick(""), pick("_train"), pick("_test")
    if train is not None and test is not None:
        return {"train": train, "test": test}
    if whole is None:
        raise ValueError(f"{path} needs arrays {_NEEDS}, but has {', '.join(arrays) or 'none'}")
    return {"train": whole}


def _read_csv(path: Path, label: str | None) -> tuple[Any, Any]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise DataNotPreparedError(f"{path} cannot be read as text in UTF-8: {error}") from error
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    try:
        rows = [
            [cell.strip() for cell in row]
            for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
            if row
        ]
    except csv.Error as error:
        raise ValueError(f"{path} is no table of comma-separated values: {error}") from error
    if not rows:
        raise ValueError(f"{path} is empty: it needs a line per example, inputs first and the label last")
    width = len(rows[0])
    names = [f"{i + 1}" for i in range(width)]
    if not any(_is_number(cell) for cell in rows[0]):
        names, rows = rows[0], rows[1:]
    wrong = next((i for i, row in enumerate(rows) if len(row) != width), None)
    if wrong is not None:
        raise ValueError(f"row {wrong} of {path} has {len(rows[wrong])} cells, the first line has {width}")
    if width < 2 or not rows:
        raise ValueError(
            f"{path} needs at least one column of inputs and one of labels, and a line per example: it has {width} "
            f"columns and {len(rows)} examples"
        )
    if len(set(names)) < width:
        raise ValueError(f"the columns of {path} need different names, got {', '.join(names)}")
    if label is not None and label not in names:
        raise unknown_name(f"column of {path}", label, names)
    columns = {name: _numbers(cells, delimiter != ",") for name, *cells in zip(names, *rows, strict=True)}
    if columns.get("") in ([*range(len(rows))], [*range(1, len(rows) + 1)]) and names[0] == "" and width > 2:
        del columns[""]  # it would tell the label of sorted rows
    labels = columns.pop(label if label is not None else names[-1])
    missing = [row for row, value in enumerate(labels) if is_missing(value)]
    if missing:
        raise ValueError(f"{len(missing)} examples of {path} have no label, the first in row {missing[0]}")
    return encode(fit_encoding(columns, str(path)), columns, str(path)), labels


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers(cells: list[str], commas: bool) -> list[Any]:
    """The cells of a column as numbers if all of them are; whole numbers stay whole; `commas` may be decimal."""
    for number in (int, float, *[lambda cell: float(cell.replace(",", "."))] * commas):
        try:
            return [number(cell) for cell in cells]
        except ValueError:
            pass
    return list(cells)
