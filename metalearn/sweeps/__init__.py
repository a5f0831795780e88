"""Sweeps: many runs of one configuration, over any number of workers that may die at any time."""

from metalearn.sweeps.plan import Cell as Cell
from metalearn.sweeps.plan import Plan as Plan
from metalearn.sweeps.plan import Range as Range
from metalearn.sweeps.plan import cell_name as cell_name
from metalearn.sweeps.plan import grid as grid
from metalearn.sweeps.plan import random_search as random_search
from metalearn.sweeps.records import Record as Record
from metalearn.sweeps.records import read_records as read_records
from metalearn.sweeps.study import Halving as Halving
from metalearn.sweeps.study import Sweep as Sweep
from metalearn.sweeps.study import open_sweep as open_sweep
from metalearn.sweeps.work import Report as Report
from metalearn.sweeps.work import work as work
from metalearn.sweeps.workers import run_sweep as run_sweep

__all__ = [
    "Cell",
    "Halving",
    "Plan",
    "Range",
    "Record",
    "Report",
    "Sweep",
    "cell_name",
    "grid",
    "open_sweep",
    "random_search",
    "read_records",
    "run_sweep",
    "work",
]
