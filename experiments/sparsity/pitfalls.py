"""Three ways to compare pruning methods that turn the ranking round, each shown once on a small network.

Blalock, Gonzalez Ortiz, Frankle, Guttag 2020 (arXiv 2003.03033) find that most papers cannot be compared. Here the
network is two convolutions on 8 x 8 digits, and every pitfall is a pair of differences in top-1 between two methods,
which a fair and an unfair comparison of the same methods give.

1. The initial weights. Global minus layer-wise magnitude, one shot, on trained networks, and on the same networks with
   the first layer divided by `scale` and the second multiplied by it. With ReLU both compute the same function. The
   direction was chosen to harm the global method, which compares weights of different layers.
2. The drop instead of the accuracy. Random pruning of networks that were trained briefly, minus global magnitude of
   networks that were trained well, both fine-tuned: once in the fall of top-1 from the unpruned network, with the sign
   that makes a smaller fall better, once in top-1.
3. The axis. Global minus layer-wise magnitude, fine-tuned, at equal compression (mean over compressions of at least 8)
   and at equal theoretical speed-up (mean over the layer-wise points within the range of the global ones).

The rule was written before the first run: a pitfall is shown if its two differences have opposite signs and neither of
their 95 % intervals over seeds holds 0. Reproduced: all three are shown. Not reproduced: in one pitfall both
differences have the same sign and neither interval holds 0. Else open.

    python -m experiments pruning_pitfalls          # 10 seeds
    python -m experiments pruning_pitfalls quick    # 5 seeds
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.sparsity._networks import dense_masks, load_task
from experiments.sparsity.shrinkbench import FROM, at_equal_speed_up
from experiments.suite.cells import remember
from experiments.suite.intervals import list_interval
from experiments.suite.results import write_result
from experiments.suite.tables import format_estimate
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn_models.sparsity import apply_masks, report
from metalearn_models.sparsity.pruning import keep_by_layer, keep_globally, magnitude, random, share_to_keep
from metalearn_models.sparsity.tradeoffs import Outcome, outcome

PAIR = "digits, conv 32-64"
NETWORKS = ("as trained", "rescaled")
KEEP = {"global magnitude": keep_globally, "layer-wise magnitude": keep_by_layer}


@dataclass(frozen=True)
class PitfallsConfig:
    """Compare pruning methods fairly and unfairly."""

    seeds: int = 10
    """Networks."""
    compressions: tuple[float, ...] = (2, 4, 8, 16, 32)
    """All parameters over those that stay, in the third pitfall."""
    compression: float = 4
    """The same in the first two."""
    scale: float = 8
    """By how much the second layer outgrows the first in the first pitfall, and the first shrinks."""
    brief_steps: int = 60
    """Steps of training of the networks that are trained briefly."""
    steps: int = 1000
    """Steps of training of all others."""
    tune_steps: int = 600
    """Steps of fine-tuning."""
    out: Path = Path("runs/pruning_pitfalls")
    """Folder of the picture and the table; the same command continues what is in it."""


PRESETS = {
    "standard": PitfallsConfig(),
    "quick": PitfallsConfig(seeds=5, out=Path("runs/pruning_pitfalls-quick")),
}


def run(config: PitfallsConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Train, prune and draw; returns what result.json holds."""
    began = time.monotonic()
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in ("out", "seeds")}
    cells = []
    for seed in range(config.seeds):
        cells.append(remember(config.out, f"network-{seed}", settings, partial(measure_network, config, seed)))
        if progress is not None:
            progress.note(f"network {seed + 1} of {config.seeds}")
    pitfalls = summarise(cells, config.compressions)
    states = [pitfall["state"] for pitfall in pitfalls.values()]
    result = {
        "pitfalls": pitfalls,
        "verdict": "reproduced" if set(states) == {"shown"} else "not reproduced" if "not shown" in states else "open",
        "cells": cells,
        "seconds": round(time.monotonic() - began, 1),
        "picture": str(config.out / "pitfalls.png"),
    }
    draw(config.out, pitfalls)
    return write_result(config.out, result)


