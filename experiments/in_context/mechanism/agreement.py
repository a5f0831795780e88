"""How alike two classifiers predict, and what classical learners predict in context, whole sequences at a time.

Two good classifiers agree by being right. What tells mechanisms apart is which examples they get wrong together, the
error consistency of Geirhos, Meding and Wichmann (2020, arXiv 2006.16736), and which wrong class they then name.
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

TEMPERATURES = (0.01, 0.015, 0.022, 0.033, 0.05, 0.075, 0.11, 0.17, 0.25, 0.37, 0.56, 0.84, 1.3)
"""Temperatures to choose from, in units of the mean squared distance (or length) of inputs."""
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
"""No classical learner, but what two heads of attention can compute: a kernel's votes less those of one that prefers
what is unlike the query."""


def unit_length(xs: np.ndarray) -> np.ndarray:
    """Inputs at length 1: what LayerNorm makes of them, but for their mean."""
    xs = np.asarray(xs, np.float64)
    return xs / np.maximum(np.linalg.norm(xs, axis=-1, keepdims=True), 1e-12)


def similarity(xs: np.ndarray, kind: str) -> np.ndarray:
    """How near examples are, [B, T, T].

    "distance" is minus the squared distance, "product" the inner product, each over its mean for all inputs, that of an
    input with itself for the product, so that one scale of temperatures fits both; "cosine" the product at length 1.
    """
    xs = unit_length(xs) if kind == "cosine" else np.asarray(xs, np.float64)
    products = np.einsum("btd,bsd->bts", xs, xs)
    lengths = np.einsum("btt->bt", products)
    if kind != "distance":
        return products / lengths.mean()
    squared = np.maximum(lengths[:, :, None] + lengths[:, None, :] - 2 * products, 0)
    length = xs.shape[1]
    return -squared / (squared.sum() / (len(xs) * length * (length - 1)))


def kernel_weights(near: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax weights of the examples before each, [B, T, T]; the first row, which has none before it, is 0."""
    before = np.tril(np.ones(near.shape[-2:], bool), -1)
    scores = np.where(before, near / temperature, -np.inf)
    top = np.where(before.any(-1), scores.max(-1), 0.0)
    weights = np.exp(scores - top[..., None])
    return weights / np.maximum(weights.sum(-1, keepdims=True), 1e-300)


def kernel_regression(near: np.ndarray, ys: np.ndarray, classes: int, temperature: float) -> np.ndarray:
    """The class with most of the kernel's weight among the examples before each, [B, T]."""
    return (kernel_weights(near, temperature) @ np.eye(classes)[ys]).argmax(-1)


def nearest_neighbours(near: np.ndarray, ys: np.ndarray, classes: int, k: int) -> np.ndarray:
    """The majority among the k nearest before each, [B, T]; of classes with as many votes, that of the nearest."""
    before = np.tril(np.ones(near.shape[-2:], bool), -1)
    rank = np.argsort(np.argsort(np.where(before, -near, np.inf), -1, kind="stable"), -1)
    votes = np.where((rank < k) & before, 1.0 + 0.5 ** (rank + 2.0), 0.0)  # extra votes add up to less than one
    return (votes @ np.eye(classes)[ys]).argmax(-1)


def two_kernels(near: np.ndarray, ys: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """Predictions of `TWO_KERNELS` with each of its settings."""
    votes = np.eye(classes)[ys]
    alike = {t: kernel_weights(near, t) @ votes for t in TEMPERATURES[::2]}
    unlike = {t: kernel_weights(-near, t) @ votes for t in TEMPERATURES[::2]}
    return {
        f"temperatures {t} and {u}, {r} times": (a - r * b).argmax(-1).astype(np.int8)
        for (t, a), (u, b), r in itertools.product(alike.items(), unlike.items(), REPULSIONS)
    }


def classical_predictions(signature: Signature, xs: np.ndarray, ys: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """What every learner predicts with each of its settings: learner -> setting -> classes [B, T].

    All of `CLASSICAL`, and `TWO_KERNELS` by cosine. Those that are no kernels can choose between inputs as they are and
    at length 1.
    """
    near, classes = {kind: similarity(xs, kind) for kind in SIMILARITIES}, signature.outputs
    inputs = {"as they are": jnp.asarray(xs, jnp.float32), "length 1": jnp.asarray(unit_length(xs), jnp.float32)}
    labels = jnp.asarray(ys)

    def learner(**configs: Any) -> dict[str, np.ndarray]:
        found = {}
        for name, config in configs.items():
            built = build_learner(signature, config)
            run = jax.jit(lambda xs, ys, of=built: jnp.argmax(predictions(of, (), xs, ys, jax.random.key(0)), -1))
            found |= {f"{name}inputs {form}": np.asarray(run(x, labels)) for form, x in inputs.items()}
        return found

    def neighbours(ks: Sequence[int]) -> dict[str, np.ndarray]:
        forms = {"as they are": near["distance"], "length 1": near["cosine"]}  # at length 1 they rank alike
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


def fitted_setting(settings: Mapping[str, np.ndarray], predicted: np.ndarray) -> str:
    """The setting of a learner whose predictions equal the given ones most often."""
    return max(settings, key=lambda name: float((settings[name] == predicted).mean()))


def kappa(a: np.ndarray, b: np.ndarray) -> float:
    """Cohen's (1960) kappa: agreement beyond what the two would have by chance, 1 if they are equal; NaN for none."""
    values, chance = np.union1d(a, b), 0.0
    for value in values:
        chance += float((a == value).mean() * (b == value).mean())
    return float(((a == b).mean() - chance) / (1 - chance)) if chance < 1 else float("nan")


def alike(a: np.ndarray, b: np.ndarray, truth: np.ndarray, classes: int) -> dict[str, float]:
    """How alike two classifiers predict.

    Args:
        a: predicted classes, any shape.
        b: those of the other.
        truth: the right ones.
        classes: how many there are.

    Returns:
        `agreement`: share of equal predictions; `kappa` of the predicted classes; `consistency`, the kappa of right
        and wrong; `errors`: share of equal predictions among examples that both get wrong, beyond the 1 in
        (classes - 1) of random wrong classes, 1 if all are equal (NaN without any such example).
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
