"""Numbers as targets: `InContextRegressor` against forest, ridge, boosting, nearest neighbours and a Gaussian process.

Tables come with scikit-learn: diabetes, `make_friedman1`, 2 and 3 with noise, the place along a swiss roll, and three
real tables of which a column is predicted from the other measurements: the colour of a wine, the width of an iris's
petal, the smoothness of a tumour. Training rows are drawn at random, 50, 200 or 1,000 of them where that is at most
70 % of the table, and up to 300 others are tested. A score is R² = 1 - square error / that of the training rows' mean.

Nearest neighbours choose their number, the Gaussian process its length scales and noise, ridge its penalty, each on the
training rows. The forest has 200 trees, boosting its defaults. A constant scores 0 or less. Two rows say which part
does it: "line alone" is the ridge regression inside `InContextRegressor`, "without line" the same Transformer on
classes of the targets themselves, weights squared.

Rule of the verdict, written before the run, one per number of rows: by differences over tables (mean over splits first)
with Student's t intervals. "wins" if the mean score is above that of each baseline with the whole interval, "ahead" if
it is above each without that, "behind" if one baseline is above with the whole interval, "open" otherwise.

Classes, views and powers were chosen on other splits of diabetes and of the three functions of Friedman, with noise of
another seed, and on a sine, squares and noise. Iris, wine, the tumours and the roll were not looked at before.

    python -m experiments regression
    python -m experiments regression quick
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_iris,
    load_wine,
    make_friedman1,
    make_friedman2,
    make_friedman3,
    make_swiss_roll,
)
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments.suite.cells import remember
from experiments.suite.results import write_result
from experiments.suite.tables import format_estimate
from metalearn.intervals import mean_interval
from metalearn.runs.progress import Progress
from metalearn.runs.weights import theta_sha256
from metalearn_models.tabular.regression.line import fit_line, follow
from metalearn_models.tabular.regression.reader import USUAL, cut, sharpen
from metalearn_models.tabular.regression.regressor import InContextRegressor
from metalearn_models.tabular.transformer.core import read_table, weigh_rows
from metalearn_models.tabular.transformer.library import load

__all__ = ["BASELINES", "OURS", "PARTS", "PRESETS", "TABLES", "RegressionConfig", "format_result", "judge", "run"]

OURS = "InContextRegressor"
TEST_ROWS, MADE, SEED = 300, 2000, 1


def _column(loader: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    bunch = loader()
    place = list(bunch.feature_names).index(name)
    return np.delete(bunch.data, place, 1), bunch.data[:, place]


def _diabetes() -> tuple[np.ndarray, np.ndarray]:
    bunch: Any = load_diabetes()
    return bunch.data, bunch.target


def _roll() -> tuple[np.ndarray, np.ndarray]:
    points, place = make_swiss_roll(MADE, noise=0.5, random_state=SEED)
    return points, place


TABLES: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
    "diabetes": _diabetes,
    "friedman1": lambda: make_friedman1(MADE, noise=1.0, random_state=SEED),
    "friedman2": lambda: make_friedman2(MADE, noise=100.0, random_state=SEED),
    "friedman3": lambda: make_friedman3(MADE, noise=0.1, random_state=SEED),
    "swiss roll": _roll,
    "wine": lambda: _column(load_wine, "color_intensity"),
    "iris": lambda: _column(load_iris, "petal width (cm)"),
    "tumours": lambda: _column(load_breast_cancer, "mean smoothness"),
}
"""Features and targets by name."""


@dataclass(frozen=True)
class RegressionConfig:
    """Compare regressors on small tables."""

    tables: tuple[str, ...] = tuple(TABLES)
    """The tables."""
    rows: tuple[int, ...] = (50, 200, 1000)
    """Numbers of training rows."""
    splits: int = 3
    """Random splits of each table."""
    out: Path = Path("runs/regression")
    """Folder of the result and of the parts that are kept."""


PRESETS = {"standard": RegressionConfig(), "quick": RegressionConfig(rows=(50,), splits=1)}


def _scaled(model: Any) -> Any:
    return make_pipeline(StandardScaler(), model)


def _process(columns: int) -> Any:
    lengths: Any = np.ones(columns)  # scikit-learn's annotation knows only one for all
    kernel = ConstantKernel() * RBF(lengths, (1e-1, 1e3)) + WhiteKernel(0.1)
    return _scaled(GaussianProcessRegressor(kernel, normalize_y=True, random_state=0))


_NEIGHBOURS = {"kneighborsregressor__n_neighbors": [1, 2, 4, 8, 16], "kneighborsregressor__weights": ["distance"]}
BASELINES: dict[str, Callable[[int], Any]] = {
    "forest": lambda columns: RandomForestRegressor(200, random_state=0),
    "ridge": lambda columns: _scaled(RidgeCV(np.logspace(-3, 4, 15))),
    "boosting": lambda columns: HistGradientBoostingRegressor(random_state=0),
    "neighbours": lambda columns: GridSearchCV(_scaled(KNeighborsRegressor()), _NEIGHBOURS, cv=3),
    "Gaussian process": _process,
}
"""`(number of columns) -> unfitted regressor`."""
PARTS = ("line alone", "without line")


def _part(name: str, x: np.ndarray, y: np.ndarray, queries: np.ndarray) -> np.ndarray:
    if name == "line alone":
        return follow(fit_line(x, y)[0], queries)
    rng, trained, found = np.random.default_rng(0), load("tables"), []
    for number in range(8):
        classes = cut(y, (number + 0.5) / 8 - 0.5, rng)
        fitted = read_table(trained, x, classes, views=1, rng=rng, first=number, turned=False)
        found.append(sharpen(weigh_rows(fitted, 0, queries), USUAL) @ y[fitted.views[0].rows])
    return np.mean(found, 0)


def compare(table: str, rows: int, split: int) -> dict[str, dict[str, float]]:
    """R² and seconds of all on one split; of `InContextRegressor` also the share that four fifths of it hold."""
    x, y = TABLES[table]()
    order = np.random.default_rng(split).permutation(len(y))
    train, test = order[:rows], order[rows:][:TEST_ROWS]
    worst = np.square(y[test] - y[train].mean()).sum()
    found: dict[str, dict[str, float]] = {}
    for name in (OURS, *BASELINES, *PARTS):
        begin, extra = time.perf_counter(), {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a length scale at its bound
            if name in PARTS:
                guessed = _part(name, x[train], y[train], x[test])
            else:
                model = InContextRegressor() if name == OURS else BASELINES[name](x.shape[1])
                guessed = model.fit(x[train], y[train]).predict(x[test])
                if isinstance(model, InContextRegressor):
                    low, high = model.predict_quantiles(x[test], (0.1, 0.9)).T
                    extra = {"held": float(((low <= y[test]) & (y[test] <= high)).mean())}
        score = float(1 - np.square(guessed - y[test]).sum() / worst)
        found[name] = {"score": score, "seconds": time.perf_counter() - begin, **extra}
    return found


def run(config: RegressionConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Measure what the folder does not have yet, and judge."""
    if config.splits < 1 or not config.rows or min(config.rows) < 10:
        raise ValueError(f"--splits must be at least 1 and --rows at least 10; got {config.splits} and {config.rows}")
    unknown = [name for name in config.tables if name not in TABLES]
    if unknown:
        raise ValueError(f"no table {', '.join(unknown)}: use {', '.join(TABLES)}")
    wanted = [
        (table, rows, split)
        for rows in config.rows
        for table in config.tables
        if rows <= 0.7 * len(TABLES[table]()[1])
        for split in range(config.splits)
    ]
    if progress is not None:
        progress.start(0, len(wanted))
    found, version = [], theta_sha256(load("tables").theta)[:8]
    for done, (table, rows, split) in enumerate(wanted, 1):
        settings = {"table": table, "rows": rows, "split": split, "weights": version}
        part = functools.partial(compare, table, rows, split)
        cell = remember(config.out, f"{table.replace(' ', '-')}-{rows}-{split}", settings, part)
        found += [{"table": table, "rows": rows, "split": split, "name": name, **row} for name, row in cell.items()]
        if progress is not None:
            progress.update(done, {"score": cell[OURS]["score"]})
    result = {"rows": found, "judged": {str(rows): judge(found, rows) for rows in config.rows}}
    return write_result(config.out, result)


