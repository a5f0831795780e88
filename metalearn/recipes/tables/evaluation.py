"""Accuracy and log loss on real tables, while a learner is meta-trained and after.

Each bundled set of scikit-learn is shown by 50 and, if it is large enough, by 200 of its rows, drawn so that each class
has one; the test rows are at most 300 others. The seed decides the rows, so all learners are scored on the same ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from metalearn_models.tabular.transformer.core import predict_log_proba
from metalearn_models.tabular.transformer.library import TrainedTables

__all__ = ["REAL", "Score", "baseline_scores", "draw_split", "learner_scores", "real_tables", "score_tables"]

REAL = ("iris", "wine", "breast_cancer", "digits")
"""Bundled sets of scikit-learn."""
ROWS = (50, 200)
"""Training rows."""
MOST_TEST_ROWS = 300

Score = tuple[float, float]
"""Accuracy and log loss."""


def real_tables() -> dict[str, tuple[Float[np.ndarray, "n F"], Int[np.ndarray, " n"]]]:
    """The bundled sets by name: features and classes."""
    from sklearn import datasets  # slow to import

    bundles: Any = {name: getattr(datasets, f"load_{name}")() for name in REAL}
    return {name: (bundle.data, bundle.target) for name, bundle in bundles.items()}


def draw_split(
    ys: Int[np.ndarray, " n"], rows: int, seed: int, most: int = MOST_TEST_ROWS
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " t"]]:
    """Training rows, of which each class has one at least, and at most `most` test rows."""
    order = np.random.default_rng(seed).permutation(len(ys))
    first = np.array([order[ys[order] == label][0] for label in np.unique(ys)])
    rest = order[~np.isin(order, first)]
    return np.concatenate([first, rest[: rows - len(first)]]), rest[rows - len(first) :][:most]


def score_tables(predict: Callable[[Any, Any, Any], Float[np.ndarray, "t K"]], seeds: int = 1) -> dict[str, Score]:
    """Score a learner on all real tables.

    Args:
        predict: `(xs, ys, query_xs) -> log_probs`.
        seeds: splits of each set, whose scores are averaged.

    Returns:
        Accuracy and log loss by `SET at ROWS`.
    """
    scores = {}
    for name, (xs, ys) in real_tables().items():
        for rows in ROWS:
            if rows > 0.7 * len(ys):
                continue
            found = []
            for seed in range(seeds):
                train, test = draw_split(ys, rows, seed)
                log_probs = predict(xs[train], ys[train], xs[test])
                right = np.maximum(log_probs[np.arange(len(test)), ys[test]], np.log(1e-7))
                found.append((float((log_probs.argmax(1) == ys[test]).mean()), -float(right.mean())))
            scores[f"{name} at {rows}"] = (float(np.mean([a for a, _ in found])), float(np.mean([b for _, b in found])))
    return scores


def learner_scores(trained: TrainedTables, views: int = 2, seeds: int = 1) -> dict[str, Score]:
    """The scores of a Transformer for tables."""

    def predict(xs: Any, ys: Any, query_xs: Any) -> Any:
        return predict_log_proba(trained, xs, ys, query_xs, views=views, rng=np.random.default_rng(0))

    return score_tables(predict, seeds)


def baseline_scores(seeds: int = 1) -> dict[str, dict[str, Score]]:
    """The scores of a random forest and of a logistic regression, as scikit-learn has them by default."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    made: dict[str, Callable[[], Any]] = {
        "random forest": lambda: RandomForestClassifier(200, random_state=0),
        "logistic regression": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)),
    }

    def predictor(make: Callable[[], Any]) -> Callable[[Any, Any, Any], Any]:
        def predict(xs: Any, ys: Any, query_xs: Any) -> Any:
            return np.log(np.maximum(make().fit(xs, ys).predict_proba(query_xs), 1e-7))

        return predict

    return {name: score_tables(predictor(make), seeds) for name, make in made.items()}
