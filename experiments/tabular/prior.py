"""Whether the tables of the prior can be learned from: a forest and logistic regression against class frequencies.

A learner that is meta-trained on tables from which nothing can be learned learns to state class frequencies. So each
mechanism of the prior is judged by tables of 50 rows to learn from and 100 to test, with 2 to 20 columns. The gain of a
classifier is 1 - its log loss / that of the training rows' frequencies; its probabilities are mixed with a tenth of
these, since a forest says 0 too easily. A table's gain is that of the better classifier.

    python -m experiments table_prior
    python -m experiments table_prior quick
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from metalearn.intervals import mean_interval
from metalearn.runs.progress import Progress
from metalearn_tasks.families.tables import PRIOR, TablesConfig, numbered_tables

__all__ = ["MIXTURES", "PRESETS", "TablePriorConfig", "format_result", "gains", "run"]

MIXTURES = {
    "mixture": PRIOR,
    "causal": replace(PRIOR, direct=0, clusters=0),
    "direct": replace(PRIOR, causal=0, clusters=0),
    "clusters": replace(PRIOR, causal=0, direct=0),
}
"""The prior, and each of its mechanisms alone."""
TEST_ROWS = 100
UNLEARNABLE = 0.02
"""A gain below this is counted as none."""


@dataclass(frozen=True)
class TablePriorConfig:
    """Measure how much can be learned from the tables of the prior."""

    tables: int = 200
    """Tables per mixture."""
    rows: int = 50
    """Rows to learn from."""
    seed: int = 0
    """Of the tables."""


PRESETS = {"standard": TablePriorConfig(), "quick": TablePriorConfig(tables=30)}


def gains(number: int, prior: TablesConfig, rows: int, seed: int) -> tuple[float, float]:
    """The gains of a forest and of logistic regression on one table; 0 if its training rows have one class."""
    features = 2 + int(np.random.default_rng((seed, number, 1)).integers(19))
    table = numbered_tables(seed, [number], rows + TEST_ROWS, features, prior)
    xs, ys = np.nan_to_num(table.xs[0]), table.ys[0]
    train, test = ys[:rows], ys[rows:]
    classes = int(ys.max()) + 1
    frequencies = (np.bincount(train, minlength=classes) + 1) / (rows + classes)
    if len(np.unique(train)) == 1:
        return 0.0, 0.0
    found = []
    for model in (
        RandomForestClassifier(60, random_state=0),
        make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=100)),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # iterations may not suffice
            model.fit(xs[:rows], train)
        probabilities = np.zeros((TEST_ROWS, classes))
        probabilities[:, model.classes_] = model.predict_proba(xs[rows:])
        mixed = 0.9 * probabilities + 0.1 * frequencies
        losses = -np.log(mixed[np.arange(TEST_ROWS), test]).mean(), -np.log(frequencies[test]).mean()
        found.append(float(1 - losses[0] / losses[1]))
    return found[0], found[1]


def run(config: TablePriorConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Gains of each mixture: means with Student's t intervals, and the share of tables with no gain."""
    if progress is not None:
        progress.start(0, len(MIXTURES) * config.tables)
    result: dict[str, Any] = {}
    for which, (name, prior) in enumerate(MIXTURES.items()):
        found = []
        for number in range(config.tables):
            found.append(gains(number, prior, config.rows, config.seed))
            if progress is not None:
                progress.update(which * config.tables + number + 1, {"score": found[-1][0]})
        forest, linear = np.array(found).T
        best = np.maximum(forest, linear)
        result[name] = {
            "forest": [float(value) for value in mean_interval(forest)],
            "logistic": [float(value) for value in mean_interval(linear)],
            "better of the two": [float(value) for value in mean_interval(best)],
            "no gain": float((best < UNLEARNABLE).mean()),
        }
    return result


def format_result(result: dict[str, Any]) -> str:
    """A row per mixture."""
    lines = []
    for name, row in result.items():
        parts = [f"{of} {row[of][0]:.2f} [{row[of][1]:.2f}, {row[of][2]:.2f}]" for of in list(row)[:3]]
        lines.append(f"{name:<10} {'  '.join(parts)}  no gain {row['no gain']:.0%}")
    return "\n".join(lines)
