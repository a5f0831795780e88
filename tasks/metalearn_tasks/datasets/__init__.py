"""Data sets by name, prepared as arrays.

`corrupted` has data sets with wrong labels or shifted targets, on which losses are searched for and compared.
"""

from metalearn_tasks.datasets.load import Dataset as Dataset
from metalearn_tasks.datasets.load import Split as Split
from metalearn_tasks.datasets.load import absolute as absolute
from metalearn_tasks.datasets.load import load as load
from metalearn_tasks.datasets.load import names as names

__all__ = ["Dataset", "Split", "absolute", "load", "names"]
