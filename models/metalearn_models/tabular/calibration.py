"""Calibrate a classifier on rows that it was not shown: a weight per source of predictions, and a bias per class.

The probability of class k is softmax(sum_i w_i log p_i[k] + b_k). With one source, w is the inverse of the temperature
of Guo et al. 2017 (arXiv 1706.04599), and w and b are their vector scaling with one shared slope. Several sources are
averaged geometrically, the better one with more weight. w and b maximise the likelihood of the rows' classes under a
Gaussian prior around equal weights that add up to 1 and biases of 0, so few rows change little.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize
from scipy.special import log_softmax

__all__ = ["FLOOR", "Calibration", "calibrate", "fit_calibration"]

FLOOR = 1e-4
"""Smaller probabilities count as this: what a source calls impossible is only very improbable."""
_WEIGHT_PRIOR, _BIAS_PRIOR = 4.0, 10.0  # precisions


class Calibration(NamedTuple):
    """What was fitted.

    Attributes:
        weights: w, one per source of predictions.
        bias: b, one per class.
    """

    weights: Float[np.ndarray, " S"]
    bias: Float[np.ndarray, " K"]


def fit_calibration(probabilities: Float[np.ndarray, "S n K"], y: Int[np.ndarray, " n"]) -> Calibration:
    """Fit a calibration.

    Args:
        probabilities: predictions of S sources for rows that they were not shown.
        y: the classes of these rows.
    """
    sources, _, classes = probabilities.shape
    logs = np.log(np.maximum(probabilities, FLOOR))
    equal, right = np.full(sources, 1.0 / sources), np.eye(classes)[y]

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = values[:sources], values[sources:]
        log_probs = log_softmax(np.tensordot(weights, logs, 1) + bias, axis=1)
        slope = np.exp(log_probs) - right
        penalty = _WEIGHT_PRIOR * np.square(weights - equal).sum() + _BIAS_PRIOR * np.square(bias).sum()
        by_weight = (logs * slope).sum((1, 2)) + _WEIGHT_PRIOR * (weights - equal)
        by_bias = slope.sum(0) + _BIAS_PRIOR * bias
        return -(log_probs * right).sum() + penalty / 2, np.concatenate([by_weight, by_bias])

    bounds = [(0.0, None)] * sources + [(None, None)] * classes
    found = minimize(loss, np.concatenate([equal, np.zeros(classes)]), jac=True, method="L-BFGS-B", bounds=bounds)
    return Calibration(found.x[:sources], found.x[sources:])


def calibrate(calibration: Calibration, probabilities: Float[np.ndarray, "S n K"]) -> Float[np.ndarray, "n K"]:
    """The calibrated probabilities of rows, each row by itself."""
    total = np.zeros(probabilities.shape[1:]) + calibration.bias
    for weight, source in zip(calibration.weights, probabilities, strict=True):
        total += weight * np.log(np.maximum(source, FLOOR))
    return np.exp(log_softmax(total, axis=1))
