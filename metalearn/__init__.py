"""metalearn: a JAX library that learns learning algorithms.

The names below are what most programs need. They are imported when first used, so that `import metalearn` is fast and
loads neither JAX nor anything else.

- `metalearn.gradients`: all estimators of meta-gradients.
- `metalearn.costs`: floating-point operations and memory of a step.
- `metalearn.runs`, `metalearn.sweeps`: training that survives interruption, on disk.
- `metalearn.errors`: what is raised.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metalearn.curves import Curve as Curve
    from metalearn.curves import curve_scorer as curve_scorer
    from metalearn.curves import last_positions as last_positions
    from metalearn.curves import summarise as summarise
    from metalearn.gradients import Estimator as Estimator
    from metalearn.gradients import Horizon as Horizon
    from metalearn.gradients import Noise as Noise
    from metalearn.gradients import backprop as backprop
    from metalearn.gradients import centred_ranks as centred_ranks
    from metalearn.gradients import constant_horizon as constant_horizon
    from metalearn.gradients import dense as dense
    from metalearn.gradients import dodge as dodge
    from metalearn.gradients import full_es as full_es
    from metalearn.gradients import gpes as gpes
    from metalearn.gradients import growing_horizon as growing_horizon
    from metalearn.gradients import linear_growth as linear_growth
    from metalearn.gradients import log_uniform_horizon as log_uniform_horizon
    from metalearn.gradients import low_rank as low_rank
    from metalearn.gradients import nres as nres
    from metalearn.gradients import nres_a as nres_a
    from metalearn.gradients import pes as pes
    from metalearn.gradients import pes_a as pes_a
    from metalearn.gradients import rtrl as rtrl
    from metalearn.gradients import together as together
    from metalearn.gradients import truncated_backprop as truncated_backprop
    from metalearn.gradients import truncated_es as truncated_es
    from metalearn.gradients import with_curriculum as with_curriculum
    from metalearn.gradients import with_schedule as with_schedule
    from metalearn.gradients import z_scores as z_scores
    from metalearn.inner import InnerLoop as InnerLoop
    from metalearn.inner import unroll as unroll
    from metalearn.intervals import Interval as Interval
    from metalearn.intervals import mean_interval as mean_interval
    from metalearn.learner import Family as Family
    from metalearn.learner import Learner as Learner
    from metalearn.learner import Signature as Signature
    from metalearn.learner import inner_loop as inner_loop
    from metalearn.learner import predictions as predictions
    from metalearn.outer import OuterLoop as OuterLoop
    from metalearn.outer import OuterState as OuterState
    from metalearn.outer import global_mesh as global_mesh
    from metalearn.outer import local_mesh as local_mesh
    from metalearn.outer import outer_loop as outer_loop
    from metalearn.outer import use_all_cores as use_all_cores

__version__ = "0.1.0"

__all__ = [
    "Curve",
    "Estimator",
    "Family",
    "Horizon",
    "InnerLoop",
    "Interval",
    "Learner",
    "Noise",
    "OuterLoop",
    "OuterState",
    "Signature",
    "__version__",
    "backprop",
    "centred_ranks",
    "constant_horizon",
    "curve_scorer",
    "dense",
    "dodge",
    "full_es",
    "global_mesh",
    "gpes",
    "growing_horizon",
    "inner_loop",
    "last_positions",
    "linear_growth",
    "local_mesh",
    "log_uniform_horizon",
    "low_rank",
    "mean_interval",
    "nres",
    "nres_a",
    "outer_loop",
    "pes",
    "pes_a",
    "predictions",
    "rtrl",
    "summarise",
    "together",
    "truncated_backprop",
    "truncated_es",
    "unroll",
    "use_all_cores",
    "with_curriculum",
    "with_schedule",
    "z_scores",
]

_HOMES = ("inner", "outer", "learner", "curves", "intervals", "gradients")
"""The modules that define the names in `__all__`."""
_PACKAGES = ("costs", "errors", "gradients", "runs", "sweeps")
"""The modules that are themselves attributes."""


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"metalearn.{name}")
    if name in __all__:
        for home in _HOMES:
            module = importlib.import_module(f"metalearn.{home}")
            if name in module.__all__:
                globals()[name] = value = getattr(module, name)
                return value
    raise AttributeError(f"module 'metalearn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_PACKAGES})
