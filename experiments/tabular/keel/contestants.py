"""The classifiers that are compared on real tables, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegressionCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from metalearn.runs.weights import theta_sha256
from metalearn_models.tabular.classifier import InContextClassifier, load_learner

__all__ = ["BASELINES", "contestant", "full_name", "weights_version"]


def contestant(name: str, categorical: Bool[np.ndarray, " F"]) -> Any:
    """An unfitted classifier.

    Args:
        name: one of `BASELINES`, "in-context" for `InContextClassifier` as it comes, or "in-context:WEIGHTS" with these
            weights. The learner is told nothing of the categories.
        categorical: which columns hold categories. 1-NN and logistic regression get them one-hot, beside standardised
            numbers.

    Raises:
        ValueError: another name.
    """
    name = full_name(name)
    if name.startswith("in-context:"):
        return InContextClassifier(name.removeprefix("in-context:"))
    if name not in BASELINES:
        raise ValueError(f"no classifier {name!r}: use in-context, in-context:WEIGHTS, {', '.join(BASELINES)}")
    return BASELINES[name](categorical)


def full_name(name: str) -> str:
    """The name with the weights in it: figures are kept by name, and the weights that come by default can change."""
    return f"in-context:{InContextClassifier().weights}" if name == "in-context" else name


def weights_version(name: str) -> str:
    """What changes with the weights of an in-context learner, such as those of a run that went on; "" for others."""
    if not name.startswith("in-context:"):
        return ""
    return f"@{theta_sha256(load_learner(name.removeprefix('in-context:')).theta)[:8]}"


def _columns(categorical: Bool[np.ndarray, " F"]) -> ColumnTransformer:
    one_hot: Any = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    parts = [("n", StandardScaler(), np.flatnonzero(~categorical)), ("c", one_hot, np.flatnonzero(categorical))]
    return ColumnTransformer(parts)


BASELINES: dict[str, Callable[[Any], Any]] = {
    "forest": lambda categorical: RandomForestClassifier(200, random_state=0),
    "logistic": lambda categorical: make_pipeline(
        _columns(categorical), LogisticRegressionCV(Cs=7, cv=3, max_iter=500)
    ),
    "boosting": lambda categorical: HistGradientBoostingClassifier(random_state=0),
    "1nn": lambda categorical: make_pipeline(_columns(categorical), KNeighborsClassifier(1)),
}
"""Classifiers of scikit-learn, with its own settings except that logistic regression chooses its penalty and a forest
has 200 trees."""
