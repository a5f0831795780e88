"""Data sets by name, prepared as arrays."""

from metalearn_tasks.datasets.load import Dataset as Dataset
from metalearn_tasks.datasets.load import Split as Split
from metalearn_tasks.datasets.load import load as load
from metalearn_tasks.datasets.load import names as names
