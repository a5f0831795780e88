"""A prior over tables, for classifiers that learn in context: causal models, functions, clusters.

The idea is that of TabPFN (Hollmann, Mueller, Eggensperger & Hutter 2022, arXiv 2207.01848): a network that has met
enough generated tables classifies real ones. One mechanism is one file. All constants are our choice where no source is
named.
"""

from metalearn_tasks.families.tables.config import PRIOR as PRIOR
from metalearn_tasks.families.tables.config import Tables as Tables
from metalearn_tasks.families.tables.config import TablesConfig as TablesConfig
from metalearn_tasks.families.tables.draw import draw_table as draw_table
from metalearn_tasks.families.tables.draw import draw_tables as draw_tables
from metalearn_tasks.families.tables.draw import numbered_tables as numbered_tables

__all__ = ["PRIOR", "Tables", "TablesConfig", "draw_table", "draw_tables", "numbered_tables"]