def measure_network(config: PitfallsConfig, seed: int) -> dict[str, Any]:
    """All outcomes of one initial network, as lists; keys as `summarise` reads them."""
    task, key = load_task(PAIR, ""), jax.random.key(seed)
    start = task.init(key)
    train_key, tune_key, noise_key = (jax.random.fold_in(key, i) for i in (1, 2, 3))
    test = task.data.test

    def measure(params: Any, masks: Any) -> Outcome:
        return outcome(report(params, masks, task.apply, test.inputs, labels=test.labels))

    def tune(params: Any, masks: Any) -> Outcome:
        return measure(task.train(apply_masks(params, masks), masks, tune_key, config.tune_steps, 2e-3), masks)

    brief, trained = (
        task.train(start, dense_masks(start), train_key, steps, 2e-3) for steps in (config.brief_steps, config.steps)
    )
    networks = dict(zip(NETWORKS, (trained, rescale(trained, config.scale)), strict=True))
    share = share_to_keep(start, magnitude(start), config.compression)
    shares = [share_to_keep(start, magnitude(start), c) for c in config.compressions]
    return {
        "one shot": {
            network: {name: measure(params, keep(magnitude(params), share)) for name, keep in KEEP.items()}
            for network, params in networks.items()
        },
        "unpruned": {"brief": measure(brief, dense_masks(brief)), "trained": measure(trained, dense_masks(trained))},
        "random, brief": tune(brief, keep_globally(random(noise_key, brief), share)),
        "global, trained": tune(trained, keep_globally(magnitude(trained), share)),
        "curves": {
            name: [tune(trained, keep(magnitude(trained), part)) for part in shares] for name, keep in KEEP.items()
        },
    }


def rescale(params: Any, scale: float) -> Any:
    """A network that computes the same function: the first layer is divided by `scale`, the second multiplied by it."""
    first, second, *rest = params
    first = {name: leaf / scale for name, leaf in first.items()}
    return (first, {**second, "weight": second["weight"] * scale}, *rest)


def summarise(cells: Sequence[Mapping[str, Any]], compressions: Sequence[float]) -> dict[str, Any]:
    """By pitfall: its two differences in points of top-1 with 95 % intervals over seeds, and whether it is shown."""

    def top1(*path: str) -> np.ndarray:
        values = []
        for cell in cells:
            value: Any = cell
            for name in path:
                value = value[name]
            values.append(100 * value[2])
        return np.asarray(values)

    def curves(name: str) -> np.ndarray:
        return np.asarray([cell["curves"][name] for cell in cells]).transpose(1, 0, 2)  # compression, seed, outcome

    shot = {n: top1("one shot", n, "global magnitude") - top1("one shot", n, "layer-wise magnitude") for n in NETWORKS}
    accuracy = top1("random, brief") - top1("global, trained")
    both = {name: curves(name) for name in KEEP}
    large = [i for i, c in enumerate(compressions) if c >= FROM]
    by_size = 100 * (both["global magnitude"] - both["layer-wise magnitude"])[large, :, 2].mean(0)
    differences = {
        "initial weights: global - layer-wise": shot,
        "drop or accuracy: random, briefly trained - global, well trained": {
            "by the drop": accuracy - (top1("unpruned", "brief") - top1("unpruned", "trained")),
            "by the accuracy": accuracy,
        },
        "axis: global - layer-wise": {
            "at equal compression": by_size,
            "at equal speed-up": -at_equal_speed_up({"methods": both}),
        },
    }
    pitfalls = {}
    for name, row in differences.items():
        intervals = {label: list_interval(values.tolist()) for label, values in row.items()}
        pitfalls[name] = {"differences": intervals, "state": _state(list(intervals.values()))}
    return pitfalls


def _state(intervals: Sequence[Sequence[float]]) -> str:
    signs = [1 if low > 0 else -1 if high < 0 else 0 for _, low, high in intervals]
    if 0 in signs:
        return "open"
    return "shown" if signs[0] != signs[1] else "not shown"


def format_result(result: Mapping[str, Any]) -> str:
    """Both differences of each pitfall, and the verdict."""
    lines = []
    for name, pitfall in result["pitfalls"].items():
        lines.append(f"{name}: {pitfall['state']}")
        for label, interval in pitfall["differences"].items():
            lines.append(f"  {label:<22} {format_estimate(interval, '+.2f')} points of top-1")
    lines.append(f"verdict: {result['verdict']}; picture: {result['picture']} ({result['seconds']} s)")
    return "\n".join(lines)


def draw(folder: Path, pitfalls: Mapping[str, Any]) -> None:
    """Draw both differences of each pitfall with their intervals, a panel per pitfall."""
    figure, axes = new_figure(columns=len(pitfalls), width=3.6, height=3.2)
    for ax, (name, pitfall) in zip(axes, pitfalls.items(), strict=True):
        for x, (_, (mean, low, high)) in enumerate(pitfall["differences"].items()):
            finite = np.isfinite([low, high]).all()
            errors = [[mean - low], [high - mean]] if finite else None
            ax.errorbar([x], [mean], errors, fmt="o", color=f"C{x}", capsize=4)
        ax.axhline(0, color="0.3", linewidth=0.8)
        ax.set_xticks(range(2), list(pitfall["differences"]))
        ax.set_xlim(-0.6, 1.6)
        what, _, methods = name.partition(": ")
        ax.set_title(f"{what}\n{methods}", fontsize=8)
        ax.set_ylabel("difference in top-1, points")
    save(figure, folder / "pitfalls.png")
