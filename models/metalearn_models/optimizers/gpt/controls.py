"""The trivial rows beside a generator: what anyone can do with the stored checkpoints, or with one gradient.

Zeng et al. 2025 (arXiv 2506.07998) found that averages and noise beat most generators of parameters.

Shapes: R runs, S recorded steps, P parameters, Q wished losses.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

__all__ = ["nearest_of_loss", "soup"]


def nearest_of_loss(
    params: Float[np.ndarray, "R S P"], losses: Float[np.ndarray, "R S"], wished: Float[np.ndarray, "Q"]
) -> Float[np.ndarray, "Q P"]:
    """The stored checkpoint whose loss is nearest to each wished one."""
    flat = losses.reshape(-1)
    chosen = np.abs(flat[None] - np.asarray(wished)[:, None]).argmin(1)
    return np.asarray(params).reshape(flat.size, -1)[chosen]


def soup(params: Float[np.ndarray, "R S P"], members: int = 16) -> Float[np.ndarray, "P"]:
    """The mean of the last checkpoints of the first `members` runs; align them first.

    Raises:
        ValueError: there are fewer runs.
    """
    if not 1 <= members <= len(params):
        raise ValueError(f"members must be from 1 to the number of runs, {len(params)}, got {members}")
    return np.asarray(params[:members, -1]).mean(0)
