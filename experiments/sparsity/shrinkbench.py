"""Pruning methods compared as ShrinkBench asks: accuracy against compression and against theoretical speed-up.

Blalock, Gonzalez Ortiz, Frankle, Guttag 2020, "What is the State of Neural Network Pruning?" (arXiv 2003.03033). Each
trained network is pruned once per method and compression and fine-tuned, all with the same number of steps, learning
rate, batches and initial weights. SNIP prunes before training and then trains for as many steps as the others train and
fine-tune; the lottery ticket does so from the initial weights with the trained network's masks. All kernels are pruned,
the last one too: these networks are so small that ShrinkBench's rule, which leaves it dense, would end at 12-fold
compression. Two architectures on MNIST and two on 8 x 8 digits are what there is without a download. The paper asks for
larger data, and says that MNIST alone proves nothing.

The verdict is by a rule that was written before the first run. Differences of top-1 are averaged over compressions of
at least 8, then over pairs, which leaves a number per seed; a claim holds if the 95 % interval over seeds lies above 0,
is reversed if it lies below, and is open otherwise.

1. Random pruning is worse than magnitude: the smaller mean of global magnitude minus random and of layer-wise magnitude
   minus random, at equal compression.
2. Global wins per size: global minus layer-wise magnitude at equal compression.
3. Layer-wise wins per operation: layer-wise minus global magnitude at equal theoretical speed-up, for pairs with
   convolutions. The global curve is interpolated linearly in the logarithm of the speed-up, at the layer-wise points
   within its range; all of these count.

Reproduced: all three hold. Not reproduced: one is reversed. Else open.

    python -m experiments shrinkbench --mnist FOLDER          # two architectures per data set, 5 seeds
    python -m experiments shrinkbench quick --mnist FOLDER    # three pairs, 3 seeds
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.sparsity._methods import EARLY, METHODS
from experiments.sparsity._networks import PAIRS, Task, dense_masks, load_task
from experiments.suite.cells import remember
from experiments.suite.intervals import list_interval
from experiments.suite.results import write_result
from experiments.suite.tables import format_estimate
from metalearn.errors import DataNotPreparedError
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn_models.sparsity import apply_masks, report
from metalearn_models.sparsity.pruning import magnitude, share_to_keep
from metalearn_models.sparsity.tradeoffs import Outcome, draw_tradeoffs, format_tradeoffs, outcome


@dataclass(frozen=True)
class ShrinkbenchConfig:
    """Prune trained networks with every method, at every compression, and fine-tune them."""

    pairs: tuple[str, ...] = tuple(PAIRS)
    """Pairs of data and architecture; those whose data are not here are left out."""
    mnist: str = "mnist"
    """A folder that tensorflow-datasets prepared, or a name it knows."""
    compressions: tuple[float, ...] = (2, 4, 8, 16, 32)
    """All parameters over those that stay."""
    seeds: int = 5
    """Initial networks per pair."""
    steps: int = 2000
    """Steps of training before pruning."""
    tune_steps: int = 1200
    """Steps of fine-tuning after it."""
    rate: float = 2e-3
    """Learning rate of Adam, with a cosine schedule in both phases."""
    score_batch: int = 128
    """Examples of the one batch that scores see."""
    gradients: int = 128
    """Gradients, of 16 examples each, per round of the brain surgeon."""
    rounds: int = 4
    """Rounds of the brain surgeon."""
    block: int = 2000
    """Weights per block of the brain surgeon's Fisher matrix."""
    out: Path = Path("runs/shrinkbench")
    """Folder of the pictures and the table; the same command continues what is in it."""


PRESETS = {
    "standard": ShrinkbenchConfig(),
    "quick": ShrinkbenchConfig(
        pairs=tuple(PAIRS)[:3], seeds=3, steps=800, tune_steps=200, out=Path("runs/shrinkbench-quick")
    ),
}
FROM = 8
"""The least compression that the claims look at."""


