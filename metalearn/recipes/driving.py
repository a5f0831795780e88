"""Begin or resume, then drive: what every meta-training command does between its configuration and its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from metalearn.gradients import Estimator
from metalearn.outer import OuterLoop, OuterState, global_mesh, local_mesh, outer_loop
from metalearn.runs.checkpoints import describe_last_checkpoint, restore_for_all
from metalearn.runs.folder import Run, create_run, note_from_first, resume_run
from metalearn.runs.json_values import as_json
from metalearn.runs.processes import (
    agree_on,
    check_folder,
    exchange,
    first_does,
    is_first,
    local,
    name_the_lost,
    put_on_all,
)
from metalearn.runs.progress import Progress, Silent, duration
from metalearn.runs.training import train

__all__ = [
    "WEIGHTS",
    "MetaTraining",
    "begin_run",
    "compile_outer_loop",
    "drive",
    "initial_state",
    "time_step",
]

LONG = 5_000
"""Steps from which a run is timed before it begins: the presets of images and of the paper have so many."""
PATIENCE = 10.0
"""Seconds that a call of the outer step may take in a long run: a signal to stop waits for the end of two calls."""
WEIGHTS = "theta.safetensors"
"""The file of a run's meta-parameters, that of its newest checkpoint."""


class MetaTraining(NamedTuple):
    """What decides the numbers of a meta-training.

    Attributes:
        config: its configuration as JSON values; decides whether a run's folder may be resumed.
        free: fields of `config` that may change on resume, since they leave the steps already done as they are.
        theta: `() -> theta`, the meta-parameters to begin from.
        key: of the outer loop.
        data: passed to every outer step.
        estimator: where meta-gradients come from.
        optimizer: the outer optimizer.
        steps: outer steps of the whole run.
        steps_per_call: at most so many of them in one dispatch.
        upgrade: turns the `config` of a run that an older version wrote into the values that this one would write.
        save_theta: `(path, theta, step)`, writes theta with what is needed to load it.
    """

    config: dict[str, Any]
    free: tuple[str, ...]
    theta: Callable[[], Any]
    key: PRNGKeyArray
    data: Any
    estimator: Estimator
    optimizer: optax.GradientTransformation
    steps: int
    steps_per_call: int
    upgrade: Callable[[dict[str, Any]], dict[str, Any]]
    save_theta: Callable[[Path, Any, int], None]


def compile_outer_loop(training: MetaTraining, steps_left: int) -> tuple[OuterLoop, int]:
    """The outer loop over all local devices that divide its batch, and the number of steps in one of its calls.

    That number divides the steps that are left, so that a run ends on the step it was asked to.
    """
    per_call = _steps_in_a_call(training, steps_left)
    return outer_loop(training.estimator, training.optimizer, per_call, _mesh(training)), per_call


def _steps_in_a_call(training: MetaTraining, steps_left: int) -> int:
    wish = range(1, training.steps_per_call + 1)
    return max(d for d in wish if max(steps_left, 1) % d == 0 and training.steps % d == 0)


def _mesh(training: MetaTraining) -> Mesh | None:
    several = jax.process_count() > 1
    return global_mesh(training.estimator.batch) if several else local_mesh(training.estimator.batch)


def initial_state(training: MetaTraining, loop: OuterLoop) -> OuterState:
    """The state before the first outer step. Errors are those of `training.theta`."""
    return loop.init(training.theta(), training.data, training.key)


def time_step(training: MetaTraining, timed: int = 3) -> float:
    """Seconds of an outer step on the devices at hand, the fastest of a few; compiles it first."""
    mesh = _mesh(training)
    loop = outer_loop(training.estimator, training.optimizer, 1, mesh)
    state, data = initial_state(training, loop), put_on_all(training.data, mesh)
    taken = []
    for _ in range(1 + timed):  # the first one compiles
        begun = time.perf_counter()
        state, metrics = loop.step(state, data)
        jax.block_until_ready(metrics)
        taken.append(time.perf_counter() - begun)
    return min(taken[1:])


def _is_free(folder: Path, overwrite: bool) -> bool:
    """Whether a run can begin in a folder, for all that can be seen; the same answer in all processes."""
    used = not overwrite and Path(folder).is_dir() and any(Path(folder).iterdir())
    return not any(exchange("used" if used else ""))


def _is_watched(progress: Progress | None) -> bool:
    """Whether a person may wait for this run: not for a cell of a sweep, but for any run of several processes."""
    return jax.process_count() > 1 or type(progress) is not Silent


