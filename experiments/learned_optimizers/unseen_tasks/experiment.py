"""A learned optimizer where Adam stood: tasks that no meta-training has seen, the same sweep of rates for everyone.

Learned: compass (after Celo2, 2602.19142) with the weights of a run, and small-fc (2203.11860) and STAR (2209.11208)
with those that are shipped. Made by hand: SGD with momentum, Adam, AdamW, NadamW, Muon, schedule-free AdamW, and
compass before any meta-training: normalised Adam, and orthogonal Adam where directions of matrices are made orthogonal.
Where no weights are given, these stand for compass, orthogonal Adam first. Each optimizer has seven learning rates,
half a decade apart. SGD's are ten times those of Adam's kin, and small-fc and STAR multiply their own steps. The rate
is chosen by the training loss of seeds that the comparison does not use. Losses are of the whole training set after the
last step. Those below 1e-4 count as 1e-4, and diverged runs as 100.

Rule of the verdict, written before the first whole run; "ours" is compass or its stand-in. (That orthogonal Adam is the
stand-in was decided when nine tasks had been seen; normalised Adam was it before.) Reproduced: at 1,000 and at 5,000
steps the geometric mean over tasks of our final training loss over Adam's, and over that of AdamW with a cosine, is
below 1, with the whole interval of resampled tasks; ours at its default rate is better than Adam at 1e-3 on at least
three quarters of the tasks at each length; and no run of it at its chosen rate diverges. Not reproduced: one of these
ratios lies wholly above 1, or a chosen run diverges. Open: otherwise.

    python -m experiments optimizer_suite --weights compass              # what is shipped; 200, 1,000 and 5,000 steps
    metalearn train-optimizer compass --run runs/compass                 # then --weights runs/compass
    python -m experiments optimizer_suite quick                          # 200 and 1,000 steps, fewer seeds
    python -m experiments optimizer_suite long                           # 20,000 steps too
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from experiments.learned_optimizers.unseen_tasks.rules import (
    FRESH,
    ORTHOGONAL,
    RATES,
    RULES,
    TRAINED,
    Rule,
    make_rules,
)
from experiments.learned_optimizers.unseen_tasks.tasks import TASKS, make_task
from experiments.suite.cells import remember, settings_of
from experiments.suite.intervals import bootstrap
from experiments.suite.results import write_result
from experiments.suite.tables import format_columns, format_estimate
from metalearn.errors import unknown_name
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn.runs.weights import theta_sha256
from metalearn_models import optimizers

__all__ = ["PRESETS", "SuiteConfig", "compile_training", "format_result", "judge", "measure", "run"]

FLOOR, DIVERGED = 1e-4, 100.0
"""Final losses count as at least the first; those of diverged runs count as the second."""
RIVALS, JUDGED = ("Adam", "AdamW, cosine"), (1000, 5000)


@dataclass(frozen=True)
class SuiteConfig:
    """Optimizers on tasks that no meta-training has seen."""

    lengths: tuple[int, ...] = (200, 1000, 5000)
    """Steps of the trainings."""
    tasks: tuple[str, ...] = tuple(TASKS)
    """Names of tasks."""
    rules: tuple[str, ...] = tuple(RULES)
    """Names of optimizers; compass is one more if it has weights."""
    weights: str | None = None
    """Folder of a run of `metalearn train-optimizer compass`, or its weights."""
    seeds: int = 3
    """Trainings per learning rate that are compared, each with its own parameters and batches."""
    tuning_seeds: int = 2
    """Further trainings, by which the rate is chosen."""
    out: Path = Path("runs/optimizer_suite")
    """Folder of the picture, the table and the trainings that are kept."""


PRESETS = {
    "standard": SuiteConfig(),
    "quick": SuiteConfig(lengths=(200, 1000), seeds=2, tuning_seeds=1, out=Path("runs/optimizer_suite-quick")),
    "long": SuiteConfig(lengths=(200, 1000, 5000, 20000)),
}


def run(config: SuiteConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Train everything, compare and draw; returns what result.json holds. What is in the folder is not run again."""
    begun, note = time.monotonic(), (lambda text: None) if progress is None else progress.note
    rows, rules = [], make_rules(config.weights)
    names = (*config.rules, *([] if config.weights is None else [TRAINED]))
    for given, known, kind in ((config.tasks, TASKS, "task"), (names, rules, "optimizer")):
        for name in given:
            if name not in known:
                raise unknown_name(kind, name, known)
    if min(config.seeds, config.tuning_seeds, *config.lengths) < 1:
        raise ValueError(
            "--lengths, --seeds and --tuning-seeds must be at least 1; got "
            f"{config.lengths}, {config.seeds} and {config.tuning_seeds}"
        )
    weights = {} if config.weights is None else _identify(config.weights)
    trainer = functools.cache(lambda task, rule: compile_training(task, rules[rule]))
    for steps, task, rule in _order(config, names):
        settings = settings_of(config, ("lengths", "tasks", "rules", "weights"))
        if rule == TRAINED:
            settings |= weights
        name = "".join(c if c.isalnum() else "-" for c in f"{task}-{rule}-{steps}")
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            compute = functools.partial(measure, config, task, rule, rules[rule], steps, trainer)
            found = remember(config.out, name, settings, compute)
        rows.append(found)
        note(f"{task}: {rule} {found['loss_mean']:.3g} at {found['rate']:g} ({steps} steps)")
    result = {"rows": rows, **judge(rows)}
    result["picture"] = str(draw(rows, config.out / "optimizer_suite.png"))
    return write_result(config.out, result | {"seconds": round(time.monotonic() - begun, 1)})


