"""Workers on this machine: one process each with its own cores, watched, and replaced when it dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from metalearn.errors import RunError
from metalearn.programs import keep_programs
from metalearn.sweeps.plan import Plan
from metalearn.sweeps.records import ENDED, Record, read_records
from metalearn.sweeps.storage import storage_errors
from metalearn.sweeps.study import RETRIES, Halving, Sweep, open_sweep
from metalearn.sweeps.watch import Watch, default_watch
from metalearn.sweeps.work import Run, work

__all__ = ["RESTARTS", "keep_compiled", "run_sweep", "worker_count"]

RESTARTS = RETRIES + 1
"""Restarts allowed per worker while no cell ends: as many as a cell that kills its workers may use up."""


def run_sweep(
    plan: Plan,
    url: str,
    run: Run,
    *,
    workers: int | None = None,
    compiled: Path | None = None,
    halving: Halving | None = None,
    heartbeat: int = 10,
    grace: int = 60,
    watch: Watch | None = None,
) -> list[Record]:
    """Run a sweep, or the rest of it, with workers on this machine.

    Other machines take part by the same call with the same storage. This process runs no cell and never uses an
    accelerator, except with `workers=0`, which is for tests and debuggers.

    Args:
        plan: what to run.
        url: the storage, see `open_sweep`.
        run: runs a cell; a function of a module, or a `functools.partial` of one.
        workers: number of processes. None: see `worker_count`. 0: cells are run in this process.
        compiled: folder in which workers share compiled programs. None: each worker compiles its own.
        halving: see `open_sweep`.
        heartbeat: see `open_sweep`.
        grace: see `open_sweep`.
        watch: what a person sees. None: see `default_watch`.

    Returns:
        One record per cell, in the order of the plan. Check their states: some cells may have failed.

    Raises:
        RunError: see `open_sweep`; or the workers died too often.
        KeyboardInterrupt: after Ctrl-C; running cells are waiting cells again, and the same call continues the sweep.
    """
    workers = worker_count(workers)
    watch = default_watch() if watch is None else watch
    join = partial(open_sweep, halving=halving, heartbeat=heartbeat, grace=grace)
    sweep = join(plan, url)
    found = read_records(sweep)
    left = sum(record.state not in ENDED for record in found)
    watch.start(plan.name, found)
    try:
        with storage_errors(url):
            if workers == 0:
                keep_compiled(compiled)
                work(sweep, _with_updates(sweep, run, watch), note=watch.note)
            elif left:
                _run_processes(sweep, url, run, min(workers, left), compiled, join, watch)
            found = read_records(sweep)
        watch.update(found)
    finally:
        watch.close()
    return found


def worker_count(workers: int | None) -> int:
    """The number of workers: `workers`, or if it is None, one per core, or a single one if there is an accelerator.

    Raises:
        ValueError: `workers` is negative.
    """
    if workers is not None:
        if workers < 0:
            raise ValueError(f"workers must be at least 0, got {workers}")
        return workers
    accelerator = any(os.path.exists(f"/dev/{name}") for name in ("nvidia0", "kfd", "accel0", "vfio/0"))
    return 1 if accelerator else len(_cores())


def keep_compiled(folder: Path | None) -> None:
    """Keep compiled programs in a folder, for the other workers.

    Nothing is done if the folder is None, if they are kept elsewhere, or if JAX is told to keep none.
    """
    if folder is not None:
        import jax

        set_elsewhere = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
        if jax.config.jax_enable_compilation_cache and not set_elsewhere:  # pyright: ignore[reportAttributeAccessIssue]
            keep_programs(folder)


def _run_processes(
    sweep: Sweep, url: str, run: Run, workers: int, compiled: Path | None, join: Any, watch: Watch
) -> None:
    context = multiprocessing.get_context("spawn")  # JAX hangs in forked processes
    shares = _divide_cores(workers)

    def begin(number: int) -> Any:
        arguments = (sweep.plan, url, run, join, shares[number], compiled)
        process = context.Process(target=_worker, args=arguments, name=f"worker {number + 1}", daemon=False)
        process.start()
        return process

    alive, restarts, before = {number: begin(number) for number in range(workers)}, 0, 0
    try:
        while alive:
            time.sleep(0.5)
            found = read_records(sweep)
            watch.update(found)
            ended = sum(record.state in ENDED for record in found)
            restarts, before = restarts if ended == before else 0, ended
            for number, process in list(alive.items()):
                if process.is_alive():
                    continue
                del alive[number]
                if process.exitcode == 0:
                    continue
                watch.note(f"{process.name} died ({_describe_exit(process.exitcode)}); its cell will be run again")
                if restarts < RESTARTS * workers:
                    restarts += 1
                    alive[number] = begin(number)
    finally:
        for process in alive.values():  # Ctrl-C reaches them too; SIGTERM after it stops a worker at once
            process.join(timeout=30)
            if process.is_alive():
                process.terminate()
    left = sum(record.state not in ENDED for record in read_records(sweep))
    if left:
        raise RunError(
            f"the last worker died after {restarts} restarts; {left} of {len(sweep.cells)} cells are left. The output "
            "of the workers is above; the same command continues the sweep"
        )


def _worker(plan: Plan, url: str, run: Run, join: Any, cores: Sequence[int] | None, compiled: Path | None) -> None:
    if cores is not None:
        os.sched_setaffinity(0, cores)  # before JAX counts them
    signal.signal(signal.SIGTERM, _raise_interrupt)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    keep_compiled(compiled)
    try:
        work(join(plan, url, again=False), run)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _stop_with_parent() -> None:
    """Stop as after Ctrl-C when the parent process was killed, which otherwise leaves this one running unnoticed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)  # processes that a script starts in the background ignore SIGINT


def _raise_interrupt(number: int, frame: Any) -> None:
    """Treat SIGTERM, as from a cluster's scheduler, like Ctrl-C: the present cell becomes a waiting cell again."""
    del number, frame
    raise KeyboardInterrupt


def _with_updates(sweep: Sweep, run: Run, watch: Watch) -> Run:
    """`run` with an update of the watch before each cell."""

    def run_and_update(cell: Any, report: Any) -> Any:
        watch.update(read_records(sweep))
        return run(cell, report)

    return run_and_update


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _divide_cores(workers: int) -> list[list[int] | None]:
    """Disjoint sets of cores, one per worker and as equal as possible; None if there are fewer cores than workers."""
    cores = _cores()
    if not hasattr(os, "sched_setaffinity") or workers > len(cores):
        return [None] * workers
    return [cores[number::workers] for number in range(workers)]


def _describe_exit(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
