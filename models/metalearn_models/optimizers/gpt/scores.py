"""How a generator of parameters is judged.

Prompt alignment is that of Peebles et al. 2022 (arXiv 2209.12892): the mean over networks of the R^2 between wished
and achieved losses. Novelty and disagreement answer Zeng et al. 2025 (arXiv 2506.07998), who found that generators of
this kind mostly memorise checkpoints.

Shapes: R networks, Q prompts, N examples, C classes, P parameters.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

__all__ = ["alignment", "disagreement", "dispersion_ratio", "prompts_below"]


def prompts_below(best: float, present: float, count: int = 20, share: float = 0.9) -> Float[np.ndarray, "Q"]:
    """Wished losses, equally far apart, from the best to a share of the present one.

    Raises:
        ValueError: fewer than two, or the best is not below that share.
    """
    if count < 2 or not best < share * present:
        raise ValueError(f"prompts need count >= 2 and best < {share:g} x present, got {count}, {best:g}, {present:g}")
    return np.linspace(best, share * present, count)


def alignment(wished: Float[np.ndarray, "R Q"], achieved: Float[np.ndarray, "R Q"]) -> Float[np.ndarray, "R"]:
    """R^2 per network, 1 at best, without bound below; an achieved loss that is not finite makes it -inf."""
    wished, achieved = np.asarray(wished, np.float64), np.asarray(achieved, np.float64)
    total = np.square(wished - wished.mean(-1, keepdims=True)).sum(-1)
    with np.errstate(invalid="ignore", over="ignore"):
        score = 1 - np.square(wished - achieved).sum(-1) / total
    return np.where(np.isnan(score), -np.inf, score)


def disagreement(first: Float[np.ndarray, "R N C"], second: Float[np.ndarray, "R N C"]) -> float:
    """Share of examples to which two networks give different classes."""
    return float(np.mean(first.argmax(-1) != second.argmax(-1)))


def dispersion_ratio(made: Float[np.ndarray, "M P"], stored: Float[np.ndarray, "R P"]) -> float:
    """Spread of generated networks over that of stored ones: root mean square distance from their means.

    1 is right, 0 is the collapse to one network.
    """

    def spread(flat: np.ndarray) -> float:
        return float(np.sqrt(np.mean(np.square(flat - flat.mean(0)))))

    return spread(np.asarray(made, np.float64)) / spread(np.asarray(stored, np.float64))
