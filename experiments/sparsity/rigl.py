"""Sparse training on MNIST: RigL against SET, SNFS, static masks, pruning and small dense networks.

Evci, Gale, Menick, Castro and Elsen 2020 (arXiv 1911.11134), Figure 2 and its MNIST networks, at the size of a laptop:
LeNet-300-100 and a small convolutional network, ERK, several sparsities and lengths of training. Accuracy on test
images and loss on training images stand against the FLOPs of training, counted by the paper's formulas. All methods
have one setting, that of the dense network; no method is tuned.

The rule, written before the first run, for LeNet at first and for the convolutional network before its own first run.
At each sparsity of a network with the shortest training, on paired seeds:

- accuracy: pruning > RigL >= SET > static > small-dense. A ">" holds if the mean difference is positive, ">=" if its
  95 % interval is not below 0. It fails if the interval lies on the other side.
- the interval of RigL's log training loss lies below that of SET.
- where it is run, RigL at 90 % with 5 times the steps is at most half a point below the dense network.

"reproduced": all hold. "not reproduced": one fails. "open": otherwise.

    python -m experiments rigl --mnist FOLDER              # 98 and 99 %; RigL 5x at 90 %
    python -m experiments rigl standard --mnist FOLDER     # 80 to 99 %, 1x, 2x and 5x, two networks
    python -m experiments rigl quick --networks conv --size 14 --steps 800 --every 50 --batch 64 --mnist FOLDER

The last one takes convolutions on halved images.

A training that has ended is kept in `out/cells`; the same command continues.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.sparsity._training import METHODS, Cell, Schedule, train_cell
from experiments.suite.cells import remember
from experiments.suite.results import write_result
from experiments.suite.tables import format_columns, format_estimate, read_numbers
from metalearn.errors import DataNotPreparedError
from metalearn.intervals import mean_interval
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn_tasks import datasets

ORDER = (("pruning", "rigl"), ("rigl", "set"), ("set", "static"), ("static", "small-dense"))
COLORS = dict(
    zip(METHODS, ("#444444", "#999999", "#CC79A7", "#E69F00", "#56B4E9", "#0072B2", "#000000", "#009E73"), strict=True)
)


@dataclass(frozen=True)
class RiglConfig:
    """Train sparse networks on MNIST."""

    mnist: str = "mnist"
    """A folder that tensorflow-datasets prepared, or a name it knows."""
    networks: tuple[str, ...] = ("lenet",)
    """LeNet-300-100 ("lenet"), or three convolutions of 16, 32 and 64 channels ("conv")."""
    methods: tuple[str, ...] = ("dense", "small-dense", "static", "set", "snfs", "rigl", "pruning")
    """Methods, of those and "rigl-released"."""
    sparsities: tuple[float, ...] = (0.98, 0.99)
    """Shares of the kernels that are off."""
    lengths: tuple[int, ...] = (1,)
    """Lengths of the training, times `steps`; the schedules stretch with them."""
    long: tuple[float, ...] = (0.9,)
    """Sparsities at which RigL is also trained five times as long, beside the dense network."""
    steps: int = 4000
    """Steps of the shortest training."""
    every: int = 100
    """Steps between two changes of connections, Delta T."""
    batch: int = 128
    """Images per step."""
    size: int | None = None
    """Height and width to which images are resized. None: as they are."""
    seeds: int = 5
    """Repetitions, each with its own initial weights, masks and order of the images."""
    out: Path = Path("runs/rigl")
    """Folder of the cells, the table and the picture."""


PRESETS = {
    "quick": RiglConfig(),
    "standard": RiglConfig(
        networks=("lenet", "conv"),
        methods=METHODS,
        sparsities=(0.8, 0.9, 0.95, 0.98, 0.99),
        lengths=(1, 2, 5),
    ),
}


def list_cells(config: RiglConfig) -> list[Cell]:
    """All trainings: seeds outermost, so that what is there of an interrupted run can be compared."""
    cells: dict[Cell, None] = {}
    for seed in range(config.seeds):
        for network in config.networks:
            for length in config.lengths:
                for method in config.methods:
                    for sparsity in (0.0,) if method == "dense" else config.sparsities:
                        cells[Cell(network, method, sparsity, length, seed)] = None
            for sparsity in config.long:
                cells[Cell(network, "rigl", sparsity, 5, seed)] = None
    return list(cells)


def run(config: RiglConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Train what is missing, summarise and draw.

    If the data set is not there, nothing is written, and the result is `{"skipped": the reason}`.

    Raises:
        ValueError: a method or a network has no such name.
    """
    for kind, names, known in (("method", config.methods, METHODS), ("network", config.networks, ("lenet", "conv"))):
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"--{kind}s takes {', '.join(known)}, got {', '.join(unknown)}")
    try:
        data = datasets.load(config.mnist, size=config.size)
    except DataNotPreparedError as error:
        return {"skipped": str(error)}
    schedule = Schedule(config.steps, config.every, config.batch)
    settings = {**vars(schedule), "size": config.size, "data": datasets.content_sha256(config.mnist) or config.mnist}
    start, rows, cells = time.monotonic(), [], list_cells(config)

    def train(number: int, cell: Cell) -> dict[str, Any]:
        began = time.monotonic()
        row = {**vars(cell), **train_cell(cell, data, schedule), "seconds": time.monotonic() - began}
        if progress is not None:
            progress.note(f"{number}/{len(cells)} {cell.name}: {row['accuracy']:.4f}, {row['seconds']:.0f} s")
        return row

    for number, cell in enumerate(cells, 1):
        rows.append(remember(config.out, cell.name, settings, functools.partial(train, number, cell)))
    result = {
        "data": f"{data.name}: {len(data.train.labels)} training images, {len(data.test.labels)} test images",
        **summarise(rows),
        "cell_seconds": round(sum(row["seconds"] for row in rows), 1),
        "seconds": round(time.monotonic() - start, 1),
        "picture": str(config.out / "rigl.png"),
    }
    draw(result, config.out / "rigl.png")
    return write_result(config.out, result)


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over seeds, the claims at each sparsity, and the verdict.

    Args:
        rows: one per training.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        groups.setdefault((row["network"], row["method"], row["sparsity"], row["length"]), []).append(row)
    summary = [
        dict(zip(("network", "method", "sparsity", "length"), key, strict=True))
        | {
            "accuracy": list(mean_interval([r["accuracy"] for r in group])),
            "log_loss": list(mean_interval([np.log(r["loss"]) for r in group])),
            "flops": group[0]["flops"],
            "connections": group[0]["connections"],
            "seeds": len(group),
        }
        for key, group in groups.items()
    ]
    claims = judge(groups)
    wrong = [c["claim"] for c in claims if c["state"] == "fails"]
    unclear = [c["claim"] for c in claims if c["state"] == "open"]
    verdict = "not reproduced" if wrong else "open" if unclear or not claims else "reproduced"
    return {"summary": summary, "claims": claims, "verdict": verdict, "words": "; ".join(wrong or unclear)}


