"""`InContextClassifier` against 1-NN and logistic regression on tables: 50 training rows, or many.

The tables are scikit-learn's iris, wine, breast_cancer and digits, none of which took part in meta-training: of the
digits only the images are used that the split of `metalearn_tasks.datasets.load` holds out. Generated tables show what
more rows than the learner's context do. The figures are means over stratified splits, with up to 600 rows to test. For
the two references, features are standardised on the training rows.

    python -m experiments tabular                   # a table; minutes on one core
    python -m experiments tabular large             # generated tables of 1,000 training rows; a minute
    python -m experiments tabular large --rows 3000
    python -m experiments tabular --weights runs/mine --splits 5
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import (
    load_breast_cancer,
    load_iris,
    load_wine,
    make_blobs,
    make_circles,
    make_classification,
    make_gaussian_quantiles,
    make_hastie_10_2,
    make_moons,
)
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from metalearn.runs.progress import Progress
from metalearn_models.tabular.classifier import InContextClassifier
from metalearn_tasks.datasets import load

__all__ = [
    "GENERATED",
    "PRESETS",
    "REFERENCES",
    "TABLES",
    "TabularConfig",
    "accuracies",
    "compare",
    "contestants",
    "format_result",
    "load_table",
    "run",
]

TABLES = ("iris", "wine", "breast_cancer", "digits")
GENERATED = ("widths", "quantiles", "hastie", "classification", "wide", "moons", "circles", "blobs")
"""Generated tables of 4,000 rows: two Gaussian classes of widths 1 and 3, and those of `sklearn.datasets.make_*`."""
REFERENCES = ("1nn", "logistic")
TEST_ROWS = 600
"""The most rows to test."""


@dataclass(frozen=True)
class TabularConfig:
    """Compare `InContextClassifier` with 1-NN and logistic regression on small tables."""

    tables: tuple[str, ...] = TABLES
    """The tables."""
    rows: int = 50
    """Training rows."""
    splits: int = 20
    """Random splits to average over."""
    weights: str = "digits-synthetic-16x10"
    """The learner: the argument `weights` of `InContextClassifier`."""
    n_estimators: int = 16
    """Views whose predictions are averaged."""
    out: Path | None = None
    """Write the figures to this JSON file."""


PRESETS = {"standard": TabularConfig(), "large": TabularConfig(GENERATED, rows=1000, splits=3)}


def load_table(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of a table; of the digits only the held-out images.

    Raises:
        ValueError: for another name.
    """
    if name in GENERATED:
        return _generate(name)
    if name == "digits":
        test = load("digits").test
        return np.asarray(test.inputs, np.float64), np.asarray(test.labels)
    loaders: dict[str, Any] = {"iris": load_iris, "wine": load_wine, "breast_cancer": load_breast_cancer}
    if name not in loaders:
        raise ValueError(f"no table {name!r}: use {', '.join((*TABLES, *GENERATED))}")
    return loaders[name](return_X_y=True)


def _generate(name: str, rows: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    if name == "widths":
        rng = np.random.default_rng(0)
        y = rng.integers(0, 2, rows)
        return rng.standard_normal((rows, 6)) * np.where(y, 3.0, 1.0)[:, None], y
    made: dict[str, Any] = {
        "quantiles": lambda: make_gaussian_quantiles(n_samples=rows, n_features=5, n_classes=3, random_state=0),
        "hastie": lambda: make_hastie_10_2(rows, random_state=0),
        "classification": lambda: make_classification(rows, 20, n_informative=8, random_state=0),
        "wide": lambda: make_classification(rows, 40, n_informative=12, n_classes=8, random_state=0),
        "moons": lambda: make_moons(rows, noise=0.3, random_state=0),
        "circles": lambda: make_circles(rows, noise=0.2, factor=0.5, random_state=0),
        "blobs": lambda: make_blobs(rows, 10, centers=10, cluster_std=4.0, random_state=0),
    }
    return made[name]()


def contestants(config: TabularConfig) -> dict[str, Any]:
    """The classifiers to compare, unfitted."""
    return {
        "in-context": InContextClassifier(config.weights, n_estimators=config.n_estimators),
        "1nn": make_pipeline(StandardScaler(), KNeighborsClassifier(1)),
        "logistic": make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
    }


def accuracies(config: TabularConfig, name: str) -> dict[str, list[float]]:
    """Test accuracy of every classifier on every split of a table."""
    X, y = load_table(name)
    scores: dict[str, list[float]] = {}
    for split in range(config.splits):
        X_train, X_test, y_train, y_test = train_test_split(
            X, y, train_size=config.rows, stratify=y, random_state=split
        )
        X_test, y_test = X_test[:TEST_ROWS], y_test[:TEST_ROWS]
        for label, classifier in contestants(config).items():
            scores.setdefault(label, []).append(float(classifier.fit(X_train, y_train).score(X_test, y_test)))
    return scores


def compare(config: TabularConfig) -> dict[str, dict[str, float]]:
    """Mean accuracy of each classifier on each table, and how far the learner is ahead of the better reference."""
    figures = {}
    for name in config.tables:
        means = {label: float(np.mean(scores)) for label, scores in accuracies(config, name).items()}
        ahead = means["in-context"] - max(means[reference] for reference in REFERENCES)
        figures[name] = {**{label: round(mean, 4) for label, mean in means.items()}, "ahead": round(ahead, 4)}
    return figures


def run(config: TabularConfig, progress: Progress | None = None) -> dict[str, dict[str, float]]:
    """Compare, and write the figures to the file if there is one; returns them."""
    figures = compare(config)
    if config.out is not None:
        config.out.write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def format_result(figures: dict[str, dict[str, float]]) -> str:
    """The figures as a text table."""
    columns = ("in-context", *REFERENCES, "ahead")
    lines = [f"{'accuracy':<15}" + "".join(f"{column:>12}" for column in columns)]
    lines += [f"{name:<15}" + "".join(f"{row[column]:>12.3f}" for column in columns) for name, row in figures.items()]
    return "\n".join(lines)
