"""What of compass matters: each arm changes one thing, is meta-trained for as many inner steps, and is tuned as well.

The arms are those of the ablation in Celo2 (Moudgil, Knyazev and Belilovsky 2026, arXiv 2602.19142) that can be had
here, and others: no meta-training, matrices that are not made orthogonal, the horizon of meta-training, fewer features.
There, on a language model of 30 million parameters, the whole rule ends at a loss of 3.81; without augmentation 4.42,
with 4 hidden units 4.13, without normalisation 3.96, with 16 hidden units 3.86. Meta-training is much shorter here, and
the tasks are small. The learning rate of each arm, task and meta-training is the best of seven, by a seed of its own.

Rule of the verdict, written before the first run: the number of an arm is the geometric mean over tasks and
meta-trainings of its final loss over that of the whole rule from the same seed; without normalisation that over the arm
without orthogonal matrices. Its interval is a bootstrap over tasks and meta-trainings. Reproduced: all arms of the
paper's table lie wholly above 1, and of these the arm without augmentation is the worst. Not reproduced: one of the
paper's arms lies wholly below 1. Open: otherwise. All other arms are reported, and do not decide.

    python -m experiments compass_ablation            # three objectives, three meta-trainings, seven tasks
    python -m experiments compass_ablation quick      # two objectives, two meta-trainings, five tasks, shorter
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from experiments.learned_optimizers.unseen_tasks.arms import ARMS, Arm, directions, meta_train
from experiments.learned_optimizers.unseen_tasks.experiment import compile_training, measure
from experiments.learned_optimizers.unseen_tasks.rules import MIDDLE, Rule, cosine
from experiments.learned_optimizers.unseen_tasks.tasks import TASKS
from experiments.suite.cells import remember, settings_of
from experiments.suite.intervals import bootstrap
from experiments.suite.results import write_result
from experiments.suite.tables import format_columns, format_estimate, read_number
from metalearn.errors import unknown_name
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn_models.optimizers.learned.compass import CompassTheta

__all__ = ["PAPER", "PRESETS", "CompassAblationConfig", "format_result", "judge", "run"]

PAPER = ("no augmentation", "no normalisation either", "4 hidden units", "16 hidden units")
"""The arms of the paper's table."""


@dataclass(frozen=True)
class CompassAblationConfig:
    """Compass with one thing changed."""

    arms: tuple[str, ...] = tuple(ARMS)
    """Names of arms; those that others are compared with must be among them."""
    objectives: tuple[str, ...] = ("mlp-digits", "deep-mlp-digits", "noisy-regression")
    """What is meta-trained on, with equal shares."""
    outer_steps: int = 60
    """Outer steps of the whole rule; arms of another horizon take as many inner steps."""
    length: int = 150
    """Steps of a training run in meta-training, of the whole rule."""
    batch: int = 4
    """Training runs per objective and outer step."""
    learning_rate: float = 2e-3
    """Root mean square of the first update in meta-training; it falls along a cosine."""
    meta_seeds: int = 3
    """Meta-trainings per arm."""
    tasks: tuple[str, ...] = (
        "ill-conditioned, linear",
        "iris, relu 16",
        "Friedman, relu 64",
        "moons, tanh 32-32",
        "adding, recurrent 32",
        "patches, autoencoder",
        "teacher with noise, relu 64-64",
    )
    """Names of tasks of `optimizer_suite`."""
    steps: int = 1000
    """Steps of a training on these."""
    seeds: int = 2
    """Trainings per learning rate that are compared."""
    tuning_seeds: int = 1
    """Further trainings, by which the rate is chosen."""
    out: Path = Path("runs/compass_ablation")
    """Folder of the picture, the table and the parts that are kept."""


PRESETS = {
    "standard": CompassAblationConfig(),
    "quick": CompassAblationConfig(
        objectives=("mlp-digits", "noisy-regression"),
        outer_steps=30,
        length=100,
        batch=2,
        meta_seeds=2,
        tasks=CompassAblationConfig().tasks[:5],
        out=Path("runs/compass_ablation-quick"),
    ),
}


