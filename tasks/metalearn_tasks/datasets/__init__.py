"""Data sets by name, prepared as arrays.

`corrupted` has data sets with wrong labels or shifted targets, on which losses are searched for and compared.
"""

from metalearn_tasks.datasets.load import Dataset as Dataset
from metalearn_tasks.datasets.load import Split as Split
from metalearn_tasks.datasets.load import load as load
from metalearn_tasks.datasets.load import names as names
from metalearn_tasks.datasets.places import absolute as absolute
from metalearn_tasks.datasets.places import content_sha256 as content_sha256

__all__ = ["Dataset", "Split", "absolute", "content_sha256", "load", "names"]
