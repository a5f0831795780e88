"""The learners whose uncertainty is measured: what the package ships, and what else one would take for small tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from metalearn.learner import Signature
from metalearn_models.epistemic import Knowledge, make_agent, train
from metalearn_models.tabular.classifier import InContextClassifier

OURS = "in-context"
SEQUENCES = "digits-synthetic-16x10"
TEMPERATURE = 0.1
"""What ensembles and epinet are told; our choice."""


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


def agent_model(name: str, **values: Any) -> Fit:
    """An agent of `metalearn_models.epistemic`."""

    def fit(X: np.ndarray, y: np.ndarray, classes: int) -> Model:
        agent = make_agent(name, Signature(X.shape[1], classes, 1), **values)
        told = Knowledge(jnp.float32(len(y)), jnp.float32(TEMPERATURE))
        program = jax.jit(lambda X, y: train(agent, X, y, told, jax.random.key(0)))
        params = program(jnp.asarray(X, jnp.float32), jnp.asarray(y, jnp.int32))

        def ask(Q: np.ndarray) -> np.ndarray:
            xs, drawn = jnp.asarray(Q, jnp.float32), agent.draw(jax.random.key(1), 100)
            return np.asarray(jax.nn.softmax(jax.vmap(lambda z: agent.apply(params, xs, z))(drawn)), np.float64)

        return Model(ask)

    return fit


LEARNERS: dict[str, tuple[Fit, bool]] = {
    OURS: (sklearn_model(InContextClassifier), True),
    "in-context, sequences": (sklearn_model(lambda: InContextClassifier(SEQUENCES)), True),
    "logistic": (sklearn_model(lambda: LogisticRegression(max_iter=1000)), True),
    "forest": (sklearn_model(lambda: RandomForestClassifier(100, random_state=0), trees=True), True),
    "ensemble": (agent_model("ensemble", members=10), False),
    "prior-ensemble": (agent_model("prior-ensemble", members=10), False),
    "epinet": (agent_model("epinet"), False),
}
"""How each is fitted, and whether it is refitted for the chain rule."""
