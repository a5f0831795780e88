"""Which weights stay: the largest scores of all layers together, or of each layer by itself.

Exactly as many weights stay as asked for. A threshold would keep all weights that are equal to it, and drawing each
weight by itself would keep a random number of them; both shift the compression that a method is compared at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from metalearn_models.sparsity.contract import Masks
from metalearn_models.sparsity.pruning.trees import leaf_paths
from metalearn_models.sparsity.selection import largest

__all__ = ["keep_by_layer", "keep_globally", "share_to_keep"]

_largest = jax.jit(largest)


def share_to_keep(params: Any, scores: Any, compression: float) -> float:
    """The share of the weights with a score that has to stay for a compression of all parameters.

    Compression is the number of all parameters over the number of those that stay, as in ShrinkBench (Blalock et al.
    2020, arXiv 2003.03033): `share = (all / compression - without score) / with score`.

    Args:
        params: all parameters.
        scores: the tree of `params` with None where a leaf stays dense.
        compression: at least 1.

    Raises:
        ValueError: the compression is below 1, or cannot be reached; with the largest that can.
    """
    total = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(params))
    scored = sum(_sizes(scores).values())
    if not compression >= 1:
        raise ValueError(f"compression is all parameters over those that stay, so at least 1, got {compression}")
    kept = round(total / compression) - (total - scored)
    if kept < 1:
        most = total / (total - scored + 1)
        raise ValueError(
            f"a compression of {compression:g} would keep {total / compression:.0f} of {total:,} parameters, but "
            f"{total - scored:,} of them stay dense: ask for at most {math.floor(1000 * most) / 1000:g}"
        )
    return kept / scored


def keep_globally(scores: Any, share: float, among: Masks = None) -> Masks:
    """Keep the largest scores of all layers together. A layer whose scores are all small may lose all its weights.

    Args:
        scores: a tree like the parameters, None where a leaf stays dense.
        share: of the weights with a score, in (0, 1]; rounded to a number of weights.
        among: masks of the weights that may stay. None: all.

    Returns:
        Masks. Of equal scores, those that come first in the tree stay.

    Raises:
        ValueError: the share is out of range or keeps no weight, a leaf has a score and no weights, a score is NaN or
            infinite, or more weights would have to stay than may.
    """
    sizes = _check(scores, share)
    leaves = _leaves(scores)
    flat = jnp.concatenate([jnp.ravel(leaf).astype(jnp.float32) for leaf in leaves])
    may = jnp.concatenate([jnp.ravel(mask) for mask in _among(scores, among)])
    count = round(share * len(flat))
    if not count:
        raise ValueError(
            f"a share of {share:g} would keep none of {len(flat)} weights: keep at least {1 / len(flat):.4g}"
        )
    _check_enough("all layers", count, may)
    mask = _largest(flat, jnp.int32(count), may)
    parts = jnp.split(mask, np.cumsum([*sizes.values()])[:-1])
    masks = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(scores), masks)


def keep_by_layer(scores: Any, share: float, among: Masks = None) -> Masks:
    """Keep the same share of each layer, its largest scores.

    Numbers of weights are rounded so that their sum is that of `keep_globally`.

    Args:
        scores: as in `keep_globally`.
        share: as there.
        among: as there.

    Raises:
        ValueError: as there; or a layer would keep no weight, with the least share that leaves it one.
    """
    sizes = _check(scores, share)
    counts = _split_count(sizes, share)
    if lost := [path for path, count in counts.items() if not count]:
        least = min(sizes[path] for path in lost)
        raise ValueError(
            f"a share of {share:g} would leave {', '.join(lost)} without weights: keep a share of at least "
            f"{1 / least:.4g}, or leave small layers dense"
        )
    masks = []
    for (path, count), leaf, may in zip(counts.items(), _leaves(scores), _among(scores, among), strict=True):
        _check_enough(path, count, may)
        masks.append(_largest(leaf.astype(jnp.float32), jnp.int32(count), may))
    return jax.tree.unflatten(jax.tree.structure(scores), masks)


def _split_count(sizes: Mapping[str, int], share: float) -> dict[str, int]:
    """How many weights each layer keeps: rounded down, and up where the rest is largest, until the sum is right."""
    exact = {path: share * size for path, size in sizes.items()}
    counts = {path: math.floor(number) for path, number in exact.items()}
    missing = round(share * sum(sizes.values())) - sum(counts.values())
    for path in sorted(exact, key=lambda path: counts[path] - exact[path])[: max(missing, 0)]:
        counts[path] += 1
    return counts


def _check(scores: Any, share: float) -> dict[str, int]:
    """The sizes of the leaves that have scores, if these can be used."""
    if not 0 < share <= 1:
        raise ValueError(f"share is the part of the weights that stays, in (0, 1], got {share}")
    sizes = _sizes(scores)
    if not sizes:
        raise ValueError("there are no scores: every leaf is dense. Choose leaves to prune with `which`")
    for path, leaf in zip(sizes, _leaves(scores), strict=True):
        if not leaf.size:
            raise ValueError(f"{path} has no weights, its shape is {leaf.shape}: leave it dense")
        if not isinstance(leaf, Tracer) and (wrong := int((~jnp.isfinite(leaf)).sum())):
            raise ValueError(f"{wrong} of {leaf.size} scores of {path} are NaN or infinite: no weight was pruned")
    return sizes


def _check_enough(where: str, count: int, may: Any) -> None:
    if not isinstance(may, Tracer) and count > (left := int(may.sum())):
        raise ValueError(f"{count} weights of {where} are to stay, but `among` has only {left}")


def _among(scores: Any, among: Masks) -> list[Any]:
    leaves = _leaves(scores)
    if among is None:
        return [jnp.ones_like(leaf, bool) for leaf in leaves]
    given = jax.tree.leaves(among)
    if [mask.shape for mask in given] != [leaf.shape for leaf in leaves]:
        raise ValueError(
            f"`among` needs a mask per leaf with scores, of shapes {[leaf.shape for leaf in leaves]}, "
            f"got {[mask.shape for mask in given]}"
        )
    return given


def _leaves(scores: Any) -> list[Any]:
    return [jnp.asarray(leaf) for leaf in jax.tree.leaves(scores)]


def _sizes(scores: Any) -> dict[str, int]:
    return dict(zip(leaf_paths(scores), (int(np.size(leaf)) for leaf in jax.tree.leaves(scores)), strict=True))
