"""How well shipped learners know what they do not know: log-loss, joint log-loss, calibration, selective accuracy.

`InContextClassifier` with each of its shipped weights, the Transformer for tables (its default, "in-context") and the
learner of sequences ("in-context, sequences"), beside logistic regression, a random forest, deep ensembles with and
without prior functions and an epinet, on scikit-learn's tables. Every learner is given a few rows. Those that are not
shipped choose one of four settings by cross-validation on these rows (`_shipped_learners.py`). Rows are standardised by
those that are given. (In the first run no learner was tuned. The weight decay of the neural testbed, made for its few
inputs, had left the ensemble with equal probabilities on tables with many columns, so tuning was added after it.)

The measures, means over tables and splits:

- log-loss of each query, in nats; a probability of 0 is counted, and not averaged;
- joint log-loss of tau different queries, summed. Of learners that are refitted it is exact by the chain rule: each
  query is predicted, and then learned from with its label. Forest, ensemble and epinet also have an index (tree,
  member, z), over which the product of the queries' probabilities is averaged: "joint, index";
- expected calibration error: ten bins of equal width of the largest probability;
- accuracy of all queries, and of the half that the learner is surest of;
- of in-context learners also the accuracy of the half whose probability of the predicted class has the least epistemic
  variance (`InContextClassifier.predict_variance`).

There is no claim to reproduce. The verdict names the learner with the least log-loss and the one with the least joint
log-loss; it is "ahead" for `InContextClassifier` if the interval of its joint log-loss minus that of every other
learner, over pairs of a table and a split, lies below 0, "behind" if one lies above 0, else "open". Groups of queries
that a learner gives no probability are counted as "impossible together", and left out of its mean.

    python -m experiments shipped_uncertainty            # 4 tables, 3 splits
    python -m experiments shipped_uncertainty --no-tuned # with released settings
    python -m experiments shipped_uncertainty standard   # 10 splits
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from experiments.epistemic._shipped_learners import LEARNERS, OURS, RELEASED, SEQUENCES, Fit, Tune
from experiments.suite.cells import remember, settings_of
from experiments.suite.intervals import list_interval
from experiments.suite.results import write_result
from experiments.suite.tables import format_columns, format_estimate
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn.runs.weights import theta_sha256
from metalearn_models.learners.library import load
from metalearn_models.tabular.transformer import library as tables
from metalearn_tasks import datasets

SCORE = "log-loss"
BINS = 10
GROUPS = 2
"""How often tau queries are predicted together, per split: a refit is made for each of them."""


@dataclass(frozen=True)
class ShippedConfig:
    """Score what is shipped by its marginal and joint predictions."""

    tables: tuple[str, ...] = ("iris", "wine", "breast_cancer", "digits")
    """Bundled data sets."""
    rows: int = 40
    """Rows that every learner is given."""
    queries: int = 50
    """Rows that are predicted, the others of a table that come first."""
    tau: int = 5
    """Queries that are predicted together."""
    splits: int = 3
    """Random splits per table."""
    tuned: bool = True
    """Whether learners that are not shipped choose their setting; else they have the released ones."""
    out: Path = Path("runs/shipped_uncertainty")
    """Folder of the cells, the table and the picture."""


PRESETS = {"quick": ShippedConfig(), "standard": ShippedConfig(splits=10)}


def measure(tune: Tune, refit: bool, parts: tuple[np.ndarray, ...], classes: int, tau: int) -> dict[str, Any]:
    """All measures of one learner on one split.

    Args:
        tune: of `LEARNERS`.
        refit: whether the joint log-loss by the chain rule is measured.
        parts: rows and labels that are given, queries and their labels.
        classes: number of classes.
        tau: queries that are predicted together.
    """
    X, y, Q, labels = parts
    fit = tune(X, y, classes)
    model = fit(X, y, classes)
    each = model.ask(Q)
    found, at = each.mean(0), np.arange(len(Q))
    groups = [np.arange(i * tau, (i + 1) * tau) for i in range(GROUPS)]
    with np.errstate(divide="ignore"):
        alone, by_index = -np.log(found[at, labels]), np.log(each[:, at, labels])
        row: dict[str, Any] = {"log-loss": alone, "brier": np.square(found - np.eye(classes)[labels]).sum(1)}
        if len(each) > 1:
            joint = [np.logaddexp.reduce(by_index[:, group].sum(1)) - np.log(len(each)) for group in groups]
            row["joint, index"] = -np.array(joint)
        if refit:
            row["joint"] = np.array([_chain(fit, X, y, Q[g], labels[g], classes) for g in groups])
    row["marginals"] = np.array([alone[group].sum() for group in groups])
    impossible = {name: int(np.isinf(values).sum()) for name, values in row.items()}
    means = {name: _mean(values[np.isfinite(values)]) for name, values in row.items()}
    sure, right = found.max(1), found.argmax(1) == labels
    half = len(Q) // 2
    surest = np.argsort(-sure)[:half]
    if model.variance is not None and model.given is not None:
        variance = np.zeros((len(Q), classes))
        variance[:, model.given] = model.variance(Q)
        steady = np.argsort(variance[at, found.argmax(1)])[:half]
        means["accuracy of the steadiest half"] = float(right[steady].mean())
    return {
        **means,
        "impossible": impossible,
        "accuracy": float(right.mean()),
        "accuracy of the surest half": float(right[surest].mean()),
        "calibration error": calibration_error(sure, right),
    }


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _chain(fit: Fit, X: np.ndarray, y: np.ndarray, Q: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """Minus the log-probability of several labels, each predicted after the ones before it were learned from."""
    total = 0.0
    for t in range(len(labels)):
        model = fit(np.concatenate([X, Q[:t]]), np.concatenate([y, labels[:t]]), classes)
        total -= float(np.log(model.ask(Q[t : t + 1]).mean(0)[0, labels[t]]))
    return total


def calibration_error(sure: np.ndarray, right: np.ndarray) -> float:
    """The mean gap between accuracy and the largest probability, over ten bins of equal width, by their size.

    Args:
        sure: the largest probability of each query.
        right: whether its class is the label.
    """
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    gaps = [abs(right[bins == b].mean() - sure[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return float(sum(gaps))


def run(config: ShippedConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Score what is missing, summarise and draw.

    Raises:
        ValueError: a number is out of its range, or a table is too small.
    """
    if min(config.rows, config.tau, config.splits) < 1 or config.queries < GROUPS * config.tau:
        raise ValueError(
            f"--rows, --tau and --splits must be at least 1, and --queries at least {GROUPS} times --tau; got "
            f"{config.rows}, {config.tau}, {config.splits} and {config.queries}"
        )
    start, rows = time.monotonic(), []
    weights = [theta_sha256(trained.theta) for trained in (tables.load(tables.shipped()[0]), load(SEQUENCES))]
    settings = settings_of(config, ("tables", "splits")) | {"weights": weights}
    for table in config.tables:
        data = datasets.load(table)
        inputs = np.concatenate([data.train.inputs, data.test.inputs]).astype(np.float64)
        labels = np.concatenate([data.train.labels, data.test.labels])
        if len(labels) < config.rows + config.queries:
            raise ValueError(f"{table} has {len(labels)} rows, fewer than --rows and --queries together")
        for split in range(config.splits):
            order = np.random.default_rng(split).permutation(len(labels))
            given, asked = np.split(order[: config.rows + config.queries], [config.rows])
            mean, scale = inputs[given].mean(0), inputs[given].std(0)
            X = (inputs - mean) / np.where(scale > 0, scale, 1)
            parts = (X[given], labels[given], X[asked], labels[asked])
            for name, (tune, refit) in (LEARNERS if config.tuned else RELEASED).items():
                compute = functools.partial(measure, tune, refit, parts, data.classes, config.tau)
                part = f"{table}-{split}-{name.replace(', ', '-')}"
                found = remember(config.out, part, settings, compute)
                rows.append({"table": table, "split": split, "learner": name, **found})
                if progress is not None:
                    progress.note(f"{table}, split {split}, {name}: log-loss {found['log-loss']:.3f}")
    result = {
        **summarise(rows),
        "rows": rows,
        "seconds": round(time.monotonic() - start, 1),
        "picture": str(config.out / "shipped_uncertainty.png"),
    }
    draw(result, config.out / "shipped_uncertainty.png")
    return write_result(config.out, result)


