"""Meta-gradients of an inner loop, one file a family of estimators."""

from metalearn.gradients.backprop import backprop as backprop
from metalearn.gradients.backprop import truncated_backprop as truncated_backprop
from metalearn.gradients.estimator import Estimator as Estimator
from metalearn.gradients.estimator import scheduled as scheduled
