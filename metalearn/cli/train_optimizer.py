"""`metalearn train-optimizer`: meta-train a learned optimizer, from a name to weights, a table and a picture."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from metalearn.checkpoints import checkpoint_steps, restore_checkpoint
from metalearn.cli.arguments import take
from metalearn.cli.optimizer_recipe import (
    OptimizerRecipe,
    TrainOptimizerConfig,
    from_json,
    outer_loop,
    prepare,
    recommended,
    to_json,
)
from metalearn.cli.recipe import stream
from metalearn.metrics import read_metrics
from metalearn.pictures import draw_loss_curves, draw_meta_loss, new_figure, save
from metalearn.progress import Progress, Quiet, default_progress
from metalearn.runs import Run, create_run, finite_or_null, open_run, resume_run, write_result
from metalearn.training import train as drive
from metalearn.weights import theta_sha256
from metalearn_models.optimizers import library
from metalearn_tasks.objectives.evaluation import Tuned, final_losses, hand_designed, loss_curves, tuned

RATES = tuple(float(f"{10**e:.3g}") for e in np.arange(-4.0, 0.51, 0.5))
"""Learning rates a baseline is tried with: two a decade."""


@dataclass(frozen=True)
class TrainOptimizerCommand:
    """Meta-train a learned optimizer: metalearn train-optimizer [OPTIMIZER] [--resume RUN] [options].

    Optimizers: {optimizers}. The result is a file that metalearn_models.optimizers.load turns into an optax
    transformation, a table and a picture beside hand-designed optimizers whose learning rates are tuned.
    """

    config: Annotated[TrainOptimizerConfig, tyro.conf.arg(name="")]
    run: Path | None = None
    """Folder of the run; none: runs/OPTIMIZER-DATE-TIME."""
    overwrite: bool = False
    """Remove an older run in that folder first."""
    quiet: bool = False
    """No progress, only the result."""
    json: bool = False
    """Print one JSON object as the last line."""


FREE = ("steps_per_call", "data_dir", "evaluate_every", "checkpoint_every", "eval_runs", "baselines")
"""Fields that may change on resume: they leave the numbers of the steps already done as they are."""


def meta_train(
    config: TrainOptimizerConfig,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Meta-train as configured, in a run's folder; go on from its newest checkpoint if asked to.

    Args:
        config: what to do.
        folder: the run's folder; new or empty, unless resuming or overwriting.
        resume: go on from the newest readable checkpoint.
        overwrite: remove an older run in that folder first.
        progress: what a person sees.

    Returns:
        The result, also in the run's result.json: final losses of the optimizer and of the tuned baselines, seconds,
        the hash of theta. The weights are in theta.safetensors, the loss curves in the picture.

    Raises:
        RunError: the folder cannot be used as asked.
        ValueError: the configuration does not fit together.
        FloatingPointError: a number became NaN or infinite; names the step.
    """
    began = time.monotonic()
    recipe = prepare(config)
    loop, _ = outer_loop(recipe, config.steps)
    theta = jax.jit(recipe.optimizer.init)(stream(config.seed, "theta"))
    state = loop.init(theta, recipe.problem.data, stream(config.seed, "outer"))
    values = to_json(config)
    free = FREE if config.outer.schedule == "cosine" else ("steps", *FREE)
    if resume:
        run = resume_run(folder, values, free=free)
        if checkpoint_steps(run):
            state = restore_checkpoint(run, state)
    else:
        run = create_run(folder, values, free=free, overwrite=overwrite)
    if progress is not None:
        progress.note(f"meta-training in {run.folder}")
    loop, per_call = outer_loop(recipe, config.steps - int(state.step))
    state = drive(
        loop.step,
        state,
        recipe.problem.data,
        run,
        steps=config.steps,
        steps_per_call=per_call,
        log_every=max(1, config.steps // 1000),
        checkpoint_every=config.checkpoint_every,
        evaluate=lambda theta: _summary(curves_of(recipe, theta)),
        evaluate_every=config.evaluate_every,
        progress=progress,
    )
    curves = curves_of(recipe, state.theta)
    result: dict[str, Any] = {
        **_summary(curves),
        "steps": int(state.step),
        "length": recipe.length,
        "theta_sha256": theta_sha256(state.theta),
        "run": str(run.folder),
    }
    card = {"config": values, "final_loss": result["final_loss"], "objective": config.objective, "steps": config.steps}
    library.save(run.folder / "theta.safetensors", config.optimizer, state.theta, values["settings"], card)
    if progress is not None and config.baselines:
        progress.note(f"tuning {' and '.join(config.baselines)} for comparison")
    rivals = baselines(recipe)
    result["baselines"] = {
        name: {"final_loss": float(np.mean(t.final[t.best])), "learning_rate": t.rate, "at_edge": t.at_edge}
        for name, t in rivals.items()
    }
    result["seconds"] = round(time.monotonic() - began, 1)
    write_result(run, result)
    draw(run, recipe, curves, rivals)
    return result


def curves_of(recipe: OptimizerRecipe, theta: Any) -> np.ndarray:
    """Losses [runs, length] of training runs that meta-training does not see, uncapped."""
    keys = jax.random.split(stream(recipe.config.seed, "evaluation"), recipe.config.eval_runs)
    problem = recipe.problem
    return np.asarray(loss_curves(problem.objective, recipe.optimizer, theta, problem.data, keys, recipe.length))


def baselines(recipe: OptimizerRecipe) -> dict[str, Tuned]:
    """Hand-designed optimizers on the same training runs, each with its best learning rate."""
    import optax

    makes = {
        "adam": lambda rate: optax.adam(rate),
        "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
        "sgd": lambda rate: optax.sgd(rate),
    }
    keys = jax.random.split(stream(recipe.config.seed, "evaluation"), recipe.config.eval_runs)
    problem = recipe.problem
    return {
        name: tuned(problem.objective, hand_designed(makes[name]), RATES, problem.data, keys, recipe.length)
        for name in recipe.config.baselines
    }


def draw(run: Run, recipe: OptimizerRecipe, curves: np.ndarray, rivals: dict[str, Tuned]) -> Path:
    """The picture of a run: training losses on the left, meta-training on the right."""
    figure, (left, right) = new_figure(columns=2)
    lines = {recipe.config.optimizer: curves}
    lines |= {f"reference: {name}, {t.rate:g}": t.curves for name, t in rivals.items()}
    draw_loss_curves(left, lines)
    left.set_title(recipe.config.objective, fontsize=9)
    draw_meta_loss(right, read_metrics(run))
    path = run.folder / "training_curves.png"
    save(figure, path)
    return path


def table(result: dict[str, Any], name: str) -> str:
    """The result for people."""
    lines = [f"{'final training loss':<24} {'mean':>10}   learning rate"]
    lines.append(f"{name:<24} {result['final_loss']:>10.4g}   learned")
    for rival, row in result["baselines"].items():
        edge = "  (the last of those tried)" if row["at_edge"] else ""
        lines.append(f"{rival + ', tuned':<24} {row['final_loss']:>10.4g}   {row['learning_rate']:g}{edge}")
    return "\n".join(lines)


def _summary(curves: np.ndarray) -> dict[str, float]:
    final = final_losses(curves)
    return {
        "final_loss": float(np.mean(final)),
        "mean_loss": float(np.mean(curves)),
        "diverged": float(np.mean(~np.isfinite(final))),
    }


def main(argv: Sequence[str]) -> None:
    """The command: parse, meta-train, print."""
    use_all_cores()  # before anything that starts JAX
    command, resume = parse(list(argv))
    name = command.config.optimizer
    folder = resume or command.run or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    progress = Quiet() if command.quiet else default_progress("loss")
    result = meta_train(
        command.config, folder, resume=resume is not None, overwrite=command.overwrite, progress=progress
    )
    print(table(result, name))
    print(f"\npicture: {folder / 'training_curves.png'}\nweights: {folder / 'theta.safetensors'}")
    print(f'use:     metalearn_models.optimizers.load("{folder}", num_steps=STEPS)')
    print(f"run:     {folder} ({result['seconds']} s)")
    if command.json:
        print(json.dumps(finite_or_null(result)))


def use_all_cores() -> None:
    """Make a device of every CPU core, so that training runs are spread over them; numbers change by rounding only.

    Small networks give a core too little to share. Nothing changes where JAX runs already, was told otherwise, or has
    an accelerator.
    """
    told = "JAX_NUM_CPU_DEVICES" in os.environ or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not told and hasattr(os, "sched_getaffinity"):
        with contextlib.suppress(RuntimeError):  # the devices are chosen already
            jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


def parse(argv: list[str]) -> tuple[TrainOptimizerCommand, Path | None]:
    """The parsed command and the run to resume; optimizer and run decide which options there are."""
    resume = take(argv, "--resume")
    named = bool(argv) and not argv[0].startswith("-")
    optimizer = argv.pop(0) if named else "small-fc"
    if resume is not None:
        if named:
            raise ValueError("--resume goes on with a run as it was: leave the optimizer out")
        config = from_json(open_run(resume).config)
    else:
        config = recommended(optimizer)
    description = str(TrainOptimizerCommand.__doc__).replace("{optimizers}", ", ".join(library.OPTIMIZERS))
    command = tyro.cli(
        TrainOptimizerCommand,
        default=TrainOptimizerCommand(config),
        args=argv,
        prog="metalearn train-optimizer",
        description=description,
    )
    if resume is not None and (command.run is not None or command.overwrite):
        raise ValueError("--resume goes on in the run's own folder: leave --run and --overwrite out")
    return command, Path(resume) if resume is not None else None
