"""Sweeps over processes that are killed: nothing is lost, and nothing is run twice to its end."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from metalearn.errors import RunError
from metalearn.sweeps import open_sweep, read_records, run_sweep, workers
from metalearn.sweeps.study import RETRIES
from tests.metalearn.sweeps import sweep_cells as cells

ROOT = Path(__file__).parents[3]


def script(name, folder):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "tests.metalearn.sweeps.sweep_cells", name, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE)


def wait_for(what, seconds=60):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return found


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_all_cells_are_run_once_although_a_worker_is_killed(tmp_path):
    count, blocking, killed, before = 24, 9, [], []

    def kill(found):
        pid = cells.blocked_pid(tmp_path, blocking)
        if pid is not None and not killed:
            before.extend(r.name for r in found if r.state == "done")
            killed.append(pid)
            subprocess.run(["kill", "-9", str(pid)], check=True)

    watch = cells.Recorded(kill)
    run = partial(cells.run, tmp_path, (blocking,))
    # On a busy machine a worker that lives may be silent for some seconds.
    found = run_sweep(
        cells.plan(count), cells.url(tmp_path), run, workers=2, heartbeat=1, grace=6, watch=watch, compiled=None
    )
    assert [r.name for r in found] == [f"a-{i}" for i in range(count)]
    assert {r.state for r in found} == {"done"}
    assert [(r.value, r.result) for r in found] == [(i, {"value": i, "square": i * i}) for i in range(count)]
    assert sorted(cells.ended(tmp_path)) == list(range(count))
    assert len(killed) == 1 and 0 < len(before) < count
    assert [note for note in watch.notes if "(signal 9); its cell will be run again" in note] == watch.notes[1:]
    assert len(watch.notes) == 2 and watch.closed
    trials = open_sweep(cells.plan(count), cells.url(tmp_path)).study.get_trials()
    states = Counter(t.state.name for t in trials if "spare" not in t.user_attrs)
    assert states == {"COMPLETE": count, "FAIL": 1}
    assert len({r.worker for r in found}) >= 2
    assert found[blocking].worker and not str(found[blocking].worker).endswith(f":{killed[0]}")


def test_a_worker_that_is_stopped_gives_its_cell_back_and_so_does_one_whose_parent_is_killed(tmp_path):
    first, second = cells.BLOCKING
    sweeping = script("alone", tmp_path)
    try:
        # SIGTERM, as from a cluster's scheduler: the try does not count as lost, and another worker is started
        os.kill(wait_for(lambda: cells.blocked_pid(tmp_path, first)), signal.SIGTERM)
        worker = wait_for(lambda: cells.blocked_pid(tmp_path, second))
    finally:
        sweeping.kill()
        sweeping.communicate()
    wait_for(lambda: not is_alive(worker))  # a worker does not outlive the process that started it
    assert cells.ended(tmp_path) == [0, 1, 3]
    run = partial(cells.run, tmp_path, cells.BLOCKING)
    began = time.monotonic()
    watch = cells.Recorded()
    found = run_sweep(cells.plan(5), cells.url(tmp_path), run, workers=0, watch=watch)
    assert time.monotonic() - began < 30  # it did not wait until the workers count as dead: they gave their cells back
    assert watch.notes == ["cells: 3 of 5"]
    assert [r.state for r in found] == ["done"] * 5 and cells.ended(tmp_path) == [0, 1, 3, first, second]
    assert [str(r.worker).endswith(f":{os.getpid()}") for r in found] == [False, False, True, False, True]
    trials = open_sweep(cells.plan(5), cells.url(tmp_path)).study.get_trials()
    for cell in cells.BLOCKING:
        tries = [t for t in trials if t.user_attrs["cell"] == f"a-{cell}"]
        assert [(t.state.name, t.user_attrs.get("stopped")) for t in tries] == [("FAIL", True), ("COMPLETE", None)]
    assert run_sweep(cells.plan(5), cells.url(tmp_path), run, workers=1, watch=watch) == found
    assert len(cells.ended(tmp_path)) == 5  # a call that finds everything done runs nothing


def test_two_that_plan_and_work_at_once_share_the_cells(tmp_path):
    both = [script("together", tmp_path) for _ in range(2)]
    done = [int(process.communicate(timeout=60)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(done) == 8 and min(done) > 0
    assert sorted(cells.ended(tmp_path)) == list(range(8))
    found = read_records(open_sweep(cells.plan(8), cells.url(tmp_path)))
    assert [(r.name, r.state, r.value) for r in found] == [(f"a-{i}", "done", i) for i in range(8)]
    assert Counter(r.worker for r in found).total() == 8 and len({r.worker for r in found}) == 2


@pytest.mark.slow  # test_sweeps.py has the rule; this is 15 seconds of waiting for the dead
def test_a_cell_that_kills_its_worker_each_time_is_given_up_and_the_others_are_run(tmp_path):
    run = partial(cells.fatal, tmp_path)
    watch = cells.Recorded()
    found = run_sweep(cells.plan(2), cells.url(tmp_path), run, workers=1, heartbeat=1, grace=1, watch=watch)
    assert [(r.state, r.error) for r in found] == [
        ("failed", f"its worker vanished {RETRIES + 1} times"),
        ("done", None),
    ]
    assert Counter((tmp_path / "tried").read_text().split()) == {"0": RETRIES + 1, "1": 1}
    assert watch.notes[1:] == ["worker 1 died (signal 9); its cell will be run again"] * (RETRIES + 1)


def run_nothing(cell, report):
    raise AssertionError("no cell should be run")


class Stillborn:
    """Processes that die at once."""

    exitcode, started = -9, 0

    def __init__(self, name, **_):
        self.name = name

    def start(self):
        Stillborn.started += 1

    def is_alive(self):
        return False


def test_workers_that_only_die_are_not_started_for_ever(tmp_path, monkeypatch):
    class Context:
        Process = Stillborn

    monkeypatch.setattr(workers.multiprocessing, "get_context", lambda method: Context)
    monkeypatch.setattr(workers.time, "sleep", lambda seconds: None)
    watch = cells.Recorded()
    with pytest.raises(RunError) as error:
        run_sweep(cells.plan(3), cells.url(tmp_path), run_nothing, workers=2, watch=watch)
    # as many as two cells that kill their workers at the same time may use up
    again = 2 * (RETRIES + 1)
    assert str(error.value) == (
        f"the last worker died after {again} restarts; 3 of 3 cells are left. The output of the workers is above; the "
        "same command continues the sweep"
    )
    assert Stillborn.started == 2 + again and watch.closed


def test_workers_get_cores_of_their_own(monkeypatch):
    monkeypatch.setattr(workers, "_cores", lambda: [0, 1, 4, 5, 6])
    assert workers._divide_cores(2) == [[0, 4, 6], [1, 5]]
    assert workers._divide_cores(6) == [None] * 6
    with pytest.raises(ValueError, match="workers must be at least 0, got -1"):
        run_sweep(cells.plan(1), "sqlite://", run_nothing, workers=-1)
