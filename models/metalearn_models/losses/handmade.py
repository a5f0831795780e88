"""Losses made by hand, with the signature of the learned ones: `loss(logits, labels)`, one value per example.

Each factory below returns a `HandmadeLoss`; its docstring names the paper. Every loss of regression takes a `scale`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from metalearn_models.losses.elementwise import Link, Prediction, Terms, cotangent, per_example
from metalearn_models.losses.scaling import Scale, check_scale

__all__ = [
    "HandmadeLoss",
    "bootstrapping",
    "brier",
    "cauchy",
    "cross_entropy",
    "focal",
    "gce",
    "huber",
    "label_smoothing",
    "mae",
    "mse",
    "poly_1",
    "probability_mae",
    "sparse_lsr",
    "welsch",
]


@dataclass(frozen=True)
class HandmadeLoss:
    """A sum over classes (regression: mean over outputs) of a function written in JAX.

    Attributes:
        name: the factory's name in `HANDMADE` with its parameters.
        link: "softmax" or "identity".
        terms: `(y, prediction) -> values`, elementwise, of targets and predictions in units of `scale`.
        scale: unit of the targets of regression, see `losses.scaling`.
    """

    name: str
    link: Link
    terms: Terms = field(repr=False)
    scale: Scale = 1.0

    def __call__(self, logits: Float[ArrayLike, "... C"], labels: ArrayLike) -> Float[Array, "..."]:
        """The loss per example; `elementwise.per_example` describes the shapes."""
        return per_example(self.terms, self.link, logits, labels, self.scale)

    def cotangent(self, logits: Float[ArrayLike, "... C"], labels: ArrayLike) -> Float[Array, "... C"]:
        """The gradient d loss / d logits per example."""
        return cotangent(self, logits, labels)

    def __str__(self) -> str:
        return self.name


def _log(prediction: Prediction) -> Array:
    assert prediction.log_f is not None  # None only with the identity link
    return prediction.log_f


def _check(value: float, name: str, low: float, high: float, low_is_allowed: bool = True) -> None:
    if not (low <= value <= high) or (value == low and not low_is_allowed):
        left = "[" if low_is_allowed else "("
        raise ValueError(f"{name} must lie in {left}{low:g}, {high:g}], got {value}")


def cross_entropy() -> HandmadeLoss:
    """-log of the target's probability."""
    return HandmadeLoss("cross-entropy", "softmax", lambda y, p: -y * _log(p))


def label_smoothing(smoothing: float = 0.1) -> HandmadeLoss:
    """Cross-entropy with a share of the target spread evenly over all C classes.

    Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, "Rethinking the Inception Architecture" (2016, arXiv 1512.00567).

    Args:
        smoothing: the share, in [0, 1].
    """
    _check(smoothing, "smoothing", 0, 1)

    def terms(y: Array, p: Prediction) -> Array:
        return -(y * (1 - smoothing) + smoothing / p.classes) * _log(p)

    return HandmadeLoss(f"label-smoothing(smoothing={smoothing:g})", "softmax", terms)


def bootstrapping(beta: float = 0.95) -> HandmadeLoss:
    """Cross-entropy with a share 1 - beta of the target taken from the prediction itself: for wrong labels.

    The soft version of Reed, Lee, Anguelov, Szegedy, Erhan, Rabinovich, "Training Deep Neural Networks on Noisy Labels
    with Bootstrapping" (2015, arXiv 1412.6596). The gradient flows through both factors.

    Args:
        beta: the share of the label, in [0, 1]; 1 is cross-entropy.
    """
    _check(beta, "beta", 0, 1)
    return HandmadeLoss(
        f"bootstrapping(beta={beta:g})", "softmax", lambda y, p: -(beta * y + (1 - beta) * p.f) * _log(p)
    )


def sparse_lsr(smoothing: float = 0.1) -> HandmadeLoss:
    """Sparse label smoothing: label smoothing as if the other classes shared the remaining probability evenly.

    A function of the target's probability only: `-(1 - s + s/C) log p - (s (C-1)/C) log((1-p)/(C-1))`. It equals label
    smoothing if the others do share evenly. Raymond, Chen, Xue, Zhang (2023, arXiv 2209.08907). Both terms are
    subtracted, as in the paper's curve; the authors' published code adds the second.

    Args:
        smoothing: the share s, in [0, 1].
    """
    _check(smoothing, "smoothing", 0, 1)

    def terms(y: Array, p: Prediction) -> Array:
        others = p.classes - 1
        share = smoothing / p.classes
        return -y * ((1 - smoothing + share) * _log(p) + share * others * (p.log_not_f() - jnp.log(float(others))))

    return HandmadeLoss(f"sparse-lsr(smoothing={smoothing:g})", "softmax", terms)


def focal(gamma: float = 2.0) -> HandmadeLoss:
    """`-(1 - p)^gamma log p`: easy examples count less.

    Lin, Goyal, Girshick, He, Dollár, "Focal Loss for Dense Object Detection" (2017, arXiv 1708.02002), on the
    softmax's target class.

    Args:
        gamma: at least 0; 0 is cross-entropy.
    """
    _check(gamma, "gamma", 0, 1e3)

    def terms(y: Array, p: Prediction) -> Array:
        # Floored: for gamma < 1 the slope of x^gamma is infinite at 0, where log p is 0.
        return -y * jnp.maximum(1 - p.f, 1e-7) ** gamma * _log(p)

    return HandmadeLoss(f"focal(gamma={gamma:g})", "softmax", terms)


