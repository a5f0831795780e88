"""Families: distributions of tasks on which learners are meta-trained.

`registry` has the families that recipes and the command line know by name.
"""

from metalearn_tasks.families.mixture import mixture as mixture
from metalearn_tasks.families.mixture import reproject as reproject
from metalearn_tasks.families.projected import ProjectedConfig as ProjectedConfig
from metalearn_tasks.families.projected import ProjectedData as ProjectedData
from metalearn_tasks.families.projected import anneal as anneal
from metalearn_tasks.families.projected import projected as projected
from metalearn_tasks.families.projected import projected_data as projected_data
from metalearn_tasks.families.projected import unprojected as unprojected
from metalearn_tasks.families.regression import FunctionClass as FunctionClass
from metalearn_tasks.families.regression import RegressionConfig as RegressionConfig
from metalearn_tasks.families.regression import function_family as function_family
from metalearn_tasks.families.regression import regression as regression
from metalearn_tasks.families.synthetic import SyntheticConfig as SyntheticConfig
from metalearn_tasks.families.synthetic import synthetic as synthetic

__all__ = [
    "FunctionClass",
    "ProjectedConfig",
    "ProjectedData",
    "RegressionConfig",
    "SyntheticConfig",
    "anneal",
    "function_family",
    "mixture",
    "projected",
    "projected_data",
    "regression",
    "reproject",
    "synthetic",
    "unprojected",
]