MEASURES = (
    "log-loss",
    "marginals",
    "joint",
    "joint, index",
    "calibration error",
    "accuracy",
    "accuracy of the surest half",
    "accuracy of the steadiest half",
)


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over tables and splits, differences of the joint log-loss from `InContextClassifier`'s, and the verdict."""
    by_learner = {name: [row for row in rows if row["learner"] == name] for name in LEARNERS}

    def joint(name: str) -> np.ndarray:
        return np.array([row.get("joint", row.get("joint, index")) for row in by_learner[name]], np.float64)

    summary = {
        name: {
            measure: list_interval(_finite([row[measure] for row in part]))
            for measure in MEASURES
            if all(measure in row for row in part)
        }
        | {
            "impossible": sum(row["impossible"]["log-loss"] for row in part),
            "impossible together": sum(row["impossible"].get("joint", 0) for row in part),
            "impossible, index": sum(row["impossible"].get("joint, index", 0) for row in part),
        }
        for name, part in by_learner.items()
    }
    gaps = {name: list_interval(_finite(joint(OURS) - joint(name))) for name in LEARNERS if name != OURS}
    ahead, behind = all(g[2] < 0 for g in gaps.values()), any(g[1] > 0 for g in gaps.values())
    verdict = "ahead" if ahead else "behind" if behind else "open"
    losses = {name: float(np.mean([row["log-loss"] for row in part])) for name, part in by_learner.items()}
    least = min(losses, key=lambda name: losses[name])
    least_joint = min(LEARNERS, key=lambda name: float(_finite(joint(name)).mean()))
    words = f"least log-loss: {least}; least joint log-loss: {least_joint}"
    return {"summary": summary, "joint minus others": gaps, "verdict": verdict, "words": words}


