"""Meta-gradients of an inner loop, one file a family of estimators."""

from metalearn.gradients.backprop import backprop as backprop
from metalearn.gradients.backprop import truncated_backprop as truncated_backprop
from metalearn.gradients.control import nres_a as nres_a
from metalearn.gradients.control import pes_a as pes_a
from metalearn.gradients.curriculum import lengthening as lengthening
from metalearn.gradients.curriculum import linear_growth as linear_growth
from metalearn.gradients.es import full_es as full_es
from metalearn.gradients.es import gpes as gpes
from metalearn.gradients.es import nres as nres
from metalearn.gradients.es import pes as pes
from metalearn.gradients.estimator import Estimator as Estimator
from metalearn.gradients.estimator import scheduled as scheduled
from metalearn.gradients.forward import dodge as dodge
from metalearn.gradients.forward import rtrl as rtrl
from metalearn.gradients.noise import dense as dense
from metalearn.gradients.noise import low_rank as low_rank
from metalearn.gradients.truncated_es import truncated_es as truncated_es
from metalearn.gradients.windows import constant as constant
from metalearn.gradients.windows import growing as growing
from metalearn.gradients.windows import log_uniform as log_uniform
