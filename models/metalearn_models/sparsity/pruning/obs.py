"""Pruning by curvature: optimal brain surgeon with M-FAC's inverse Fisher, and optimal brain damage as its control.

Hassibi and Stork 1992, "Second order derivatives for network pruning: optimal brain surgeon": weight k costs
`w_k^2 / (2 [F^-1]_kk)`, and the other weights move to make up for its loss. Frantar, Kurtic, Alistarh 2021, "M-FAC"
(arXiv 2107.03356), take F from m gradients and prune in rounds, each with new gradients: after n rounds a share s is
left, after round j it is `s^(j/n)`. LeCun, Denker, Solla 1990, "Optimal brain damage", keep the diagonal of F only:
weight k costs `w_k^2 F_kk / 2` and nothing else moves. Here both take F from the same gradients, so that what the
inverse adds can be seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from metalearn_models.optimizers.curvature.mfac_inverse import check_damping, invert_fisher
from metalearn_models.sparsity.contract import Masks
from metalearn_models.sparsity.masks import Which, apply_masks, kernels
from metalearn_models.sparsity.pruning.keep import keep_globally
from metalearn_models.sparsity.pruning.magnitude import magnitude
from metalearn_models.sparsity.pruning.trees import paired_leaves

__all__ = ["Pruned", "batch_gradients", "optimal_brain_damage", "optimal_brain_surgeon"]

Gradients = Callable[[Any, int], Any]
"""`(params, round) -> m gradients`, a tree like the parameters with arrays [m, ...]."""


class Pruned(NamedTuple):
    """A pruned network.

    Attributes:
        params: the parameters, 0 where the masks are off.
        masks: what stays.
    """

    params: Any
    masks: Masks


def batch_gradients(loss: Callable[[Any, Any], Any], params: Any, batches: Any) -> Any:
    """The gradient of each of m batches, one after the other.

    Args:
        loss: `(params, batch) -> scalar`.
        params: parameters.
        batches: a tree of arrays [m, ...].

    Returns:
        A tree like `params` with arrays [m, ...].
    """
    return jax.lax.map(lambda batch: jax.grad(loss)(params, batch), batches)


def optimal_brain_surgeon(
    params: Any,
    gradients: Gradients,
    share: float,
    *,
    rounds: int = 1,
    damping: float = 1e-5,
    block: int | None = None,
    which: Which = kernels,
) -> Pruned:
    """Remove the weights that cost least if the others adapt, in rounds, and let the others adapt.

    Args:
        params: trained parameters.
        gradients: `(params, round) -> m gradients`, a tree like `params` with arrays [m, ...], each of a batch or of an
            example at these parameters; round counts from 0. `batch_gradients` makes them. All of them are in memory.
        share: of the weights of the chosen leaves that stays, in (0, 1].
        rounds: how often the gradients are computed anew. 1 is the paper's static pruning.
        damping: added to the diagonal of F; the paper's 1e-5.
        block: weights per diagonal block of F. None: one block for all chosen leaves together.
        which: chooses the leaves to prune by path and shape. The others neither change nor count in F.

    Returns:
        Parameters and masks. Exactly `round(share * weights)` weights stay.

    Raises:
        ValueError: the share, the rounds, the damping or the block are out of range, or a gradient is not finite.
    """

    def judge(w: Float[Array, " d"], rows: Float[Array, "m d"]) -> tuple[Any, Any]:
        inverse = invert_fisher(rows, damping, block)
        return inverse.saliencies(w), lambda removed: inverse.remove(w, removed)

    return _prune_in_rounds(params, gradients, share, rounds, damping, which, judge)


def optimal_brain_damage(
    params: Any,
    gradients: Gradients,
    share: float,
    *,
    rounds: int = 1,
    damping: float = 1e-5,
    which: Which = kernels,
) -> Pruned:
    """Remove the weights that cost least if nothing else moves, by the diagonal of F. Arguments as in the surgeon's."""

    def judge(w: Float[Array, " d"], rows: Float[Array, "m d"]) -> tuple[Any, Any]:
        cost = jnp.square(w) * (damping + jnp.square(rows).mean(0)) / 2
        return cost, lambda removed: jnp.where(removed, 0, w)

    return _prune_in_rounds(params, gradients, share, rounds, damping, which, judge)


def _prune_in_rounds(
    params: Any, gradients: Gradients, share: float, rounds: int, damping: float, which: Which, judge: Any
) -> Pruned:
    check_damping(damping)
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    if not 0 < share <= 1:
        raise ValueError(f"share is the part of the weights that stays, in (0, 1], got {share}")
    masks = keep_globally(magnitude(params, which), 1.0)
    for number in range(rounds):
        found = jax.tree.structure(params).flatten_up_to(gradients(params, number))
        pairs = zip(paired_leaves(params, masks), found, strict=True)
        chosen = [(w, mask, g) for (_, w, mask), g in pairs if mask is not None]
        rows = jnp.concatenate([rearrange(g, "m ... -> m (...)").astype(_wide(g)) for _, _, g in chosen], 1)
        if not bool(jnp.isfinite(rows).all()):
            raise ValueError(f"gradients of round {number} are NaN or infinite: no weight was pruned by them")
        w = jnp.concatenate([jnp.ravel(w) for w, _, _ in chosen])
        alive = jnp.concatenate([jnp.ravel(mask) for _, mask, _ in chosen])
        cost, remove = judge(w.astype(rows.dtype), jnp.where(alive[None], rows, 0))
        kept = keep_globally({"all": cost}, share ** ((number + 1) / rounds), {"all": alive})["all"]
        params, masks = _put_back(params, masks, jnp.where(kept, remove(alive & ~kept), 0), kept)
    return Pruned(apply_masks(params, masks), masks)


def _put_back(params: Any, masks: Masks, w: Float[Array, " d"], kept: Any) -> tuple[Any, Masks]:
    """The trees with new weights and masks in the chosen leaves, from flat ones."""
    pairs = paired_leaves(params, masks)
    places = iter(np.cumsum([0, *(leaf.size for _, leaf, mask in pairs if mask is not None)]))
    new_leaves, new_masks = [], []
    for _, leaf, mask in pairs:
        if mask is None:
            new_leaves.append(leaf)
            new_masks.append(None)
        else:
            part = slice(start := next(places), start + leaf.size)
            new_leaves.append(w[part].reshape(leaf.shape).astype(leaf.dtype))
            new_masks.append(kept[part].reshape(leaf.shape))
    structure = jax.tree.structure(params)
    return jax.tree.unflatten(structure, new_leaves), jax.tree.unflatten(structure, new_masks)


def _wide(x: Any) -> Any:
    return jnp.float64 if x.dtype == jnp.float64 else jnp.float32
