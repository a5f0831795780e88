"""How much two classifiers agree, and what classical learners predict in context, whole sequences at a time.

Two good classifiers agree because both are right. Their mechanisms are distinguished by which examples both get wrong,
the error consistency of Geirhos, Meding and Wichmann (2020, arXiv 2006.16736), and by which wrong class they then name.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.learner import Signature, predictions
from metalearn_models.learners.reference.logistic import LogisticConfig
from metalearn_models.learners.reference.neighbours import NearestCentroidConfig
from metalearn_models.learners.reference.ridge import RidgeConfig
from metalearn_models.learners.registry import build_learner

__all__ = [
    "CLASSICAL",
    "SIMILARITIES",
    "TEMPERATURES",
    "TWO_KERNELS",
    "classical_predictions",
    "compare_predictions",
    "fit_setting",
    "kappa",
    "kernel_regression",
    "kernel_weights",
    "nearest_neighbours",
    "scale_to_unit_length",
    "similarity",
    "two_kernels",
]

TEMPERATURES = (0.01, 0.015, 0.022, 0.033, 0.05, 0.075, 0.11, 0.17, 0.25, 0.37, 0.56, 0.84, 1.3)
"""Temperatures to choose from, in units of the mean squared distance or length of inputs."""
NEIGHBOURS = (3, 5, 9)
PENALTIES = (0.1, 1.0, 10.0, 100.0)
INVERSE_PENALTIES = (0.1, 1.0, 10.0)
REPULSIONS = (1.0, 2.0, 4.0, 8.0)
SIMILARITIES = ("distance", "product", "cosine")
CLASSICAL = (
    "1-NN", "k-NN", "kernel, distance", "kernel, product", "kernel, cosine", "centroid", "ridge", "logistic",
)  # fmt: skip
"""The classical learners. A kernel is kernel regression (Nadaraya 1964, Watson 1964): a vote with the weights that a
softmax gives to similarities, as attention does."""
TWO_KERNELS = "two kernels"
"""Not a classical learner, but what two heads of attention can compute: the votes of a kernel minus those of another
one that prefers examples unlike the query."""


def scale_to_unit_length(xs: np.ndarray) -> np.ndarray:
    """Inputs scaled to length 1, as LayerNorm scales them, but without subtracting their mean."""
    xs = np.asarray(xs, np.float64)
    return xs / np.maximum(np.linalg.norm(xs, axis=-1, keepdims=True), 1e-12)


def similarity(xs: np.ndarray, kind: str) -> np.ndarray:
    """The similarity of all pairs of examples in a sequence, [B, T, T].

    Args:
        xs: inputs [B, T, D].
        kind: "distance", minus the squared distance over its mean; "product", the inner product over the mean squared
            length; or "cosine", the product of inputs at length 1. One scale of temperatures fits all three.
    """
    xs = scale_to_unit_length(xs) if kind == "cosine" else np.asarray(xs, np.float64)
    products = np.einsum("btd,bsd->bts", xs, xs)
    lengths = np.einsum("btt->bt", products)
    if kind != "distance":
        return products / lengths.mean()
    squared = np.maximum(lengths[:, :, None] + lengths[:, None, :] - 2 * products, 0)
    length = xs.shape[1]
    return -squared / (squared.sum() / (len(xs) * length * (length - 1)))


def kernel_weights(near: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax weights [B, T, T] of the examples before each example; the first row, with none before it, is 0."""
    before = np.tril(np.ones(near.shape[-2:], bool), -1)
    scores = np.where(before, near / temperature, -np.inf)
    top = np.where(before.any(-1), scores.max(-1), 0.0)
    weights = np.exp(scores - top[..., None])
    return weights / np.maximum(weights.sum(-1, keepdims=True), 1e-300)


def kernel_regression(near: np.ndarray, ys: np.ndarray, classes: int, temperature: float) -> np.ndarray:
    """The class with most of the kernel's weight among the examples before each example, [B, T]."""
    return (kernel_weights(near, temperature) @ np.eye(classes)[ys]).argmax(-1)


def nearest_neighbours(near: np.ndarray, ys: np.ndarray, classes: int, k: int) -> np.ndarray:
    """The majority among the k nearest examples before each, [B, T]; with equal votes the class of the nearest."""
    before = np.tril(np.ones(near.shape[-2:], bool), -1)
    rank = np.argsort(np.argsort(np.where(before, -near, np.inf), -1, kind="stable"), -1)
    votes = np.where((rank < k) & before, 1.0 + 0.5 ** (rank + 2.0), 0.0)  # extra votes add up to less than one
    return (votes @ np.eye(classes)[ys]).argmax(-1)