def judge(groups: Mapping[tuple[Any, ...], Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The claims of the rule at the head of this module, with the differences that decide them."""
    claims = []
    shortest = {name: min(k for n, _, _, k in groups if n == name) for name, *_ in groups}
    for network, sparsity in sorted({(n, s) for n, method, s, _ in groups if method == "static"}, reverse=True):
        place, here = f"{network} {sparsity:.0%}", (network, sparsity, shortest[network])
        at = {m: rows for (n, m, s, k), rows in groups.items() if (n, s, k) == here}
        for better, worse in ORDER:
            if better not in at or worse not in at:
                continue
            pairs = zip(at[better], at[worse], strict=True)
            found = mean_interval([a["accuracy"] - b["accuracy"] for a, b in pairs])
            equal = (better, worse) == ("rigl", "set")
            holds = found.high >= 0 if equal else found.mean > 0
            sign = ">=" if equal else ">"
            state = "holds" if holds else "fails" if found.high < 0 else "open"
            claims.append(_claim(f"{place}: {better} {sign} {worse}", found, state))
        if "rigl" in at and "set" in at:
            ours, others = (mean_interval([np.log(r["loss"]) for r in at[m]]) for m in ("rigl", "set"))
            state = "holds" if ours.high < others.low else "fails" if ours.low > others.high else "open"
            pairs = zip(at["rigl"], at["set"], strict=True)
            found = mean_interval([np.log(a["loss"]) - np.log(b["loss"]) for a, b in pairs])
            claims.append(_claim(f"{place}: log training loss of rigl below set", found, state))
    for (network, method, sparsity, length), rows in groups.items():
        dense = groups.get((network, "dense", 0.0, shortest[network]))
        if dense and (method, sparsity, length) == ("rigl", 0.9, 5):
            found = mean_interval([a["accuracy"] - b["accuracy"] for a, b in zip(rows, dense, strict=True)])
            state = "holds" if found.mean >= -0.005 else "fails" if found.high < -0.005 else "open"
            claims.append(_claim(f"{network} 90%: rigl with 5x the steps >= dense - .005", found, state))
    return claims


def _claim(text: str, difference: Any, state: str) -> dict[str, Any]:
    return {"claim": text, "difference": [float(x) for x in difference], "state": state}


def format_result(result: Mapping[str, Any]) -> str:
    """The table, the claims and the verdict."""
    if "skipped" in result:
        return f"skipped, no MNIST here: {result['skipped']}"
    rows = result["summary"]
    columns = {
        "accuracy, %": [format_estimate([None if x is None else 100 * x for x in r["accuracy"]], ".2f") for r in rows],
        "log training loss": [format_estimate(r["log_loss"], ".2f") for r in rows],
        "training FLOPs, dense = 1": [f"{r['flops']:.4g}" for r in rows],
        "weights": [f"{r['connections']:,}" for r in rows],
        "seeds": [str(r["seeds"]) for r in rows],
    }
    names = [f"{r['network']} {r['sparsity']:.0%} {r['length']}x {r['method']}" for r in rows]
    claims = [f"{c['claim']}: {c['state']}, {format_estimate(c['difference'], '.4f')}" for c in result["claims"]]
    return "\n".join(
        [
            format_columns(names, columns),
            "",
            *claims,
            f"verdict: {result['verdict']}" + (f": {result['words']}" if result["words"] else ""),
            f"{result['data']}; picture: {result['picture']} ({result['cell_seconds']:.0f} s of training)",
        ]
    )


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw test error and training loss against the FLOPs of training: a color per method, a marker per length."""
    networks = list(dict.fromkeys(row["network"] for row in result["summary"]))
    figure, axes = new_figure(columns=2 * len(networks), width=4.4, height=4.2)
    for i, network in enumerate(networks):
        error, loss = axes[2 * i : 2 * i + 2]
        for method in METHODS:
            rows = [r for r in result["summary"] if (r["network"], r["method"]) == (network, method)]
            _draw_method(error, rows, lambda row: 100 * (1 - read_numbers(row["accuracy"], np.nan)))
            _draw_method(loss, rows, lambda row: np.exp(read_numbers(row["log_loss"], np.nan)))
        for ax, label in ((error, "test error, %"), (loss, "training loss")):
            ax.set_xscale("log")
            ax.set_yscale("log")
            ax.set_xlabel("FLOPs of training, dense 1x = 1")
            ax.set_ylabel(label)
            ax.set_title({"lenet": "LeNet-300-100", "conv": "three convolutions"}[network], fontsize=9)
        error.legend(fontsize=7, frameon=False)
    save(figure, path)


def _draw_method(ax: Any, rows: Sequence[Mapping[str, Any]], values: Callable[[Mapping[str, Any]], np.ndarray]) -> None:
    """One line per length; `values` gives the mean and the two ends of its interval."""
    for j, length in enumerate(sorted({row["length"] for row in rows})):
        part = sorted((r for r in rows if r["length"] == length), key=lambda r: r["flops"])
        points = np.array([values(row) for row in part])
        reach = np.abs(points[:, 1:] - points[:, :1])
        ax.errorbar(
            [row["flops"] for row in part],
            points[:, 0],
            np.where(np.isfinite(reach), reach, 0.0).T,
            fmt={1: "o-", 2: "s--", 5: "^:"}.get(length, "d-"),
            color=COLORS[part[0]["method"]],
            markersize=4,
            linewidth=1,
            capsize=2,
            label=part[0]["method"] if not j else None,
        )