def run(config: CompassAblationConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Meta-train all arms, train with each and draw; returns what result.json holds. What is in the folder is kept."""
    begun, note = time.monotonic(), (lambda text: None) if progress is None else progress.note
    for given, known, kind in ((config.arms, ARMS, "arm"), (config.tasks, TASKS, "task")):
        for name in given:
            if name not in known:
                raise unknown_name(kind, name, known)
    sizes = (config.outer_steps, config.length, config.batch, config.meta_seeds, config.steps, config.tuning_seeds)
    if min(*sizes, config.seeds) < 1:
        raise ValueError(f"numbers of steps, runs and seeds must be at least 1, got {config}")
    rows, meta = [], {}
    trainer = functools.cache(_compile_for_any_theta)
    for name in config.arms:
        arm = ARMS[name]
        settings = {**settings_of(config, ("arms", "tasks", "steps", "seeds", "tuning_seeds")), "arm": arm._asdict()}
        found = remember(config.out, f"meta-{_plain(name)}", settings, functools.partial(_meta_train, config, arm))
        meta[name] = [one["measure"] for one in found]
        note(f"{name}: meta-trained, measure {', '.join(str(m) for m in meta[name])}")
        for task in config.tasks:
            asked = {**settings_of(config, ("arms", "tasks")), "arm": arm._asdict()}
            compute = functools.partial(_train, config, name, task, found, trainer)
            rows += remember(config.out, f"{_plain(task)}-{_plain(name)}", asked, compute)
        own = [np.log(r["loss_mean"]) for r in rows if r["arm"] == name]
        note(f"{name}: geometric mean of final losses {np.exp(np.mean(own)):.3g}")
    result = {"rows": rows, "measures": meta, **judge(rows)}
    result["picture"] = str(draw(result["ratios"], config.out / "compass_ablation.png"))
    return write_result(config.out, result | {"seconds": round(time.monotonic() - begun, 1)})


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)


def _meta_train(config: CompassAblationConfig, arm: Arm) -> list[dict[str, Any]]:
    found = meta_train(
        arm,
        config.objectives,
        config.outer_steps,
        config.length,
        config.batch,
        config.learning_rate,
        config.meta_seeds,
    )
    as_lists = [{k: np.asarray(x).tolist() for k, x in theta._asdict().items()} for theta, _ in found]
    return [{"theta": t, "measure": None if np.isnan(m) else m} for t, (_, m) in zip(as_lists, found, strict=True)]


def _train(
    config: CompassAblationConfig, name: str, task: str, found: Sequence[Mapping[str, Any]], trainer: Any
) -> list[dict[str, Any]]:
    """The rows of one arm on one task, one per meta-training."""
    rows, sweep = [], Rule(lambda rate, steps: None, MIDDLE, 1e-3)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for number, one in enumerate(found):
            theta = CompassTheta(**{k: jnp.array(v, jnp.float32) for k, v in one["theta"].items()})
            train = functools.partial(trainer(task, ARMS[name].lengths), theta)
            row = measure(config, task, name, sweep, config.steps, lambda task, rule, train=train: train)
            rows.append({"arm": name, "meta_seed": number, **row})
    return rows


def _compile_for_any_theta(task: str, lengths: str) -> Callable[[CompassTheta, Array, Array, Any], Any]:
    """`compile_training` for any theta: arms of the same form share a program."""

    def train(theta: CompassTheta, rates: Array, seeds: Array, steps: Any) -> Any:
        def make(rate: Any, total: Any) -> Any:
            return optax.chain(directions(lengths, theta), optax.scale_by_learning_rate(cosine(rate, total)))

        return compile_training(task, Rule(make, MIDDLE, 1e-3))(rates, seeds, steps)

    return jax.jit(train)


def judge(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The ratio of each arm with its interval, what it says, and the verdict by the rule."""
    names, tasks, seeds = (list(dict.fromkeys(r[key] for r in rows)) for key in ("arm", "task", "meta_seed"))
    by = {(r["arm"], r["task"], r["meta_seed"]): np.log(r["loss_mean"]) for r in rows}
    ratios, said = {}, {}
    for name in names:
        other = ARMS[name].against
        if name == other or other not in names:
            continue
        logs = np.array([[by[name, t, s] - by[other, t, s] for s in seeds] for t in tasks])
        groups = [list(range(len(tasks))), list(range(len(seeds)))]
        found = bootstrap(groups, lambda drawn, logs=logs: float(logs[np.ix_(*drawn)].mean()))
        ratios[name] = np.exp(found).tolist()
        _, low, high = ratios[name]
        said[name] = "worse" if low > 1 else "better" if high < 1 else "not apart"
    judged = [name for name in PAPER if name in ratios]
    worst = max(judged, key=lambda name: ratios[name][0], default=None)
    if any(said[name] == "better" for name in judged):
        verdict = "not reproduced"
    elif len(judged) == len(PAPER) and all(said[n] == "worse" for n in judged) and worst == PAPER[0]:
        verdict = "reproduced"
    else:
        verdict = "open"
    words = "; ".join(f"{name}: {format_estimate(ratio, '.2f')}, {said[name]}" for name, ratio in ratios.items())
    return {"ratios": ratios, "said": said, "verdict": {"verdict": verdict, "words": words or "nothing is compared"}}


def draw(ratios: Mapping[str, Sequence[float]], path: Path) -> Path:
    """The ratio of each arm with its interval; the paper's arms in color."""
    figure, (ax,) = new_figure(width=6.0)
    for y, (name, (value, low, high)) in enumerate(reversed(list(ratios.items()))):
        color = "C0" if name in PAPER else "C7"
        ax.plot([low, high], [y, y], color=color)
        ax.plot(value, y, "o", color=color)
    labels = [f"{name}, over {ARMS[name].against}" for name in reversed(list(ratios))]
    ax.set_yticks(range(len(labels)), labels, fontsize=7)
    ax.axvline(1, color="0.5", linewidth=0.8, linestyle=":")
    ax.set(xscale="log", xlabel="final loss over that of the other rule")
    ax.set_title("arms of the paper in blue", fontsize=9)
    return save(figure, path)


def format_result(result: Mapping[str, Any]) -> str:
    """Final losses per task, ratios, where each was expected, and the verdict."""
    rows = result["rows"]
    names, tasks = (list(dict.fromkeys(r[key] for r in rows)) for key in ("arm", "task"))
    columns: dict[str, list[str]] = {task: [] for task in tasks}
    columns |= {"measure": [], "ratio": [], "expected": [], "found": []}
    for name in names:
        for task in tasks:
            own = [np.log(r["loss_mean"]) for r in rows if (r["arm"], r["task"]) == (name, task)]
            columns[task].append(f"{np.exp(np.mean(own)):.3g}")
        measures = [read_number(m) for m in result["measures"][name]]
        columns["measure"].append(f"{np.mean(measures):.2f}")
        columns["ratio"].append(format_estimate(result["ratios"][name], ".2f") if name in result["ratios"] else "")
        columns["expected"].append({1: "worse", -1: "better", 0: ""}[ARMS[name].expected])
        columns["found"].append(result["said"].get(name, ""))
    verdict = result["verdict"]
    table = format_columns(names, columns, "final loss, geometric mean over meta-trainings")
    return "\n".join([table, "", f"{verdict['verdict']}: {verdict['words']}", f"picture: {result['picture']}"])
