"""Cells for the tests of sweeps, in a module that the processes of a sweep can import, and two scripts.

python -m tests.metalearn.sweeps.sweep_cells together|alone FOLDER
"""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

from metalearn.sweeps import Plan, grid, open_sweep, run_sweep, work

BLOCKING = (2, 4)


class Recorded:
    """A watch that shows nothing and remembers its notes."""

    def __init__(self, updated=lambda records: None):
        self.notes, self.closed, self._updated = [], False, updated

    def start(self, name, records):
        self.notes.append(f"{name}: {sum(r.state == 'done' for r in records)} of {len(records)}")

    def update(self, records):
        self._updated(records)

    def note(self, text):
        self.notes.append(text)

    def close(self):
        self.closed = True


def plan(count, name="cells"):
    return Plan(name, {"of": "tests"}, grid({"a": range(count)}))


def url(folder):
    return f"sqlite:///{folder / 'sweep.db'}"


def run(folder, blocking, cell, report):
    """A line in `ended` per run that comes to its end. The first try of a blocking cell never does."""
    blocked = folder / f"blocked-{cell['a']}"
    if cell["a"] in blocking and not blocked.exists():
        blocked.with_suffix(".tmp").write_text(str(os.getpid()))
        blocked.with_suffix(".tmp").rename(blocked)
        time.sleep(120)
    time.sleep(0.005)
    with open(folder / "ended", "a") as file:
        file.write(f"{cell['a']}\n")
    return {"value": cell["a"], "square": cell["a"] ** 2}


def fatal(folder, cell, report):
    """Cell 0 kills its worker."""
    with open(folder / "tried", "a") as file:
        file.write(f"{cell['a']}\n")
    if cell["a"] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"value": 1.0}


def blocked_pid(folder, cell):
    """The process in the first try of a blocking cell; None before."""
    path = folder / f"blocked-{cell}"
    return int(path.read_text()) if path.exists() else None


def ended(folder):
    """The cells that were run to their end, in that order, as often as they were."""
    return [int(line) for line in (folder / "ended").read_text().split()]


def together(folder, partner_count=2):
    """Plan and work at the same moment as another process; prints how many cells this one ran."""
    meet(folder, "planning", partner_count)
    # A process that gets a cell waits for the other one to get one too. Otherwise a fast one could run all of them.
    seen = []

    def run_one(cell, report):
        if not seen:
            seen.append(cell)
            meet(folder, "working", partner_count)
        return run(folder, (), cell, report)

    print(work(open_sweep(plan(8), url(folder), heartbeat=1, grace=30), run_one, poll=0.05))


def meet(folder, place, count):
    """Wait until this many processes are at a place."""
    (folder / f"{place}-{os.getpid()}").touch()
    while len(list(folder.glob(f"{place}-*"))) < count:
        time.sleep(0.001)


def alone(folder):
    """A sweep with one worker, which stays in each blocking cell until it is stopped."""
    run_sweep(plan(5), url(folder), partial(run, folder, BLOCKING), workers=1, watch=Recorded())


if __name__ == "__main__":
    {"together": together, "alone": alone}[sys.argv[1]](Path(sys.argv[2]))