def _finite(values: ArrayLike) -> np.ndarray:
    """Without the splits in which no group of queries has a probability; those are counted elsewhere."""
    found = np.asarray(values, np.float64)
    return found[np.isfinite(found)]


def format_result(result: Mapping[str, Any]) -> str:
    """The table and the verdict."""
    names = list(result["summary"])
    columns = {
        measure: [format_estimate(result["summary"][name].get(measure, [None] * 3), ".3f") for name in names]
        for measure in MEASURES
    }
    for counted in ("impossible", "impossible together", "impossible, index"):
        columns[counted] = [str(result["summary"][name][counted]) for name in names]
    gaps = [f"joint of {OURS} minus {n}: {format_estimate(g, '.2f')}" for n, g in result["joint minus others"].items()]
    return "\n".join(
        [format_columns(names, columns), *gaps, f"verdict: {result['verdict']}; {result['words']}", result["picture"]]
    )


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw log-loss and calibration error of every learner."""
    figure, axes = new_figure(columns=2, width=4.0, height=3.0)
    names = list(result["summary"])
    for ax, measure in zip(axes, ("log-loss", "calibration error"), strict=True):
        values = np.array([result["summary"][name][measure] for name in names], np.float64)
        reach = np.abs(values[:, 1:] - values[:, :1])
        ax.barh(names, values[:, 0], xerr=np.where(np.isfinite(reach), reach, 0).T, color="#56B4E9", capsize=2)
        ax.invert_yaxis()
        ax.set_xlabel(measure)
    save(figure, path)
