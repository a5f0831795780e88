"""Tables from structural causal models: columns and class are nodes of one random network.

After TabPFN (Hollmann et al. 2022, arXiv 2207.01848): causes run through random layers, each node a noisy function of
the layer before it. Columns are nodes of any layer, so they may cause the class or be its consequences, and causes that
are not among the columns stay hidden. Some layers are random trees, as in TabICL (Qu et al. 2025, arXiv 2502.05564).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from metalearn_tasks.families.tables.pieces import activate, standardise, tree_values

__all__ = ["causal"]

TREE_LAYERS = 0.25


def causal(
    rng: np.random.Generator, causes: Float[np.ndarray, "n r"], features: int, scores: int, noise: float
) -> tuple[Float[np.ndarray, "n {features}"], Float[np.ndarray, "n {scores}"]]:
    """Columns, and scores that decide the class.

    Args:
        rng: all randomness.
        causes: the roots of the network.
        features: number of columns.
        scores: number of scores.
        noise: deviation of the noise of each node, in standard deviations of the node; 0: all is a function of the
            causes.
    """
    layers = 1 + int(rng.integers(4))
    width = max(4, scores, -(-int(features * rng.uniform(1.0, 1.6)) // layers))
    nodes, z = [standardise(causes)], standardise(causes)
    for _ in range(layers):
        z = _layer(rng, z, width)
        if noise > 0:
            z = z + noise * rng.standard_normal(z.shape)
        nodes.append(z)
    # The class hangs on nodes of one of the last two layers; what is left of them can be columns.
    home = len(nodes) - 1 - int(rng.integers(min(2, layers)))
    few = 1 + int(rng.integers(min(4, width)))
    parents = nodes[home][:, :few]
    nodes[home] = nodes[home][:, few:] if rng.random() < 0.5 else nodes[home]
    if scores == 1:
        decided = parents[:, :1]
    else:
        decided = parents @ rng.standard_normal((few, scores)) if rng.random() < 0.5 else _layer(rng, parents, scores)
    pool = np.concatenate(nodes, axis=1)
    if pool.shape[1] < features:
        pool = np.concatenate([pool, _layer(rng, pool, features)], axis=1)
    return pool[:, rng.permutation(pool.shape[1])[:features]], decided


def _layer(rng: np.random.Generator, z: Float[np.ndarray, "n k"], width: int) -> Float[np.ndarray, "n {width}"]:
    """One layer of nodes, standardised: a network's, or a sum of trees."""
    if rng.random() < TREE_LAYERS:
        depth = 1 + int(rng.integers(4))
        return standardise(tree_values(rng, z, width, depth, 1 + int(rng.integers(3))))
    weights = rng.standard_normal((z.shape[1], width))
    if z.shape[1] > 2 and rng.random() < 0.6:  # each node has few parents
        parents = 1 + int(rng.integers(min(4, z.shape[1])))
        weights *= rng.random(weights.shape) < parents / z.shape[1]
        weights[rng.integers(z.shape[1], size=width), np.arange(width)] += rng.choice((-1.0, 1.0), width)
    hidden = z @ weights / np.sqrt(np.square(weights).sum(0)) * rng.uniform(0.5, 2.0) + rng.uniform(-1.0, 1.0, width)
    return standardise(activate(rng, hidden))