def _with_short_calls(training: MetaTraining, seconds: float, steps_left: int) -> MetaTraining:
    """The same meta-training in calls that end soon, where a step takes so many seconds.

    A call is cut into equal parts, so that evaluations and checkpoints come after the same steps. Two steps at least
    stay together: a single one is compiled without a loop, which may add in another order, while the number of turns of
    a loop changes no number. All processes take the time of the slowest.
    """
    slowest, whole = max(map(float, exchange(repr(seconds)))), _steps_in_a_call(training, steps_left)
    parts = [d for d in range(2, whole + 1) if whole % d == 0] or [whole]
    return training._replace(steps_per_call=max((d for d in parts if d * slowest <= PATIENCE), default=parts[0]))


def _announce_time(training: MetaTraining, progress: Progress | None) -> float:
    note = note_from_first if progress is None else progress.note
    note(f"{training.steps:,} steps: timing one first, which compiles it")
    seconds = time_step(training)
    devices, whole = f"{jax.device_count()} x {jax.devices()[0].device_kind}", duration(seconds * training.steps)
    note(
        f"a step takes {seconds:.2g} s on {devices}: about {whole} in all, "
        "without evaluations. Nothing is written yet: Ctrl-C ends it here, and --steps N makes it shorter"
    )
    return seconds


def begin_run(
    folder: Path,
    config: Mapping[str, Any],
    free: Sequence[str],
    upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    *,
    resume: bool,
    overwrite: bool,
) -> Run:
    """Make or open a run's folder, in one process or in several that all see it; process 0 writes. See `drive`."""

    def begin() -> Run:
        if resume:
            return resume_run(folder, config, free=free, upgrade=upgrade)
        return create_run(folder, config, free=free, overwrite=overwrite)

    check_folder(Path(folder))
    run = first_does(begin)
    # Where process 0 alone has written it, the others see it.
    return run if run is not None else Run(Path(folder), as_json(config), tuple(sorted(free)), upgrade)


def drive(
    training: MetaTraining,
    folder: Path,
    *,
    evaluate: Callable[[Any], dict[str, Any]],
    evaluate_every: int,
    checkpoint_every: int,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    evaluated: Callable[[int, dict[str, Any]], None] | None = None,
) -> tuple[Run, OuterState]:
    """Meta-train in a run's folder, from the beginning or from its newest checkpoint, to the last step.

    Args:
        training: what to do.
        folder: the run's folder; new or empty, unless resuming or overwriting.
        evaluate: `(theta) -> {name: number}`.
        evaluate_every: outer steps between evaluations; 0: only at the end.
        checkpoint_every: outer steps between checkpoints; 0: only at the end.
        resume: continue from the newest readable checkpoint.
        overwrite: remove an older run in that folder first.
        progress: what a person sees; None: a bar or lines on stderr.
        evaluated: called with the outer step and the numbers of each evaluation, once they are on disk. What it raises
            ends the run, which can be resumed.

    Returns:
        The run and the state after the last step. The folder holds `theta.safetensors` of that state.

    Raises:
        RunError: the folder cannot be used as asked.
        FloatingPointError: a number became NaN or infinite; names the step.
    """
    # What can be refused is refused before a folder is made or an older run is removed.
    agree_on(training.config)
    loop, _ = compile_outer_loop(training, training.steps)
    is_timed = training.steps >= LONG and _is_watched(progress)
    if is_timed and not resume and _is_free(folder, overwrite):
        with name_the_lost(lambda: "Nothing was written yet"):
            training = _with_short_calls(training, _announce_time(training, progress), training.steps)
    state = initial_state(training, loop)
    run = begin_run(folder, training.config, training.free, training.upgrade, resume=resume, overwrite=overwrite)
    if resume:
        state = restore_for_all(run, state)
        if is_timed and (left := training.steps - int(state.step)) > 0:
            if progress is not None:
                progress.note("timing a step, by which calls are made short enough to be stopped")
            with name_the_lost(lambda: describe_last_checkpoint(run)):
                training = _with_short_calls(training, time_step(training), left)
    if progress is not None:
        progress.note(f"meta-training in {run.folder}")
    loop, per_call = compile_outer_loop(training, training.steps - int(state.step))
    weights = run.folder / WEIGHTS
    state = train(
        loop.step,
        state,
        put_on_all(training.data, _mesh(training)),
        run,
        steps=training.steps,
        steps_per_call=per_call,
        log_every=max(1, training.steps // 1000),
        checkpoint_every=checkpoint_every,
        evaluate=evaluate,
        evaluate_every=evaluate_every,
        progress=progress,
        evaluated=evaluated,
        saved=lambda step, saved: training.save_theta(weights, saved.theta, step),
    )
    state = state._replace(theta=local(state.theta))
    if is_first() and not weights.exists():  # a run that had ended before runs left their weights
        training.save_theta(weights, state.theta, int(state.step))
    return run, state