def poly_1(epsilon: float = 1.0) -> HandmadeLoss:
    """`-log p + epsilon (1 - p)`: cross-entropy with another first coefficient of its series in 1 - p.

    Leng, Tan, Liu, Cubuk, Shi, Cheng, Anguelov, "PolyLoss" (2022, arXiv 2204.12511).

    Args:
        epsilon: added to that coefficient, at least -1.
    """
    _check(epsilon, "epsilon", -1, 1e3)
    return HandmadeLoss(f"poly-1(epsilon={epsilon:g})", "softmax", lambda y, p: y * (epsilon * (1 - p.f) - _log(p)))


def gce(q: float = 0.7) -> HandmadeLoss:
    """Generalised cross-entropy `(1 - p^q) / q`, between cross-entropy (q -> 0) and `1 - p` (q = 1).

    Its gradient at p = 1/C is C^q times smaller than that of cross-entropy, so with many classes it begins slowly.

    Zhang, Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels" (2018,
    arXiv 1805.07836).

    Args:
        q: in (0, 1].
    """
    _check(q, "q", 0, 1, low_is_allowed=False)
    return HandmadeLoss(f"gce(q={q:g})", "softmax", lambda y, p: -y * jnp.expm1(q * _log(p)) / q)


def probability_mae() -> HandmadeLoss:
    """Sum over classes of `|y - p|`, which is `2 (1 - p)` of the target.

    Its gradient at p = 1/C is C/2 times smaller than that of cross-entropy, so with many classes it hardly begins.

    Ghosh, Kumar, Sastry, "Robust Loss Functions under Label Noise for Deep Neural Networks" (2017, arXiv 1712.09482).
    """
    return HandmadeLoss("probability-mae", "softmax", lambda y, p: jnp.abs(y - p.f))


def brier() -> HandmadeLoss:
    """Sum over classes of `(y - p)^2` (Brier, 1950).

    Its gradient at p = 1/C is C/2 times smaller than that of cross-entropy, so with many classes it hardly begins.
    """
    return HandmadeLoss("brier", "softmax", lambda y, p: jnp.square(y - p.f))


def mse(scale: Scale = 1.0) -> HandmadeLoss:
    """Mean over outputs of the squared error.

    Args:
        scale: changes nothing here; accepted as by every loss of regression.
    """
    check_scale(scale)
    return HandmadeLoss("mse", "identity", lambda y, p: jnp.square(p.f - y))


def mae(scale: Scale = 1.0) -> HandmadeLoss:
    """Mean over outputs of the absolute error, times the scale.

    Args:
        scale: unit of the targets, see `losses.scaling`. It only multiplies this loss.
    """
    return _regression("mae", scale, lambda y, p: jnp.abs(p.f - y))


def huber(delta: float = 1.0, scale: Scale = 1.0) -> HandmadeLoss:
    """`r^2 / 2` up to |r| = delta, beyond it a straight line (Huber, 1964).

    Args:
        delta: in units of `scale`, positive.
        scale: unit of the targets, see `losses.scaling`.
    """
    _check(delta, "delta", 0, 1e12, low_is_allowed=False)

    def terms(y: Array, p: Prediction) -> Array:
        r = jnp.abs(p.f - y)
        quadratic = jnp.minimum(r, delta)
        return 0.5 * quadratic**2 + delta * (r - quadratic)

    return _regression("huber", scale, terms, delta=delta)


def cauchy(scale: Scale = 1.0) -> HandmadeLoss:
    """`(c^2 / 2) log(1 + (r/c)^2)`: the pull of an outlier fades as 1/r.

    Args:
        scale: c, in units of the targets, see `losses.scaling`.
    """
    return _regression("cauchy", scale, lambda y, p: 0.5 * jnp.log1p(jnp.square(p.f - y)))


def welsch(scale: Scale = 1.0) -> HandmadeLoss:
    """`(c^2 / 2) (1 - exp(-(r/c)^2))`: an outlier does not pull at all (Dennis and Welsch, 1978).

    Args:
        scale: c, in units of the targets, see `losses.scaling`.
    """
    return _regression("welsch", scale, lambda y, p: -0.5 * jnp.expm1(-jnp.square(p.f - y)))


def _regression(name: str, scale: Scale, terms: Terms, **parameters: float) -> HandmadeLoss:
    scale = check_scale(scale)
    given = {**parameters, "scale": scale}
    named = ", ".join(
        f"{key}={value}" if isinstance(value, str) else f"{key}={value:g}" for key, value in given.items()
    )
    return HandmadeLoss(f"{name}({named})", "identity", terms, scale)


HANDMADE: Mapping[str, Callable[..., HandmadeLoss]] = MappingProxyType(
    {
        "cross-entropy": cross_entropy,
        "label-smoothing": label_smoothing,
        "bootstrapping": bootstrapping,
        "sparse-lsr": sparse_lsr,
        "focal": focal,
        "poly-1": poly_1,
        "gce": gce,
        "probability-mae": probability_mae,
        "brier": brier,
        "mse": mse,
        "mae": mae,
        "huber": huber,
        "cauchy": cauchy,
        "welsch": welsch,
    }
)
