"""The loop around a compiled outer step. It logs, evaluates, saves and stops cleanly, and changes no number.

The next call is dispatched before the metrics of the last one are read, so the device never waits for Python. A state
that will be saved or evaluated is copied on the device before it is donated to the next call. It is saved only after
its metrics were found finite.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from metalearn.runs.checkpoint_files import copy_state
from metalearn.runs.checkpoints import describe_last_checkpoint, save_checkpoint
from metalearn.runs.folder import Run
from metalearn.runs.lock import only_writer
from metalearn.runs.metrics import MetricsWriter
from metalearn.runs.processes import FAILED, Several, gather, is_first, local, name_the_lost
from metalearn.runs.progress import Progress, Silent, default_progress
from metalearn.runs.stopping import StopOnSignal

__all__ = ["WATCHED", "train"]

WATCHED = ("loss", "grad_norm")
"""Metrics that end the run if they are not finite."""


class _Call(NamedTuple):
    """A dispatched call.

    Attributes:
        done: outer steps done after it.
        metrics: arrays [k].
        copy: of its state, if that will be saved or evaluated.
    """

    done: int
    metrics: dict[str, Array]
    copy: Any


def train(
    step: Callable[[Any, Any], tuple[Any, dict[str, Array]]],
    state: Any,
    data: Any,
    run: Run,
    *,
    steps: int,
    steps_per_call: int = 1,
    log_every: int = 1,
    checkpoint_every: int = 0,
    evaluate: Callable[[Any], dict[str, Any]] | None = None,
    evaluate_every: int = 0,
    keep: int = 3,
    progress: Progress | None = None,
    callback: Callable[[int, dict[str, np.ndarray]], None] | None = None,
    evaluated: Callable[[int, dict[str, Any]], None] | None = None,
    saved: Callable[[int, Any], None] | None = None,
) -> Any:
    """Call an outer step until `steps` outer steps are done, beginning at `state.step`.

    A state is saved or evaluated at the end of the call that reaches a multiple of the interval, and after the last
    step. The result depends neither on these intervals nor on when a run is interrupted and resumed.

    With several processes of `jax.distributed`, all call this with the same arguments. Process 0 writes; it alone calls
    `evaluate`, `evaluated` and `saved`. A signal to one of them stops all at the same step; what ends one ends all.

    Args:
        step: `(state, data) -> (state, metrics)`; advances `steps_per_call` outer steps and may donate its state.
        state: a pytree with `theta` and `step`, new or from `restore_checkpoint`; consumed.
        data: passed to `step`.
        run: where metrics and checkpoints are written.
        steps: outer steps of the whole run. The number of remaining steps must be a multiple of `steps_per_call`.
        steps_per_call: k, the number that `step` was compiled with.
        log_every: the metrics of every step that is a multiple of this are written to `run.metrics`.
        checkpoint_every: outer steps between checkpoints; 0: save after the last step only.
        evaluate: `(theta) -> {name: float}`, written as `eval/<name>`. It must not keep theta.
        evaluate_every: outer steps between evaluations; 0: evaluate after the last step only.
        keep: number of checkpoints to keep.
        progress: what a person sees. None: a bar or lines on stderr.
        callback: called after each call of `step`, while the next one runs, with the outer steps done and every metric
            [k]. An exception from it ends the run; the checkpoints written before stay.
        evaluated: called with the outer steps done and the result of `evaluate`, after this result, and the checkpoint
            if one is due, are on disk. An exception from it ends the run, which can be resumed.
        saved: called after each checkpoint is on disk, with the outer steps done and the state that was saved. It must
            not donate the state. An exception from it ends the run, which can be resumed.

    Returns:
        The state after `steps` outer steps; `state` itself, with a note, if it is there already.

    Raises:
        ValueError: an argument does not fit.
        FloatingPointError: a loss, a gradient norm or theta is not finite. The message names the outer step and the
            last good checkpoint. No state of that step or later is saved.
        RunError: a file cannot be written (the message says what is safe); or another process is writing this run; or
            another process of `jax.distributed` had to end it.
        KeyboardInterrupt: after Ctrl-C, when the present call has finished and its state is saved. A second Ctrl-C
            interrupts at once.
        SystemExit: the same after SIGTERM, with code 143.
    """
    several = Several() if jax.process_count() > 1 else None
    if progress is None:
        progress = default_progress() if is_first() else Silent()
    done = int(state.step)
    if done >= steps:
        progress.note(f"{run.folder} is at step {done} of {steps}: nothing to do")
        return state
    # Checkpoints do not store weak types. Without them from the start, a resumed run promotes types like any other.
    state = jax.tree.map(lambda x: x.astype(x.dtype) if getattr(x, "weak_type", False) else x, state)
    _check(done, steps, steps_per_call, log_every, checkpoint_every, evaluate_every)
    last_taken = -1

    def due(after: int, every: int) -> bool:
        return after == steps or (every > 0 and after // every > (after - steps_per_call) // every)

    lost = name_the_lost(lambda: describe_last_checkpoint(run))
    with _writing(run, done) as writer, StopOnSignal() as stop, lost:

        def take(after: int, kept: Any) -> Any:
            """A state that this process can write. All come here before anything that one of them alone can fail at."""
            nonlocal last_taken
            last_taken = after
            return gather(kept)

        def save(after: int, kept: Any) -> None:
            _check_theta(run, after, kept.theta)
            if writer is None:
                return
            writer.sync()
            save_checkpoint(run, after, kept, keep)
            if saved is not None:
                saved(after, kept)

        def finish(call: _Call) -> None:
            values = {name: np.asarray(x) for name, x in call.metrics.items()}  # waits for the call
            kept = take(call.done, call.copy) if due(call.done, checkpoint_every) else None
            if failure is not None:  # the others do not know yet; nothing more is written
                return
            _log(run, writer, call.done - steps_per_call, steps_per_call, values, log_every)
            means = {name: float(x.mean()) for name, x in values.items() if name in ("loss", "score")}
            progress.update(call.done, means)
            if callback is not None:
                callback(call.done, values)
            numbers = None
            if writer is not None and evaluate is not None and due(call.done, evaluate_every):
                numbers = {name: _as_list(x) for name, x in evaluate(local(call.copy.theta)).items()}
                writer.write([{"step": call.done, **{f"eval/{name}": x for name, x in numbers.items()}}])
            if kept is not None:
                save(call.done, kept)
            if numbers is not None and evaluated is not None:
                evaluated(call.done, numbers)

        failure: Exception | None = None

        def attempt(action: Callable[..., None], *args: Any) -> None:
            """Do it. If others wait for this process, what goes wrong is kept until they know of it."""
            nonlocal failure
            try:
                action(*args)
            except Exception as error:
                if several is None:
                    raise
                failure = failure or error

        def share() -> Any:
            return None if several is None else several.share(FAILED if failure is not None else stop.signal)

        def hear(shared: Any) -> int:
            return stop.signal if several is None else several.hear(shared, failure)

        progress.start(done, steps)
        try:
            call, stopping = None, 0
            while True:
                previous, call, shared = call, None, None
                if done < steps and not stopping:
                    shared = share()  # before the call, so that it need not end before the others can hear it
                    state, metrics = step(state, data)
                    done += steps_per_call
                    wanted = due(done, checkpoint_every) or (evaluate is not None and due(done, evaluate_every))
                    call = _Call(done, metrics, copy_state(state) if wanted else None)
                if previous is not None:
                    attempt(finish, previous)
                if call is None:
                    break
                stopping = hear(shared)
            if stopping and last_taken != done:
                kept = take(done, state)
                if failure is None:
                    attempt(save, done, kept)
            hear(share())  # no process leaves before all are done, or know why not
            stopping = hear(share())  # also to a signal that came to one of them while it waited for the others
            if stopping:
                message = f"stopped at step {done} of {steps}, saved in {run.folder}; continue with --resume"
                if stopping != signal.SIGTERM:
                    raise KeyboardInterrupt(message)  # which carries the message to whoever shows it
                progress.note(message)
                raise SystemExit(143)
        finally:
            progress.close()
    return state


@contextlib.contextmanager
def _writing(run: Run, done: int) -> Iterator[MetricsWriter | None]:
    """The writer of a run's metrics, which holds the run's lock; None in a process that does not write."""
    if not is_first():
        yield None
        return
    with only_writer(run.folder), MetricsWriter(run, done) as writer:
        yield writer


def _log(
    run: Run, writer: MetricsWriter | None, before: int, k: int, values: dict[str, np.ndarray], log_every: int
) -> None:
    """Write the lines of the call that began after step `before`, up to the first step that is not finite."""
    for name, x in values.items():
        if x.ndim == 0 or x.shape[0] != k:
            raise ValueError(f"metric {name!r} has shape {x.shape}, but a call of {k} steps must return [{k}, ...]")
    bad = [
        (int(np.argmin(np.isfinite(values[n]))), n) for n in WATCHED if n in values and not np.isfinite(values[n]).all()
    ]
    end = min(bad)[0] + 1 if bad else k
    numbers = [before + i + 1 for i in range(end)]
    if writer is not None:
        writer.write(
            [
                {"step": number, **{name: _as_list(x[i]) for name, x in values.items()}}
                for i, number in enumerate(numbers)
                if number % log_every == 0 or (bad and i == end - 1)
            ]
        )
    if bad:
        i, name = min(bad)
        raise FloatingPointError(
            f"{name} is {values[name][i]} at outer step {before + i + 1}. {describe_last_checkpoint(run)}"
        )


def _check_theta(run: Run, after: int, theta: Any) -> None:
    # An update can overflow although its loss is finite; the next loss would show it too late.
    floats = [x for x in jax.tree.leaves(theta) if jnp.issubdtype(x.dtype, jnp.inexact)]
    if not all(np.isfinite(np.asarray(x)).all() for x in floats):  # JAX would compile a program per shape
        raise FloatingPointError(
            f"theta is not finite after the update of outer step {after}. {describe_last_checkpoint(run)}"
        )


def _check(done: int, steps: int, k: int, log_every: int, checkpoint_every: int, evaluate_every: int) -> None:
    if k < 1 or log_every < 1:
        raise ValueError(f"steps_per_call and log_every must be at least 1, got {k} and {log_every}")
    if checkpoint_every < 0 or evaluate_every < 0:
        raise ValueError(f"intervals must be 0 or more, got {checkpoint_every=} and {evaluate_every=}")
    over = (steps - done) % k
    if over:
        raise ValueError(
            f"the {steps - done} steps from {done} to {steps} are not a multiple of steps_per_call={k}: choose "
            f"steps={steps - over} or {steps - over + k}, or a steps_per_call that divides {steps - done}"
        )


def _as_list(x: Any) -> Any:
    return np.asarray(x).tolist()