def run(config: ShrinkbenchConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Train, prune, tune and draw; returns what result.json holds."""
    began = time.monotonic()
    pairs, skipped = {}, {}
    for name in config.pairs:
        try:
            task = load_task(name, config.mnist)
        except DataNotPreparedError as error:
            skipped[name] = str(error)
            continue
        cells = []
        for seed in range(config.seeds):
            cells.append(measure_network(task, name, config, seed))
            if progress is not None:
                progress.note(f"{name}: network {seed + 1} of {config.seeds}")
        pairs[name] = join_seeds(cells)
    if not pairs:
        raise DataNotPreparedError(next(iter(skipped.values()), "no pair was asked for: name some with --pairs"))
    pictures = [draw(config.out, name, pair) for name, pair in pairs.items()]
    result = {
        "pairs": pairs,
        "skipped": skipped,
        "summary": summarise(pairs, config.compressions),
        "seconds": round(time.monotonic() - began, 1),
        "pictures": [str(picture) for picture in pictures],
    }
    return write_result(config.out, result)


def measure_network(task: Task, name: str, config: ShrinkbenchConfig, seed: int) -> dict[str, list[Any]]:
    """Outcomes of one initial network: by method one for each compression, and one of the control, "unpruned"."""
    key = jax.random.key(seed)
    tune_key, steps = jax.random.fold_in(key, 2), config.steps + config.tune_steps
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in ("out", "pairs", "seeds")}

    @cache
    def networks() -> tuple[Any, Any]:
        start = task.init(key)
        return start, task.train(start, dense_masks(start), jax.random.fold_in(key, 1), config.steps, config.rate)

    def finish(params: Any, masks: Any, steps: int) -> Outcome:
        trained = task.train(apply_masks(params, masks), masks, tune_key, steps, config.rate)
        test = task.data.test
        return outcome(report(trained, masks, task.apply, test.inputs, labels=test.labels))

    def measure_control() -> list[Outcome]:
        dense = networks()[1]
        return [finish(dense, dense_masks(dense), config.tune_steps)]

    def measure(prune: Callable[..., tuple[Any, Any]], early: bool) -> list[Outcome]:
        start, dense = networks()
        shares = [share_to_keep(dense, magnitude(dense), c) for c in config.compressions]
        pruned = [prune(task, config, start, dense, jax.random.fold_in(key, 3), share) for share in shares]
        return [finish(params, masks, steps if early else config.tune_steps) for params, masks in pruned]

    work = {"unpruned": measure_control} | {m: partial(measure, prune, m in EARLY) for m, prune in METHODS.items()}
    place = f"{_slug(name)}-{seed}"
    return {
        method: remember(config.out, f"{place}-{_slug(method)}", {**settings, "pair": name}, compute)
        for method, compute in work.items()
    }


def join_seeds(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The outcomes of several networks: by method, for each compression, that of each network."""
    return {
        "unpruned": [cell["unpruned"][0] for cell in cells],
        "methods": {
            name: [[cell[name][i] for cell in cells] for i in range(len(points))]
            for name, points in cells[0].items()
            if name != "unpruned"
        },
    }


def summarise(pairs: Mapping[str, Any], compressions: Sequence[float]) -> dict[str, Any]:
    """The verdict by the rule of this module: differences of top-1 in points, with their 95 % intervals over seeds."""
    large = [i for i, c in enumerate(compressions) if c >= FROM]

    def scores(pair: Mapping[str, Any], method: str) -> np.ndarray:
        return 100 * np.asarray(pair["methods"][method])[large, :, 2].mean(0)

    def over_pairs(one: str, two: str) -> list[float]:
        return list_interval(np.mean([scores(p, one) - scores(p, two) for p in pairs.values()], 0).tolist())

    convolutions = [pair for name, pair in pairs.items() if "conv" in name]
    random_claims = [over_pairs(f"{scope} magnitude", "random") for scope in ("global", "layer-wise")]
    claims = {
        "magnitude - random": min(random_claims, key=lambda interval: interval[0]),
        "global - layer-wise, per size": over_pairs("global magnitude", "layer-wise magnitude"),
    }
    if convolutions:
        per_seed = np.mean([at_equal_speed_up(pair) for pair in convolutions], 0)
        claims["layer-wise - global, per operation"] = list_interval(per_seed.tolist())
    states = {name: _state(interval) for name, interval in claims.items()}
    if "reversed" in states.values():
        verdict = "not reproduced"
    else:
        verdict = "reproduced" if set(states.values()) == {"holds"} and len(states) == 3 else "open"
    return {"claims": claims, "states": states, "verdict": verdict}


def at_equal_speed_up(pair: Mapping[str, Any]) -> np.ndarray:
    """Layer-wise minus global magnitude in points of top-1, per seed, averaged over the layer-wise points in range."""
    layerwise, globally = (np.asarray(pair["methods"][f"{scope} magnitude"]) for scope in ("layer-wise", "global"))
    differences = []
    for seed in range(layerwise.shape[1]):
        one, two = layerwise[:, seed], globally[:, seed]
        order = np.argsort(two[:, 1])
        inside = one[(one[:, 1] >= two[:, 1].min()) & (one[:, 1] <= two[:, 1].max())]
        other = np.interp(np.log(inside[:, 1]), np.log(two[order, 1]), two[order, 2])
        differences.append(100 * float((inside[:, 2] - other).mean()))
    return np.asarray(differences)


def _state(interval: Sequence[float]) -> str:
    _, low, high = interval
    return "holds" if low > 0 else "reversed" if high < 0 else "open"


def _outcomes(pair: Mapping[str, Any]) -> tuple[dict[str, list[list[Outcome]]], list[Outcome]]:
    methods = {name: [[Outcome(*one) for one in point] for point in points] for name, points in pair["methods"].items()}
    return methods, [Outcome(*one) for one in pair["unpruned"]]


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def draw(folder: Path, name: str, pair: Mapping[str, Any]) -> Path:
    """Draw the two pictures of a pair side by side; returns their file."""
    figure, axes = new_figure(columns=2, width=4.6, height=3.8)
    draw_tradeoffs(axes, *_outcomes(pair))
    axes[0].set_title(name, fontsize=9)
    return save(figure, folder / f"{_slug(name)}.png")


def format_result(result: Mapping[str, Any]) -> str:
    """The table of each pair, the claims and the verdict."""
    lines = []
    for name, pair in result["pairs"].items():
        lines += [name, format_tradeoffs(*_outcomes(pair)), ""]
    summary = result["summary"]
    for claim, interval in summary["claims"].items():
        lines.append(f"{claim}: {format_estimate(interval, '.2f')} points of top-1: {summary['states'][claim]}")
    lines.append(f"verdict: {summary['verdict']}")
    lines += [f"skipped: {name}: {reason}" for name, reason in result["skipped"].items()]
    lines.append(f"pictures: {', '.join(result['pictures'])} ({result['seconds']} s)")
    return "\n".join(lines)
