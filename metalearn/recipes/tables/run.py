"""Meta-training on tables, from a configuration to results in a folder."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from metalearn.errors import RunError
from metalearn.pictures import new_figure, save_or_note
from metalearn.ranges import check
from metalearn.recipes.driving import begin_run
from metalearn.recipes.kinds import TABLES, refuse_other_kinds
from metalearn.recipes.streams import stream
from metalearn.recipes.tables.config import TableOptimizerConfig, TrainTablesConfig
from metalearn.recipes.tables.evaluation import Score, baseline_scores, learner_scores
from metalearn.recipes.tables.feed import SHAPES, Feed, feed, tables_of
from metalearn.recipes.tables.step import State, decay_begin, init_state, make_step
from metalearn.runs.checkpoints import checkpoint_steps, restore_for_all
from metalearn.runs.folder import Run, note_from_first, open_run, write_result
from metalearn.runs.metrics import read_metrics
from metalearn.runs.processes import add_up, agree_on, is_first
from metalearn.runs.progress import Progress
from metalearn.runs.training import train
from metalearn.runs.weights import theta_sha256
from metalearn_models.tabular.transformer.config import TableTransformerConfig
from metalearn_models.tabular.transformer.library import TrainedTables, save
from metalearn_tasks.families.tables import TablesConfig

__all__ = ["from_json", "is_tables_run", "meta_train_tables", "picture_of", "table", "to_json", "validate"]

FREE = ("steps", "evaluate_every", "checkpoint_every")
WEIGHTS = "theta.safetensors"


def validate(config: TrainTablesConfig) -> None:
    """Refuse what can be refused before anything is drawn.

    Raises:
        ValueError: names the options, what they may be, and what they are.
    """
    check(config)
    if config.optimizer.warmup >= config.steps:
        raise ValueError(
            f"--optimizer.warmup must be shorter than the run: it is {config.optimizer.warmup} and --steps is "
            f"{config.steps}. Raise --steps, or give --optimizer.warmup {config.steps // 10}"
        )
    if config.prior.classes > config.learner.codes:
        raise ValueError(
            f"--prior.classes must be at most --learner.codes, the number of classes with codes of their own: got "
            f"{config.prior.classes} and {config.learner.codes}"
        )
    if config.learner.cell_layers > config.learner.layers:
        raise ValueError(
            f"--learner.cell-layers must be at most --learner.layers, got {config.learner.cell_layers} and "
            f"{config.learner.layers}"
        )


def meta_train_tables(
    config: TrainTablesConfig,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], dict[str, dict[str, Score]]]:
    """Meta-train a Transformer for tables in a run's folder; continue from its newest checkpoint if asked to.

    Args:
        config: what to do.
        folder: the run's folder; new or empty, unless resuming or overwriting.
        resume: continue from the newest readable checkpoint. The number of steps may change as long as neither the old
            nor the new run has begun to lower its learning rate.
        overwrite: remove an older run in that folder first.
        progress: what a person sees.

    Returns:
        The result (also in the run's result.json), and the scores on real tables of the learner and of baselines.
        With several processes, those but the first return `steps`, `theta_sha256` and `run`, and no scores.

    Raises:
        RunError: the folder cannot be used as asked.
        ValueError: the configuration does not fit together.
        FloatingPointError: a number became NaN or infinite; names the step.
    """
    began = time.monotonic()
    validate(config)
    note = note_from_first if progress is None else progress.note
    agree_on(to_json(config))
    fewest = min(tables_of(shape, config.size) for shape in SHAPES)
    if fewest < jax.process_count():
        raise ValueError(
            f"{jax.process_count()} processes cannot share a step of {fewest} tables, the fewest with --size "
            f"{config.size}: use at most {fewest} processes or a larger --size"
        )
    step, state = make_step(config, add_up()), init_state(config, stream(config.seed, "theta"))
    if resume:
        older = open_run(folder)
        _check_length(int(older.config["steps"]), config, max(checkpoint_steps(older), default=0))
    run = begin_run(folder, to_json(config), FREE, resume=resume, overwrite=overwrite)
    if resume:
        state = restore_for_all(run, state)
    note(f"meta-training in {run.folder}")
    newest: dict[str, Score] = {}

    def evaluate(theta: Any) -> dict[str, Any]:
        newest.update(learner_scores(TrainedTables(jax.tree.map(np.asarray, theta), config.learner, {})))
        means = np.mean(list(newest.values()), 0)
        return {"real_accuracy": means[0], "real_log_loss": means[1]}

    def save_theta(at: int, saved: State) -> None:
        card = {"recipe": to_json(config), "steps_done": at}
        save(run.folder / WEIGHTS, config.learner, jax.tree.map(np.asarray, saved.theta), card)

    part = jax.process_index(), jax.process_count()
    with feed(config.seed, config.prior, config.size, config.learner.codes, part) as source:
        state = train(
            _fed(step, source, int(state.step)),
            state,
            None,
            run,
            steps=config.steps,
            checkpoint_every=config.checkpoint_every,
            evaluate=evaluate,
            evaluate_every=config.evaluate_every,
            progress=progress,
            saved=save_theta,
        )
    if not is_first():
        return {"steps": int(state.step), "theta_sha256": theta_sha256(state.theta), "run": str(run.folder)}, {}
    if not newest:
        evaluate(state.theta)
    scores = {"this learner": dict(newest), **baseline_scores()}
    result = {
        **{f"real_{name}": float(np.mean([s[i] for s in newest.values()])) for i, name in enumerate(_NAMES)},
        "seconds": round(time.monotonic() - began, 1),
        "steps": int(state.step),
        "theta_sha256": theta_sha256(state.theta),
        "run": str(run.folder),
    }
    write_result(run, {**result, "scores": scores})
    save_or_note(picture_of(run), run.folder / "tables.png", note)
    return result, scores


_NAMES = ("accuracy", "log_loss")


def _fed(step: Callable[..., Any], source: Feed, done: int) -> Callable[[State, Any], tuple[State, dict[str, Array]]]:
    """A step that takes its tables from the feed; it counts, since to ask the state would wait for the last step."""
    numbers = iter(range(done, 2**31))

    def next_step(state: State, data: Any) -> tuple[State, dict[str, Array]]:
        del data
        return step(state, source.take(next(numbers)))

    return next_step


def _check_length(before: int, config: TrainTablesConfig, done: int) -> None:
    """Refuse another number of steps once the learning rate falls, since it falls to 0 at the last one."""
    first = min(decay_begin(config.optimizer, before), decay_begin(config.optimizer, config.steps))
    if before != config.steps and done > first:
        raise RunError(
            f"--steps was {before} and cannot become {config.steps} at step {done}: the learning rate falls from step "
            f"{first} on. Continue with --steps {before}"
        )


def to_json(config: TrainTablesConfig) -> dict[str, Any]:
    """The configuration as JSON values."""
    return {"kind": TABLES, **dataclasses.asdict(config)}


def is_tables_run(values: Mapping[str, Any]) -> bool:
    """Whether the configuration of a run is one of this recipe."""
    return values.get("kind") == TABLES


def from_json(values: Mapping[str, Any]) -> TrainTablesConfig:
    """The configuration that `to_json` wrote.

    Raises:
        RunError: another command or another version wrote it.
    """
    refuse_other_kinds(values, TABLES)
    values = {name: value for name, value in values.items() if name != "kind"}
    try:
        config = TrainTablesConfig(
            learner=TableTransformerConfig(**values.pop("learner")),
            prior=TablesConfig(**values.pop("prior")),
            optimizer=TableOptimizerConfig(**values.pop("optimizer")),
            **values,
        )
        check(config)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"the run's configuration was written by another version of metalearn: {error}") from error
    return config


def table(scores: Mapping[str, Mapping[str, Score]]) -> str:
    """Accuracy and log loss on each real table, a column per learner."""
    names = list(scores)
    lines = [f"{'accuracy / log loss':22}" + "".join(f"{name:>22}" for name in names)]
    for row in scores[names[0]]:
        lines.append(f"{row:22}" + "".join(f"{scores[n][row][0]:>14.3f} / {scores[n][row][1]:.3f}" for n in names))
    means = [np.mean(list(scores[name].values()), 0) for name in names]
    lines.append(f"{'mean':22}" + "".join(f"{a:>14.3f} / {b:.3f}" for a, b in means))
    return "\n".join(lines)


def picture_of(run: Run) -> Any:
    """A figure of a run, from its files: the loss on synthetic tables, and that on real ones beside baselines.

    The baselines are those of the result, which a run has when it has ended.
    """
    records = read_metrics(run)
    result = json.loads(run.result.read_text()) if run.result.exists() else {}
    figure, (left, right) = new_figure(columns=2)
    steps, losses = (np.array([r[name] for r in records if "loss" in r]) for name in ("step", "loss"))
    if len(losses):
        window = max(1, len(losses) // 50)
        means = np.convolve(losses, np.ones(window) / window, "valid")
        left.plot(steps, losses, color="0.8", linewidth=0.7, label="each step")
        left.plot(steps[window - 1 :], means, color="#0072B2", label=f"mean of {window} logged steps")
        left.legend(fontsize=8, frameon=False)
    left.set_xlabel("step")
    left.set_ylabel("log loss on synthetic tables")
    points = [(r["step"], r["eval/real_log_loss"]) for r in records if "eval/real_log_loss" in r]
    if points:
        right.plot(*zip(*points, strict=True), "o-", markersize=3, color="#0072B2", label="this learner")
    for number, (name, found) in enumerate(result.get("scores", {}).items()):
        if number:
            level = float(np.mean([loss for _, loss in found.values()]))
            right.axhline(level, linestyle=("--", ":")[number % 2], color="0.3", linewidth=1, label=name)
    right.set_xlabel("step")
    right.set_ylabel("mean log loss on real tables")
    if right.get_lines():
        right.legend(fontsize=8, frameon=False)
    return figure
