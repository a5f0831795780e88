"""Mini-block Fisher on an autoencoder and on a small convolutional network, against Adam, momentum and KFAC.

Bahamou, Goldfarb and Ren, "A mini-block Fisher method for deep neural networks" (AISTATS 2023, arXiv 2202.04124). We
could read the abstract alone: it names autoencoders and convolutional networks, and says that an update costs little
more than one of a first-order method. The networks here have 8 x 8 digits as inputs and sizes of our choice:
64-32-16-8-16-32-64, and two convolutions with 8 and 16 channels before a dense layer; no biases, 300 updates on batches
of 100. Every method has momentum .9 (Adam its own) and is tuned on a grid of its own with 24 points, as in `neurons`.

Rule of the verdict, written before the first run. On each network two ratios of final training losses are taken seed by
seed: mini-block Fisher, one block per neuron or kernel, over Adam, and over momentum. Reproduced: the geometric mean of
each is below 1 with its whole 95 % interval (Student's t on logarithms), and an update costs at most twice Adam's. Not
reproduced: an interval lies above 1. Open: otherwise, and where one of the three diverged. KFAC and the variant with
one mean block per layer stand beside them and decide nothing.

    OPENBLAS_NUM_THREADS=1 python -m experiments mini_blocks            # both networks
    OPENBLAS_NUM_THREADS=1 python -m experiments mini_blocks quick      # two seeds, fewer tuning runs
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from experiments.optimizers.neurons.experiment import Effort, compare, final_losses, format_result, ratio
from experiments.optimizers.neurons.methods import Method, dampings, gradient, rates, sampled, statistics
from experiments.optimizers.neurons.picture import draw
from experiments.optimizers.neurons.tasks import Task
from experiments.suite.results import write_result
from metalearn.errors import unknown_name
from metalearn.runs.progress import Progress
from metalearn_models.optimizers.curvature import kfac
from metalearn_models.optimizers.curvature.mini_block import mini_block_fisher

__all__ = ["METHODS", "PRESETS", "TASKS", "MiniBlocksConfig", "format_result", "judge", "run"]

TASKS = {
    "autoencoder": Task((32, 16, 8), None, 0.0, 100, 300, network="autoencoder"),
    "conv": Task((8, 16), None, 0.0, 100, 300, network="conv"),
}
"""Networks by name."""
SCORES = {"autoencoder": "variance of test digits explained, %", "conv": "test accuracy, %"}
PERIOD = 20
"""Updates per inverse, of mini-block Fisher and of KFAC; our choice."""
BLOCKS = dampings((1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0), (0.03, 0.1, 0.3, 1.0))
FACTORS = dampings((1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1), (0.3, 3.0, 30.0, 300.0))
METHODS: dict[str, Method] = {
    "SGD, momentum .9": Method(lambda rate, _: optax.sgd(rate, 0.9), rates(3e-4, 1.0), gradient),
    "Adam": Method(lambda rate, _: optax.adam(rate), rates(1e-4, 0.1), gradient),
    "KFAC, heuristic": Method(lambda r, d: kfac(r, d, 0.9, period=PERIOD), FACTORS, sampled),
    "MBF": Method(lambda r, d: mini_block_fisher(r, d, period=PERIOD), BLOCKS, statistics),
    "MBF, layer mean": Method(lambda r, d: mini_block_fisher(r, d, blocks="mean", period=PERIOD), BLOCKS, statistics),
}
"""All methods by name, each with its grid."""
RULE = (("MBF", "Adam"), ("MBF", "SGD, momentum .9"))
"""Pairs of methods of which the first must have the lower final training loss."""
MOST_COST = 2.0
"""Times the milliseconds of Adam that an update of mini-block Fisher may cost."""


@dataclass(frozen=True)
class MiniBlocksConfig:
    """Mini-block Fisher against Adam, momentum and KFAC on an autoencoder and a convolutional network."""

    tasks: tuple[str, ...] = tuple(TASKS)
    """What is trained: autoencoder, conv."""
    tuning_seeds: int = 3
    """Runs of the best quarter of the grid points; all others are run once."""
    seeds: int = 5
    """Runs of the best point."""
    turns: int = 5
    """Turns in which all methods are timed, one run each; the fastest counts."""
    out: Path = Path("runs/mini_blocks")
    """Folder of the pictures, the table, and the runs that are kept."""


PRESETS = {
    "standard": MiniBlocksConfig(),
    "quick": MiniBlocksConfig(tuning_seeds=1, seeds=2, turns=1, out=Path("runs/mini_blocks-quick")),
}


def run(config: MiniBlocksConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Tune, compare, time and draw; returns what result.json holds.

    Raises:
        UnknownNameError: a task is not known; with the nearest name.
    """
    for name in config.tasks:
        if name not in TASKS:
            raise unknown_name("task", name, TASKS)
    begun = time.monotonic()
    note = (lambda text: None) if progress is None else progress.note
    effort = Effort(config.tuning_seeds, None, config.seeds, config.turns)
    results = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for name in config.tasks:
            results[name] = compare(
                effort, TASKS[name], METHODS, config.out / name, lambda text, n=name: note(f"{n}: {text}")
            )
    pictures = {
        name: str(draw(found, name, config.out / f"mini_blocks-{name}.png", SCORES[name]))
        for name, found in results.items()
    }
    verdicts = {name: judge(found["methods"]) for name, found in results.items()}
    result = {"tasks": results, "verdicts": verdicts, "pictures": pictures}
    return write_result(config.out, result | {"seconds": round(time.monotonic() - begun, 1)})


def judge(methods: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The verdict on one network by the rule of this module: the ratios, the cost, the verdict and its reasons."""
    ratios = {f"{a} over {b}": ratio(methods, a, b) for a, b in RULE}
    cost = methods["MBF"]["milliseconds_per_step"] / methods["Adam"]["milliseconds_per_step"]
    names = sorted({name for pair in RULE for name in pair})
    diverged = [name for name in names if not np.isfinite(final_losses(methods[name]["train_loss"])).all()]
    if diverged:
        verdict = "open"
    elif any(low > 1 for _, low, _ in ratios.values()):
        verdict = "not reproduced"
    elif cost <= MOST_COST and all(high < 1 for _, _, high in ratios.values()):
        verdict = "reproduced"
    else:
        verdict = "open"
    words = "; ".join(f"{name} {v:.3g} [{low:.3g}, {high:.3g}]" for name, (v, low, high) in ratios.items())
    words += f"; an update costs {cost:.1f} times Adam's" + (f"; diverged: {', '.join(diverged)}" if diverged else "")
    return {"verdict": verdict, "words": words, "ratios": ratios, "cost": cost}
