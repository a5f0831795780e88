"""Optimisation objectives, and the inner loop of an optimizer that is meta-trained on them.

`load(name)` gives an objective with its data, and `names()` lists the names. `landscapes`, `nqm_theory`, `regression`,
`neural_style` and `objective` have what is needed less often.
"""

from metalearn_tasks.objectives.augmentation import add_convex as add_convex
from metalearn_tasks.objectives.augmentation import mixture_of_objectives as mixture_of_objectives
from metalearn_tasks.objectives.augmentation import reparametrise as reparametrise
from metalearn_tasks.objectives.augmentation import reparametrise_by_tensor as reparametrise_by_tensor
from metalearn_tasks.objectives.augmentation import scale_randomly as scale_randomly
from metalearn_tasks.objectives.baselines import BASELINES as BASELINES
from metalearn_tasks.objectives.baselines import baseline as baseline
from metalearn_tasks.objectives.baselines import hand_designed_optimizer as hand_designed_optimizer
from metalearn_tasks.objectives.baselines import learning_rates as learning_rates
from metalearn_tasks.objectives.classification import classification as classification
from metalearn_tasks.objectives.classification import conv_classification as conv_classification
from metalearn_tasks.objectives.classification import layer_norm_classification as layer_norm_classification
from metalearn_tasks.objectives.classification import mlp_classification as mlp_classification
from metalearn_tasks.objectives.classification import two_moons as two_moons
from metalearn_tasks.objectives.evaluation import TunedLearningRate as TunedLearningRate
from metalearn_tasks.objectives.evaluation import final_losses as final_losses
from metalearn_tasks.objectives.evaluation import loss_curves as loss_curves
from metalearn_tasks.objectives.evaluation import tune_learning_rate as tune_learning_rate
from metalearn_tasks.objectives.functions import descent as descent
from metalearn_tasks.objectives.functions import quadratic as quadratic
from metalearn_tasks.objectives.functions import rosenbrock as rosenbrock
from metalearn_tasks.objectives.functions import rotate as rotate
from metalearn_tasks.objectives.functions import shift as shift
from metalearn_tasks.objectives.library import NamedObjective as NamedObjective
from metalearn_tasks.objectives.library import load as load
from metalearn_tasks.objectives.library import names as names
from metalearn_tasks.objectives.neural_style import digits_features as digits_features
from metalearn_tasks.objectives.neural_style import neural_style as neural_style
from metalearn_tasks.objectives.nqm import noisy_quadratic as noisy_quadratic
from metalearn_tasks.objectives.objective import Objective as Objective
from metalearn_tasks.objectives.regression import linear_regression as linear_regression
from metalearn_tasks.objectives.training import TrainingState as TrainingState
from metalearn_tasks.objectives.training import cap_losses as cap_losses
from metalearn_tasks.objectives.training import log_transform_losses as log_transform_losses
from metalearn_tasks.objectives.training import training_loop as training_loop
from metalearn_tasks.objectives.training import training_loop_of_lengths as training_loop_of_lengths
from metalearn_tasks.objectives.training import weigh_late_losses as weigh_late_losses

__all__ = [
    "BASELINES",
    "NamedObjective",
    "Objective",
    "TrainingState",
    "TunedLearningRate",
    "add_convex",
    "baseline",
    "cap_losses",
    "classification",
    "conv_classification",
    "descent",
    "digits_features",
    "final_losses",
    "hand_designed_optimizer",
    "layer_norm_classification",
    "learning_rates",
    "linear_regression",
    "load",
    "log_transform_losses",
    "loss_curves",
    "mixture_of_objectives",
    "mlp_classification",
    "names",
    "neural_style",
    "noisy_quadratic",
    "quadratic",
    "reparametrise",
    "reparametrise_by_tensor",
    "rosenbrock",
    "rotate",
    "scale_randomly",
    "shift",
    "training_loop",
    "training_loop_of_lengths",
    "tune_learning_rate",
    "two_moons",
    "weigh_late_losses",
]
