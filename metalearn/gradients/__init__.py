"""Meta-gradients of an inner loop, one file per family of estimators."""

from metalearn.gradients.backprop import backprop as backprop
from metalearn.gradients.backprop import truncated_backprop as truncated_backprop
from metalearn.gradients.control import nres_a as nres_a
from metalearn.gradients.control import pes_a as pes_a
from metalearn.gradients.curriculum import linear_growth as linear_growth
from metalearn.gradients.curriculum import with_curriculum as with_curriculum
from metalearn.gradients.es import full_es as full_es
from metalearn.gradients.es import gpes as gpes
from metalearn.gradients.es import nres as nres
from metalearn.gradients.es import pes as pes
from metalearn.gradients.estimator import Estimator as Estimator
from metalearn.gradients.estimator import with_schedule as with_schedule
from metalearn.gradients.forward import dodge as dodge
from metalearn.gradients.forward import rtrl as rtrl
from metalearn.gradients.noise import Noise as Noise
from metalearn.gradients.noise import dense as dense
from metalearn.gradients.noise import low_rank as low_rank
from metalearn.gradients.shaping import centred_ranks as centred_ranks
from metalearn.gradients.shaping import z_scores as z_scores
from metalearn.gradients.together import together as together
from metalearn.gradients.truncated_es import truncated_es as truncated_es
from metalearn.gradients.windows import Horizon as Horizon
from metalearn.gradients.windows import constant_horizon as constant_horizon
from metalearn.gradients.windows import growing_horizon as growing_horizon
from metalearn.gradients.windows import log_uniform_horizon as log_uniform_horizon

__all__ = [
    "Estimator",
    "Horizon",
    "Noise",
    "backprop",
    "centred_ranks",
    "constant_horizon",
    "dense",
    "dodge",
    "full_es",
    "gpes",
    "growing_horizon",
    "linear_growth",
    "log_uniform_horizon",
    "low_rank",
    "nres",
    "nres_a",
    "pes",
    "pes_a",
    "rtrl",
    "together",
    "truncated_backprop",
    "truncated_es",
    "with_curriculum",
    "with_schedule",
    "z_scores",
]


def __dir__() -> list[str]:
    return sorted(__all__)
