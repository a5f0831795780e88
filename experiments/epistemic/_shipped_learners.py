"""The learners whose uncertainty is measured: what the package ships, and what else one would take for small tables.

What is shipped is used as it is. Every other learner chooses one of four settings by cross-validation on the rows that
it is given: the least log-loss over `FOLDS` folds. To choose, a probability counts as at least `FLOOR`, since a class
may have no row in a fold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from metalearn.learner import Signature
from metalearn_models.epistemic import Knowledge, Params, make_agent, train
from metalearn_models.tabular.classifier import InContextClassifier

OURS = "in-context"
SEQUENCES = "digits-synthetic-16x10"
FOLDS = 4
FLOOR = 1e-6
TEMPERATURE = 0.1
"""What ensembles and epinet are told; our choice."""
INDICES = 100
"""Indices of the epinet."""


class Model(NamedTuple):
    """A learner that was fitted.

    Attributes:
        ask: `(Q) -> probabilities[Z, q, classes]`, with one or more indices in front.
        variance: `(Q) -> variances[q, classes]` of the probabilities, with a column for each class that it was given;
            None: it has none.
        given: the classes that it was given, in this order.
    """

    ask: Callable[[np.ndarray], np.ndarray]
    variance: Callable[[np.ndarray], np.ndarray] | None = None
    given: np.ndarray | None = None


Fit = Callable[[np.ndarray, np.ndarray, int], Model]
"""`(X, y, classes) -> model`."""

Tune = Callable[[np.ndarray, np.ndarray, int], Fit]
"""`(X, y, classes) -> fit`, with the setting that was chosen on these rows."""


def sklearn_model(make: Callable[[], Any], trees: bool = False) -> Fit:
    """A classifier of scikit-learn; classes that it was not given have probability 0."""

    def fit(X: np.ndarray, y: np.ndarray, classes: int) -> Model:
        model = make().fit(X, y)

        def ask(Q: np.ndarray) -> np.ndarray:
            several = [tree.predict_proba(Q) for tree in model.estimators_] if trees else [model.predict_proba(Q)]
            found = np.zeros((len(several), len(Q), classes))
            found[:, :, model.classes_] = np.stack(several)
            return found

        return Model(ask, getattr(model, "predict_variance", None), model.classes_)

    return fit


def as_it_is(fit: Fit) -> Tune:
    """Nothing is chosen."""
    return lambda X, y, classes: fit


def best_of(fits: Sequence[Fit]) -> Tune:
    """The setting with the least log-loss over folds; the first of equal ones."""

    def tune(X: np.ndarray, y: np.ndarray, classes: int) -> Fit:
        losses = []
        for fit in fits:
            found = np.zeros((len(y), classes))
            for held in folds(y):
                found[held] = fit(X[~held], y[~held], classes).ask(X[held]).mean(0)
            losses.append(_loss(found, y))
        return fits[int(np.argmin(losses))]

    return tune


def agent_model(name: str, settings: Sequence[dict[str, float]], **values: Any) -> Tune:
    """An agent of `metalearn_models.epistemic`; the one that is trained on all rows is not trained again."""

    def tune(X: np.ndarray, y: np.ndarray, classes: int) -> Fit:
        held = np.stack([np.zeros(len(y), bool), *folds(y)])
        order = np.argsort(held, 1, kind="stable")  # rows that are held out become padding
        filled = (~held).sum(1)
        tried = []
        for setting in settings:
            agent = make_agent(name, Signature(X.shape[1], classes, 1), **values, **setting)

            def trained(xs: Any, ys: Any, count: Any, agent: Any = agent) -> Params:
                told = Knowledge(count.astype(jnp.float32), jnp.float32(TEMPERATURE))
                return train(agent, xs, ys, told, jax.random.key(0), filled=count)

            def ask(params: Params, Q: np.ndarray, agent: Any = agent) -> np.ndarray:
                xs, drawn = jnp.asarray(Q, jnp.float32), agent.draw(jax.random.key(1), INDICES)
                return np.asarray(jax.nn.softmax(jax.vmap(lambda z: agent.apply(params, xs, z))(drawn)), np.float64)

            shown = (jnp.asarray(X[order], jnp.float32), jnp.asarray(y[order], jnp.int32), jnp.asarray(filled))
            params = jax.jit(jax.vmap(trained))(*shown)
            of_part = [jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(len(held))]
            found = np.zeros((len(y), classes))
            for i in range(1, len(held)):
                found[held[i]] = ask(of_part[i], X[held[i]]).mean(0)
            tried.append((_loss(found, y), ask, of_part[0]))
        _, chosen, params = min(tried, key=lambda one: one[0])
        return lambda X, y, classes: Model(lambda Q: chosen(params, Q))

    return tune


def folds(y: np.ndarray) -> list[np.ndarray]:
    """Which rows are held out, per fold; the rows of a class are spread over the folds."""
    order = np.argsort(y, kind="stable")
    number = np.empty(len(y), int)
    number[order] = np.arange(len(y)) % FOLDS
    return [number == fold for fold in range(FOLDS)]


def _loss(found: np.ndarray, y: np.ndarray) -> float:
    return float(-np.log(np.maximum(found[np.arange(len(y)), y], FLOOR)).mean())


def _logistic(strength: float) -> Fit:
    return sklearn_model(lambda: LogisticRegression(C=strength, max_iter=1000))


def _forest(leaf: int) -> Fit:
    return sklearn_model(lambda: RandomForestClassifier(100, min_samples_leaf=leaf, random_state=0), trees=True)


LEARNERS: dict[str, tuple[Tune, bool]] = {
    OURS: (as_it_is(sklearn_model(InContextClassifier)), True),
    "in-context, sequences": (as_it_is(sklearn_model(lambda: InContextClassifier(SEQUENCES))), True),
    "logistic": (best_of([_logistic(c) for c in (0.01, 0.1, 1.0, 10.0)]), True),
    "forest": (best_of([_forest(leaf) for leaf in (1, 2, 4, 8)]), True),
    "ensemble": (agent_model("ensemble", [{"decay": d} for d in (0.001, 0.01, 0.1, 1.0)], members=10), False),
    "prior-ensemble": (
        agent_model(
            "prior-ensemble", [{"decay": d, "prior_scale": s} for d in (0.001, 0.01) for s in (0.3, 3.0)], members=10
        ),
        False,
    ),
    "epinet": (
        agent_model("epinet", [{"decay": d, "prior_scale": s} for d in (0.02, 0.2) for s in (0.03, 0.3)]),
        False,
    ),
}
"""How each is tuned and fitted, and whether it is refitted for the chain rule."""

RELEASED: dict[str, tuple[Tune, bool]] = LEARNERS | {
    "logistic": (as_it_is(_logistic(1.0)), True),
    "forest": (as_it_is(_forest(1)), True),
    "ensemble": (agent_model("ensemble", [{}], members=10), False),
    "prior-ensemble": (agent_model("prior-ensemble", [{}], members=10), False),
    "epinet": (agent_model("epinet", [{}]), False),
}
"""The same with released settings."""