def _order(config: SuiteConfig, rules: Sequence[str]) -> Iterable[tuple[int, str, str]]:
    """Lengths, tasks and rules, short trainings and cheap tasks first: a run that was cut off has whole tables."""
    return itertools.product(sorted(config.lengths), sorted(config.tasks, key=list(TASKS).index), rules)


def _identify(weights: str) -> dict[str, Any]:
    """What of a file of weights decides the numbers."""
    trained = optimizers.read(weights)
    plain = {} if trained.card["optimizer"]["settings"].get("orthogonalise") else {"orthogonalise": False}
    return {"weights": theta_sha256(trained.theta), **plain}


def measure(
    config: Any, task: str, rule: str, made: Rule, steps: int, trainer: Callable[[str, str], Any]
) -> dict[str, Any]:
    """The row of one task, optimizer and length: its learning rate chosen by some seeds, its losses with others.

    Args:
        config: has `seeds` and `tuning_seeds`.
        task: its name.
        rule: name of the optimizer.
        made: where the sweep of the optimizer lies.
        steps: of each training.
        trainer: `(task, rule)` -> what `compile_training` gives.
    """
    seeds = jnp.arange(config.seeds + config.tuning_seeds)
    rates, train = jnp.array(RATES, jnp.float32) * made.middle, trainer(task, rule)
    default = int(np.abs(np.log(rates / made.default)).argmin())
    jax.block_until_ready(train(rates, seeds, 1))  # compilation is not part of the time
    start = time.monotonic()
    losses, scores = map(np.asarray, train(rates, seeds, steps))
    seconds = time.monotonic() - start
    counted = np.clip(np.where(np.isfinite(losses), losses, DIVERGED), FLOOR, DIVERGED)
    best = int(np.log(counted[:, config.seeds :]).mean(1).argmin())
    own = counted[best, : config.seeds]
    return {
        **{"task": task, "rule": rule, "steps": steps, "rate": float(rates[best])},
        "at_edge": best in (0, len(RATES) - 1),
        "losses": own.tolist(),
        "loss_mean": float(np.exp(np.log(own).mean())),
        "scores": scores[best, : config.seeds].tolist(),
        "diverged": int((~np.isfinite(losses[best])).sum()),
        "default": counted[default, : config.seeds].tolist(),
        "microseconds_per_step": 1e6 * seconds / (steps * losses.size),
    }


def compile_training(task: str, rule: Rule) -> Any:
    """A compiled `(rates[R], seeds[S], steps) -> (final losses[R, S], test scores[R, S])`, for any number of steps."""
    made, make = make_task(task), rule.make
    train_x, train_y, test_x, test_y = map(jnp.asarray, (*made.train, *made.test))

    def train(rate: Array, seed: Array, steps: Array) -> tuple[Array, Array]:
        init_key, key = jax.random.split(jax.random.key(seed))
        tx, params = optax.with_extra_args_support(make(rate, steps)), made.init(init_key)

        def step(t: Array, carry: Any) -> Any:
            params, state = carry
            rows = jax.random.randint(jax.random.fold_in(key, t), (made.batch,), 0, len(train_x))
            value, grads = jax.value_and_grad(made.loss)(params, train_x[rows], train_y[rows])
            updates, state = tx.update(grads, state, params, value=value)
            return optax.apply_updates(params, updates), state

        params, _ = jax.lax.fori_loop(0, steps, step, (params, tx.init(params)))
        return made.loss(params, train_x, train_y), made.score(params, test_x, test_y)

    over_seeds = jax.vmap(train, (None, 0, None))
    return jax.jit(jax.vmap(over_seeds, (0, None, None)))


