"""The symmetries of a network of one hidden layer with ReLU: hidden units can be permuted and rescaled.

Matching by the Hungarian method is that of Ainsworth, Hayase and Srinivasa 2022, "Git Re-Basin" (arXiv 2209.04836);
for one hidden layer it is exact. Parameters are unit tokens here, see `tokens.hidden_unit_tokens`.

Shapes: H hidden units, W numbers of a unit (weights in, bias, weights out), R networks.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

__all__ = ["align_units", "balance_units", "distance_in_quotient"]


def align_units(units: Float[np.ndarray, "H W"], reference: Float[np.ndarray, "H W"]) -> Int[np.ndarray, "H"]:
    """The order of the units that brings them nearest to a reference: `units[order]`.

    A run is aligned once, on one snapshot, and all its snapshots get that order: training does not permute units.
    """
    return linear_sum_assignment(_costs(units, reference).T)[1]


def balance_units(units: Float[np.ndarray, "*B H W"], outputs: int) -> Float[np.ndarray, "*B H W"]:
    """The same network with ReLU, in which the weights into each unit have the norm of those out of it.

    A unit whose norms are not both positive stays as it is.
    """
    into, out = units[..., : units.shape[-1] - outputs], units[..., units.shape[-1] - outputs :]
    norms = [np.linalg.norm(x, axis=-1, keepdims=True) for x in (into, out)]
    possible = (norms[0] > 0) & (norms[1] > 0)
    factor = np.sqrt(np.divide(norms[1], norms[0], out=np.ones_like(norms[0]), where=possible))
    factor = np.where(possible, factor, 1.0)
    return np.concatenate([into * factor, out / factor], -1).astype(units.dtype)


def distance_in_quotient(
    units: Float[np.ndarray, "H W"], rest: Float[np.ndarray, "V"], others: tuple[np.ndarray, np.ndarray], outputs: int
) -> Float[np.ndarray, "R"]:
    """Euclidean distance to other networks, where permuting and rescaling units does not count.

    Args:
        units: of one network.
        rest: its other parameters, such as output biases.
        others: units `[R, H, W]` and rest `[R, V]` of the other networks.
        outputs: numbers of a unit that are weights out of it.
    """
    one, many = balance_units(units, outputs), balance_units(others[0], outputs)
    apart = np.square(others[1] - rest).sum(-1)
    for number, other in enumerate(many):
        costs = _costs(one, other)
        apart[number] += costs[linear_sum_assignment(costs)].sum()
    return np.sqrt(apart)


def _costs(units: np.ndarray, reference: np.ndarray) -> Float[np.ndarray, "H H"]:
    return np.square(units[:, None] - reference[None]).sum(-1)
