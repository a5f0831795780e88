"""Codes of aligned networks: units matched to a reference, rescaled, and projected on principal components.

The recipe is that of notes beside "DeepWeightFlow" (arXiv 2601.05052): at small size, dividing out the symmetries is
what lets a generator learn anything. A run is aligned once, by its last checkpoint, since training does not permute
units. A network whose run is unknown is aligned by itself.

Shapes: R runs, S recorded steps, P parameters, K components, H hidden units.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from metalearn_models.optimizers.gpt.symmetry import align_units, balance_units
from metalearn_models.optimizers.gpt.tokens import Tokeniser

__all__ = ["Codec", "align_runs", "canonical", "code_tokens", "fit_codec"]


class Codec(NamedTuple):
    """Principal components of aligned checkpoints.

    Attributes:
        mean: of the aligned parameters.
        components: orthonormal rows.
        reference: units that others are matched to.
    """

    mean: Float[np.ndarray, "P"]
    components: Float[np.ndarray, "K P"]
    reference: Float[np.ndarray, "H W"]

    def encode(self, flat: Float[np.ndarray, "*B P"]) -> Float[np.ndarray, "*B K"]:
        """Codes of parameters that are aligned already."""
        return ((flat - self.mean) @ self.components.T).astype(np.float32)

    def decode(self, codes: Float[np.ndarray, "*B K"]) -> Float[np.ndarray, "*B P"]:
        """Parameters of codes."""
        return (codes @ self.components + self.mean).astype(np.float32)


def fit_codec(
    tokeniser: Tokeniser, params: Float[np.ndarray, "R S P"], outputs: int, components: int = 64
) -> tuple[Codec, Float[np.ndarray, "R S K"]]:
    """Align all runs to the first one's end, twice: the second time to the mean of the aligned ends.

    Args:
        tokeniser: of hidden units.
        params: checkpoints of training runs only.
        outputs: numbers of a unit that are weights out of it.
        components: K.

    Returns:
        The codec, and the codes of these checkpoints.

    Raises:
        ValueError: more components than parameters or checkpoints.
    """
    runs, steps, size = params.shape
    if not 1 <= components <= min(size, runs * steps):
        raise ValueError(f"components must be from 1 to {min(size, runs * steps)}, got {components}")
    ends = _balanced_units(tokeniser, params[:, -1], outputs)
    reference = ends[0]
    for _ in range(2):
        reference = np.mean([units[align_units(units, reference)] for units in ends], 0)
    orders = [align_units(units, reference) for units in ends]
    aligned = np.stack([canonical(tokeniser, x, order, outputs) for x, order in zip(params, orders, strict=True)])
    flat = aligned.reshape(-1, size)
    mean = flat.mean(0)
    _, vectors = np.linalg.eigh(np.cov(flat - mean, rowvar=False))  # in the order of rising variance
    codec = Codec(mean, np.ascontiguousarray(vectors[:, ::-1].T[:components]).astype(np.float32), reference)
    return codec, codec.encode(aligned)


def align_runs(
    tokeniser: Tokeniser, codec: Codec, flat: Float[np.ndarray, "R P"], outputs: int
) -> Float[np.ndarray, "R P"]:
    """Networks whose runs are unknown, each aligned by itself and balanced."""
    units = _balanced_units(tokeniser, flat, outputs)
    return np.stack(
        [
            canonical(tokeniser, one, align_units(own, codec.reference), outputs)
            for one, own in zip(flat, units, strict=True)
        ]
    )


def canonical(
    tokeniser: Tokeniser, flat: Float[np.ndarray, "*B P"], order: Int[np.ndarray, "H"], outputs: int
) -> Float[np.ndarray, "*B P"]:
    """The same networks with their units in another order, and balanced."""
    made = np.array(flat, np.float32)
    made[..., tokeniser.places[0]] = _balanced_units(tokeniser, flat, outputs)[..., order, :]
    return made


def code_tokens(components: int) -> Tokeniser:
    """One token of all components: a Transformer of one token is a residual network of dense layers."""
    return Tokeniser((np.arange(components)[None],))


def _balanced_units(tokeniser: Tokeniser, flat: np.ndarray, outputs: int) -> np.ndarray:
    return balance_units(np.asarray(flat, np.float32)[..., tokeniser.places[0]], outputs)
