"""Workers on this machine: one process each on cores of its own, started, watched, and started again when they die."""

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
from metalearn.sweeps.plan import Plan
from metalearn.sweeps.records import ENDED, Record, records
from metalearn.sweeps.storage import storage_errors
from metalearn.sweeps.study import RETRIES, Halving, Sweep, open_sweep
from metalearn.sweeps.watch import Watch, default_watch
from metalearn.sweeps.work import Run, work

RESTARTS = RETRIES + 1
"""How many workers that died are replaced before another cell has ended, times the number of workers: as many as a
cell that kills them gets."""


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
    """Run a sweep, or what is left of it, with workers on this machine.

    The same call on other machines with the same storage joins in. This process runs nothing itself and never touches
    an accelerator; `workers=0` is the exception, for tests and debuggers.

    Args:
        plan: what to run.
        url: of the storage, see `open_sweep`.
        run: what to do with a cell; a function of a module, or a `functools.partial` of one.
        workers: processes; None: see `worker_count`; 0: none, cells are run here.
        compiled: folder in which workers keep compiled programs for each other; None: each compiles its own.
        halving: see `open_sweep`.
        heartbeat: see `open_sweep`.
        grace: see `open_sweep`.
        watch: what a person sees.

    Returns:
        One record a cell, in the plan's order; look at their state, some may have failed.

    Raises:
        RunError: see `open_sweep`; or all workers died too often.
        KeyboardInterrupt: what was being run goes back to what waits; the same call goes on.
    """
    workers = worker_count(workers)
    watch = default_watch() if watch is None else watch
    join = partial(open_sweep, halving=halving, heartbeat=heartbeat, grace=grace)
    sweep = join(plan, url)
    found = records(sweep)
    left = sum(record.state not in ENDED for record in found)
    watch.start(plan.name, found)
    try:
        with storage_errors(url):
            if workers == 0:
                keep_compiled(compiled)
                work(sweep, _watched(sweep, run, watch), note=watch.note)
            elif left:
                _with_processes(sweep, url, run, min(workers, left), compiled, join, watch)
            found = records(sweep)
        watch.update(found)
    finally:
        watch.close()
    return found


def worker_count(workers: int | None) -> int:
    """The number asked for; None: one a core, or one where there is an accelerator, which it then has for itself.

    Raises:
        ValueError: it is negative.
    """
    if workers is not None:
        if workers < 0:
            raise ValueError(f"workers must be at least 0, got {workers}")
        return workers
    accelerator = any(os.path.exists(f"/dev/{name}") for name in ("nvidia0", "kfd", "accel0", "vfio/0"))
    return 1 if accelerator else len(_cores())


def keep_compiled(folder: Path | None) -> None:
    """Keep programs that took time to compile in a folder, where other processes find them."""
    if folder is not None:
        import jax

        folder.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _with_processes(
    sweep: Sweep, url: str, run: Run, workers: int, compiled: Path | None, join: Any, watch: Watch
) -> None:
    context = multiprocessing.get_context("spawn")  # a forked JAX hangs
    shares = _shares(workers)

    def begin(number: int) -> Any:
        arguments = (sweep.plan, url, run, join, shares[number], compiled)
        process = context.Process(target=_worker, args=arguments, name=f"worker {number + 1}", daemon=False)
        process.start()
        return process

    alive, restarts, before = {number: begin(number) for number in range(workers)}, 0, 0
    try:
        while alive:
            time.sleep(0.5)
            found = records(sweep)
            watch.update(found)
            ended = sum(record.state in ENDED for record in found)
            restarts, before = restarts if ended == before else 0, ended
            for number, process in list(alive.items()):
                if process.is_alive():
                    continue
                del alive[number]
                if process.exitcode == 0:
                    continue
                watch.note(f"{process.name} died ({_cause(process.exitcode)}); its cell will be taken up again")
                if restarts < RESTARTS * workers:
                    restarts += 1
                    alive[number] = begin(number)
    finally:
        for process in alive.values():  # Ctrl-C reaches them as well; a worker that is told twice stops at once
            process.join(timeout=30)
            if process.is_alive():
                process.terminate()
    left = sum(record.state not in ENDED for record in records(sweep))
    if left:
        raise RunError(
            f"the last worker died, {restarts} were started anew in vain; {left} of {len(sweep.cells)} cells are left. "
            "What the workers said is above; the same call goes on"
        )


def _worker(plan: Plan, url: str, run: Run, join: Any, cores: Sequence[int] | None, compiled: Path | None) -> None:
    if cores is not None:
        os.sched_setaffinity(0, cores)  # before JAX counts them
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    keep_compiled(compiled)
    try:
        work(join(plan, url, again=False), run)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _stop_with_parent() -> None:
    """Do what Ctrl-C does when the process that started this one was killed: nobody would know of this one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)  # SIGINT is ignored by what a script started in the background


def _leave(number: int, frame: Any) -> None:
    """Do on SIGTERM, as from a scheduler, what Ctrl-C does: the cell in hand goes back to those that wait."""
    del number, frame
    raise KeyboardInterrupt


def _watched(sweep: Sweep, run: Run, watch: Watch) -> Run:
    def watched(cell: Any, report: Any) -> Any:
        watch.update(records(sweep))
        return run(cell, report)

    return watched


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _shares(workers: int) -> list[list[int] | None]:
    """The cores of each worker: disjoint, as equal as can be; none named where there are fewer cores than workers."""
    cores = _cores()
    if not hasattr(os, "sched_setaffinity") or workers > len(cores):
        return [None] * workers
    return [cores[number::workers] for number in range(workers)]


def _cause(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
