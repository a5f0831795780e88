"""Views of a table for the Transformer for tables: which rows and columns, and which codes for classes and categories.

Shapes: n training rows, N rows, F columns, f columns of a view, K classes, Q numbers in a code.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from metalearn_models.tabular.transformer.profiles import PROFILED, profile, says_more
from metalearn_models.tabular.transformer.rows import deal_rows
from metalearn_models.tabular.transformer.screening import most_relevant
from metalearn_models.tabular.views import CLIP, leading_axes

__all__ = ["AT_RANDOM", "COMPONENTS", "TELLING", "View", "class_codes", "draw_table_views", "show_columns"]

TELLING = 0
"""Views of the columns that say most about the classes, of a table with more columns than a view shows. All views of
other tables are of this kind too, since these show all there is."""
COMPONENTS = 1
"""Views of principal components of such a table."""
AT_RANDOM = 2
"""Views of columns at random of such a table."""
LARGEST = 1e30
"""What is shown is clipped here, since float32 ends soon after."""

TURNED, ALIKE = 8, 4.0
"""From so many columns of numbers on, views of principal components are drawn. The columns count as measurements in one
unit, such as the pixels of an image, if the widest of their ranges is at most `ALIKE` times the median range. Both are
our choices, as are the numbers of components in `draw_table_views`."""

_Axes = tuple[Float[np.ndarray, "c f"], Float[np.ndarray, " c"], Float[np.ndarray, " c"]]


class View(NamedTuple):
    """One reading of a table.

    Attributes:
        kind: `TELLING`, `COMPONENTS` or `AT_RANDOM`.
        rows: the training rows that it shows.
        columns: the columns that it shows, or of which it shows principal components.
        axes: the axes of these components, and the mean and inverse scale of each column; None: the columns themselves.
        units: what is taken from each column that is shown as it is, and by what it is then multiplied.
        categorical: which of what it shows holds categories.
        spin: two integers for each of them, which decide the codes of categories.
        codes: the code of each class.
        profiled: whether the profile of each row (`profiles.py`) stands behind its components.
    """

    kind: int
    rows: Int[np.ndarray, " m"]
    columns: Int[np.ndarray, " c"]
    axes: _Axes | None
    units: tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"]]
    categorical: Bool[np.ndarray, " f"]
    spin: Int[np.ndarray, "f 2"]
    codes: Float[np.ndarray, "K Q"]
    profiled: bool = False


def draw_table_views(
    xs: Float[np.ndarray, "n F"],
    ys: Int[np.ndarray, " n"],
    categorical: Bool[np.ndarray, " F"],
    count: int,
    rows: int,
    columns: int,
    codes: int,
    rng: np.random.Generator,
    first: int = 0,
    turned: bool = True,
) -> list[View]:
    """Draw views of a table; columns that are constant or empty in the training rows are shown by none.

    Of more rows than a view shows, the views share out all, see `rows.py`.

    Views of principal components see what columns say together:

    - Columns in one unit: every second view has components of the columns as they are, in turn one per three rows and
      one per six, since with few rows the later ones are noise. Profiles stand behind them where they say more.
    - More columns than a view shows: every second view has components of the standardised columns.
    - Other columns of numbers: one view of four has those.

    Of a table with more columns than a view shows, the other views have, in turn, the columns that say most about the
    classes of the rows that they show, and columns at random. Components are those of one view's rows for all views.

    Args:
        xs: training rows.
        ys: classes, 0 to K - 1, each of which occurs.
        categorical: which columns hold categories.
        count: how many views.
        rows: a view shows at most so many, but one per class at least.
        columns: a view shows at most so many.
        codes: Q.
        rng: all randomness.
        first: number of the first of them.
        turned: whether a table that a view shows whole has views of principal components.
    """
    low, high = (f(np.where(np.isfinite(xs), xs, empty), 0) for f, empty in ((np.min, np.inf), (np.max, -np.inf)))
    missing = ~np.isfinite(xs)
    useful = np.flatnonzero((high > low) | (missing.any(0) & ~missing.all(0)))  # where a value is missing may say much
    if not len(useful):  # a column is needed, and this one says nothing
        useful = np.arange(1)
    wide = len(useful) > columns
    turned = turned and len(useful) >= TURNED and not categorical[useful].any()
    alike = turned and _share_a_unit((high - low)[useful])
    views, components, profiled = [], None, False
    dealt = deal_rows(ys, rows, rng) if len(ys) > rows else itertools.repeat(np.arange(len(ys)))
    for number, shown in zip(range(first, first + count), dealt, strict=False):
        kind, chosen, axes, names, more = TELLING, useful, None, categorical[useful], 0
        if (number % 2 and (wide or alike)) or (number % 4 == 1 and turned):
            if components is None:
                x = xs[np.ix_(shown, useful)]
                components = _principal_axes(x, columns, alike)
                profiled = alike and columns > PROFILED and _profiles_say_more(components, x, ys[shown])
            more = PROFILED * profiled
            most = min(columns - more, max(16, len(shown) // (3 if number % 4 == 1 else 6))) if alike else columns
            axes = (components[0][:, :most], *components[1:])
            kind, names = COMPONENTS if wide else TELLING, np.zeros(axes[0].shape[1] + more, bool)
        elif wide:
            if number % 4 == 0:
                best = most_relevant(xs[np.ix_(shown, useful)], ys[shown], categorical[useful], columns)
                chosen = useful[best]
            else:
                kind, chosen = AT_RANDOM, np.sort(rng.choice(useful, columns, replace=False))
            names = categorical[chosen]
        spin = rng.integers(32, size=(len(names), 2)).astype(np.int32)
        units = _units(xs[:, chosen], names) if axes is None else (np.zeros(1), np.ones(1))
        class_code = class_codes(int(ys.max()) + 1, codes, rng)
        views.append(View(kind, shown, chosen, axes, units, names, spin, class_code, more > 0))
    return views


def show_columns(view: View, xs: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N f"]:
    """What a view shows of rows."""
    if view.axes is None:
        centre, factor = view.units
        return np.clip((xs[:, view.columns] - centre) * factor, -LARGEST, LARGEST).astype(np.float32)
    x = xs[:, view.columns]
    z = _components(view.axes, x)
    return (np.concatenate([z, _profiles(view.axes, x)], 1) if view.profiled else z).astype(np.float32)


def _components(axes: _Axes, xs: Float[np.ndarray, "N c"]) -> Float[np.ndarray, "N f"]:
    directions, mean, scale = axes
    return np.clip((_fill(xs, mean) - mean) * scale, -CLIP, CLIP) @ directions


def _profiles(axes: _Axes, xs: Float[np.ndarray, "N c"]) -> Float[np.ndarray, "N P"]:
    """Profiles of rows in the unit that all columns share, from the mean of all columns."""
    _, mean, scale = axes
    return profile(np.clip((_fill(xs, mean) - mean.mean()) * scale.max(), -CLIP, CLIP))


def _profiles_say_more(axes: _Axes, xs: Float[np.ndarray, "m c"], ys: Int[np.ndarray, " m"]) -> bool:
    return says_more(_profiles(axes, xs), _components(axes, xs), ys)


def _fill(xs: Float[np.ndarray, "N c"], mean: Float[np.ndarray, " c"]) -> Float[np.ndarray, "N c"]:
    x = np.clip(xs, -LARGEST, LARGEST)
    return np.where(np.isfinite(x), x, mean)


def _units(
    xs: Float[np.ndarray, "n c"], categorical: Bool[np.ndarray, " c"]
) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"]]:
    """0 and 1, but median and inverse deviation of a column of numbers that float32 cannot hold as it is."""
    x = np.where(np.isfinite(xs), xs, np.nan)
    x[:, np.isnan(x).all(0)] = 0.0
    middle = np.nanmedian(x, 0)
    with np.errstate(over="ignore", invalid="ignore"):
        deviation = np.nanstd(x, 0)
    known = ~categorical & np.isfinite(deviation) & (deviation > 0)
    strange = known & ((np.abs(middle) > 1e3 * deviation) | (deviation < 1e-12) | (deviation > 1e12))
    return np.where(strange, middle, 0.0), np.where(strange, 1 / np.where(known, deviation, 1.0), 1.0)


def class_codes(classes: int, codes: int, rng: np.random.Generator) -> Float[np.ndarray, "K Q"]:
    """Random codes of classes, all different and of norm 1.

    Up to `codes` classes have a unit vector each. More of them have sums of two, or of more, and if there are more than
    such sums, random directions.
    """
    parts = next((p for p in range(1, codes // 2 + 1) if math.comb(codes, p) >= classes), None)
    if parts is None:
        table = rng.standard_normal((classes, codes))
        return (table / np.linalg.norm(table, axis=1, keepdims=True)).astype(np.float32)
    sums = np.array(list(itertools.combinations(range(codes), parts)))
    table = np.zeros((classes, codes), np.float32)
    np.put_along_axis(table, sums[rng.permutation(len(sums))[:classes]], parts**-0.5, 1)
    return table


def _share_a_unit(ranges: Float[np.ndarray, " c"]) -> bool:
    return bool(np.isfinite(ranges).all() and ranges.max() <= ALIKE * np.median(ranges))


def _principal_axes(xs: Float[np.ndarray, "m c"], most: int, alike: bool) -> _Axes:
    x = np.clip(np.where(np.isfinite(xs), xs, np.nan), -LARGEST, LARGEST)
    x[:, np.isnan(x).all(0)] = 0.0  # of such a column these rows know nothing, though others may
    mean = np.nanmean(x, 0)
    deviation = np.nanstd(x, 0)
    if alike:
        deviation = np.where(deviation > 0, np.sqrt(np.square(deviation).mean()), 0)
    scale = np.where(deviation > 0, 1 / np.where(deviation > 0, deviation, 1), 0)
    z = np.clip((np.where(np.isnan(x), mean, x) - mean) * scale, -CLIP, CLIP)
    return leading_axes(z, most).T, mean, scale