def judge(found: list[dict[str, Any]], rows: int) -> dict[str, Any]:
    """Mean scores, differences and the verdict with one number of rows."""
    tables = list(dict.fromkeys(row["table"] for row in found if row["rows"] == rows))
    if not tables:
        return {"tables": 0, "verdict": "no table has so many rows"}

    def of(name: str, key: str = "score") -> np.ndarray:
        chosen = [row for row in found if (row["rows"], row["name"]) == (rows, name)]
        return np.array([np.mean([row[key] for row in chosen if row["table"] == table]) for table in tables])

    names = (OURS, *BASELINES, *PARTS)
    entry: dict[str, Any] = {"tables": len(tables), "held": float(of(OURS, "held").mean())}
    for name in names:
        ahead = [float(value) for value in mean_interval(of(OURS) - of(name))]
        by_table = dict(zip(tables, (float(value) for value in of(name)), strict=True))
        seconds = float(np.median(of(name, "seconds")))
        entry[name] = {"score": float(of(name).mean()), "ahead": ahead, "seconds": seconds, "by table": by_table}
    gaps = [entry[name]["ahead"] for name in BASELINES]
    if all(low > 0 for _, low, _ in gaps):
        verdict = "wins"
    elif all(mean > 0 for mean, _, _ in gaps):
        verdict = "ahead"
    else:
        verdict = "behind" if any(high < 0 for _, _, high in gaps) else "open"
    return entry | {"verdict": verdict}


def format_result(result: dict[str, Any]) -> str:
    """A table per number of rows."""
    lines = []
    for rows, entry in result["judged"].items():
        lines.append(f"{rows} rows, {entry['tables']} tables: {entry['verdict']}")
        if not entry["tables"]:
            continue
        lines[-1] += f"; four fifths of its distributions hold {entry['held']:.2f} of the targets"
        lines.append(f"  {'R²':<20} {'mean':>6}  " + "".join(f"{name:>11}" for name in entry[OURS]["by table"]))
        for name in (OURS, *BASELINES, *PARTS):
            row = entry[name]
            each = "".join(f"{value:>11.3f}" for value in row["by table"].values())
            lines.append(
                f"  {name:<20} {row['score']:>6.3f}  {each}  {row['seconds']:.2f} s  ahead of it "
                + format_estimate(row["ahead"], "+.3f")
            )
    return "\n".join(lines)