def judge(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Ratios of final losses with intervals over tasks, wins at the default rate, and the verdict by the rule."""
    by = {(r["rule"], r["steps"], r["task"]): r for r in rows}
    lengths, tasks = (list(dict.fromkeys(r[key] for r in rows)) for key in ("steps", "task"))
    rules = list(dict.fromkeys(r["rule"] for r in rows))
    ours = next((rule for rule in (TRAINED, ORTHOGONAL) if rule in rules), FRESH)
    rivals = [rule for rule in rules if rule != ours]
    if ours not in rules or not rivals:
        return {"ours": ours, "ratios": {}, "wins": {}, "verdict": {"verdict": "open", "words": "nothing is compared"}}
    ratios = {
        rival: {str(n): _ratio([_log_ratio(by[ours, n, task], by[rival, n, task]) for task in tasks]) for n in lengths}
        for rival in rivals
    }
    wins = {}
    if "Adam" in rivals:
        pairs = {n: [(by[ours, n, t]["default"], by["Adam", n, t]["default"]) for t in tasks] for n in lengths}
        wins = {str(n): sum(_log_mean(a) < _log_mean(b) for a, b in found) for n, found in pairs.items()}
    diverged = sum(r["diverged"] for r in rows if r["rule"] == ours)
    judged = [ratios[rival][str(n)] for rival in RIVALS for n in JUDGED if rival in ratios and n in lengths]
    complete = len(judged) == len(RIVALS) * len(JUDGED)
    if complete and all(high < 1 for _, _, high in judged) and not diverged and min(wins.values()) >= 0.75 * len(tasks):
        verdict = "reproduced"
    elif diverged or any(low > 1 for _, low, _ in judged):
        verdict = "not reproduced"
    else:
        verdict = "open"
    words = [
        f"at {n} steps the loss of {ours} is {format_estimate(ratios[rival][str(n)], '.2f')} of that of {rival}"
        for rival in RIVALS
        if rival in ratios
        for n in lengths
    ]
    words.append(f"at its default rate it is better than Adam on {', '.join(map(str, wins.values()))} of {len(tasks)}")
    words.append(f"{diverged} of its runs diverged")
    return {"ours": ours, "ratios": ratios, "wins": wins, "verdict": {"verdict": verdict, "words": "; ".join(words)}}


def _ratio(logs: list[float]) -> list[float]:
    return np.exp(bootstrap([logs], lambda groups: float(np.mean(groups[0])))).tolist()


def _log_ratio(ours: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    return float(np.log(ours["loss_mean"]) - np.log(other["loss_mean"]))


def _log_mean(losses: Sequence[float]) -> float:
    return float(np.log(losses).mean())


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """The final loss of each optimizer over the best of all, task by task, one panel per length."""
    lengths, rules, tasks = (list(dict.fromkeys(r[key] for r in rows)) for key in ("steps", "rule", "task"))
    figure, axes = new_figure(columns=len(lengths), width=4.2, height=4.5)
    for ax, steps in zip(axes, lengths, strict=True):
        found = np.array([[_find(rows, rule, task, steps) for task in tasks] for rule in rules])
        relative = np.log10(found / found.min(0))
        for y, row in enumerate(relative, 1):
            color = "C0" if rules[y - 1] in (TRAINED, ORTHOGONAL, FRESH) else "C7"
            ax.plot(row, np.full(len(row), y), "o", markersize=3, alpha=0.6, color=color)
            ax.plot([row.mean()] * 2, [y - 0.3, y + 0.3], color="black")
        ax.set_yticks(range(1, len(rules) + 1), rules if ax is axes[0] else [""] * len(rules), fontsize=7)
        ax.set_xlabel("powers of ten above the best loss")
        ax.set_title(f"{steps:,} steps; points: tasks, bars: means", fontsize=9)
    return save(figure, path)


def _find(rows: Sequence[Mapping[str, Any]], rule: str, task: str, steps: int) -> float:
    return next(r["loss_mean"] for r in rows if (r["rule"], r["task"], r["steps"]) == (rule, task, steps))


def format_result(result: Mapping[str, Any]) -> str:
    """Final losses and test scores per task and length, geometric means, ratios, the verdict."""
    rows, lines = result["rows"], []
    lengths, rules, tasks = (list(dict.fromkeys(r[key] for r in rows)) for key in ("steps", "rule", "task"))
    for steps in lengths:
        columns = {}
        for rule in rules:
            own = [next(r for r in rows if (r["rule"], r["task"], r["steps"]) == (rule, t, steps)) for t in tasks]
            mean = np.exp(np.mean([np.log(r["loss_mean"]) for r in own]))
            cells = [f"{r['loss_mean']:.3g}{'e' if r['at_edge'] else ''} {np.mean(r['scores']):.2f}" for r in own]
            columns[rule] = [*cells, f"{mean:.3g}", f"{np.median([r['microseconds_per_step'] for r in own]):.0f}"]
        names = [*tasks, "geometric mean of losses", "microseconds per step"]
        lines += [format_columns(names, columns, f"{steps:,} steps: loss (e: edge of the sweep), test score"), ""]
    for rival, found in result["ratios"].items():
        parts = ", ".join(f"{format_estimate(ratio, '.2f')} at {n} steps" for n, ratio in found.items())
        lines.append(f"loss of {result['ours']} over that of {rival}: {parts}")
    verdict = result["verdict"]
    lines += ["", f"{verdict['verdict']}: {verdict['words']}", f"picture: {result['picture']} ({result['seconds']} s)"]
    return "\n".join(lines)