def two_kernels(near: np.ndarray, ys: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """Predictions [B, T] of `TWO_KERNELS` with each of its settings."""
    votes = np.eye(classes)[ys]
    attracting = {t: kernel_weights(near, t) @ votes for t in TEMPERATURES[::2]}
    repelling = {t: kernel_weights(-near, t) @ votes for t in TEMPERATURES[::2]}
    return {
        f"temperatures {t} and {u}, {r} times": (a - r * b).argmax(-1).astype(np.int8)
        for (t, a), (u, b), r in itertools.product(attracting.items(), repelling.items(), REPULSIONS)
    }


def classical_predictions(signature: Signature, xs: np.ndarray, ys: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """What every learner predicts with each of its settings: learner -> setting -> classes [B, T].

    The learners are all of `CLASSICAL`, and `TWO_KERNELS` by cosine. For learners other than kernels, a setting also
    says whether inputs are used as they are or at length 1.
    """
    near, classes = {kind: similarity(xs, kind) for kind in SIMILARITIES}, signature.outputs
    at_length_1 = scale_to_unit_length(xs)
    inputs = {
        "as they are": jnp.asarray(xs, jnp.float32),
        "length 1": jnp.asarray(at_length_1, jnp.float32),
    }
    labels = jnp.asarray(ys)

    def learner(**configs: Any) -> dict[str, np.ndarray]:
        settings = {}
        for name, config in configs.items():
            built = build_learner(signature, config)
            run = jax.jit(lambda xs, ys, of=built: jnp.argmax(predictions(of, (), xs, ys, jax.random.key(0)), -1))
            settings |= {f"{name}inputs {form}": np.asarray(run(x, labels)) for form, x in inputs.items()}
        return settings

    def neighbours(ks: Sequence[int]) -> dict[str, np.ndarray]:
        forms = {
            "as they are": near["distance"],
            "length 1": near["cosine"],
        }  # at length 1, distance ranks as cosine does
        return {f"k={k}, inputs {form}": nearest_neighbours(s, ys, classes, k) for form, s in forms.items() for k in ks}

    found = {"1-NN": neighbours([1]), "k-NN": neighbours(NEIGHBOURS)}
    for kind in SIMILARITIES:
        settings = {f"temperature {t}": kernel_regression(near[kind], ys, classes, t) for t in TEMPERATURES}
        found[f"kernel, {kind}"] = settings
    found["centroid"] = learner(**{"": NearestCentroidConfig()})
    found["ridge"] = learner(**{f"penalty {p}, ": RidgeConfig(p) for p in PENALTIES})
    found["logistic"] = learner(**{f"C={c}, ": LogisticConfig(c) for c in INVERSE_PENALTIES})
    found[TWO_KERNELS] = two_kernels(near["cosine"], ys, classes)
    return found


def fit_setting(settings: Mapping[str, np.ndarray], predicted: np.ndarray) -> str:
    """The setting of a learner whose predictions agree most often with the given ones."""
    return max(settings, key=lambda name: float((settings[name] == predicted).mean()))


def kappa(a: np.ndarray, b: np.ndarray) -> float:
    """Cohen's (1960) kappa: agreement beyond chance, 1 if the two are equal. NaN if both always give the same value."""
    values, chance = np.union1d(a, b), 0.0
    for value in values:
        chance += float((a == value).mean() * (b == value).mean())
    return float(((a == b).mean() - chance) / (1 - chance)) if chance < 1 else float("nan")


def compare_predictions(a: np.ndarray, b: np.ndarray, truth: np.ndarray, classes: int) -> dict[str, float]:
    """How much two classifiers agree.

    Args:
        a: predicted classes, of any shape.
        b: the predictions of the other.
        truth: the right classes.
        classes: the number of classes.

    Returns:
        `agreement`: share of equal predictions. `kappa`: Cohen's kappa of the predicted classes. `consistency`: the
        kappa of right and wrong. `errors`: share of equal predictions among the examples that both get wrong, scaled so
        that random wrong classes give 0 and equal ones 1; NaN if there are no such examples.
    """
    both_wrong = (a != truth) & (b != truth)
    chance = 1 / (classes - 1)
    same = float((a == b)[both_wrong].mean()) if both_wrong.any() else float("nan")
    return {
        "agreement": float((a == b).mean()),
        "kappa": kappa(a, b),
        "consistency": kappa(a == truth, b == truth),
        "errors": (same - chance) / (1 - chance) if classes > 2 else float("nan"),
    }
