"""Optimisation objectives, and the inner loop of an optimizer that is meta-trained on them."""

from metalearn_tasks.objectives.classification import mlp_classification as mlp_classification
from metalearn_tasks.objectives.objective import Objective as Objective
from metalearn_tasks.objectives.training import TrainingState as TrainingState
from metalearn_tasks.objectives.training import training_loop as training_loop
