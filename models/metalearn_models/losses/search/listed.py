"""The next generation of a search in a list of losses: drawn evenly, or as a model of the trained ones prefers."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from metalearn.runs.processes import exchange
from metalearn_models.losses.formulas import Expr, parse
from metalearn_models.losses.search.config import SearchConfig
from metalearn_models.losses.search.enumeration import Candidate
from metalearn_models.losses.search.evolution import generator
from metalearn_models.losses.search.file import State
from metalearn_models.losses.search.surrogate import choose_next

__all__ = ["choose"]


def choose(state: State, config: SearchConfig, pool: Sequence[Candidate]) -> tuple[Expr, ...]:
    """Listed losses to train next: the seeds and some drawn evenly, and later those that a model of the others prefers.

    A third of each later generation is drawn evenly too, since the model cannot foresee every good gradient.

    Args:
        state: of the search so far.
        config: strategy, seed, seeds, and the number of losses per generation.
        pool: the list.
    """
    number, count = len(state.generations), config.evolution.population
    rng = generator(config.seed, number)
    left = [i for i, one in enumerate(pool) if one.key not in state.trained]
    drawn = [left[i] for i in rng.permutation(len(left))]
    rows = np.array([i for i, one in enumerate(pool) if one.key in state.trained], np.int64)
    scores = np.array([state.trained[pool[i].key].fitness for i in rows], np.float64)
    if config.strategy == "enumeration" or np.isfinite(scores).sum() < 2:
        seeds = [parse(text) for text in config.evolution.seeds] if number == 0 else []
        return (*seeds, *(pool[i].expr for i in drawn))[:count]
    preferred = choose_next(
        np.stack([one.features for one in pool]), rows, np.log(np.maximum(scores, 1e-12)), count - count // 3
    )
    preferred = json.loads(exchange(json.dumps(preferred))[0])  # roundings differ between hosts
    others = [i for i in drawn if i not in set(preferred)]
    return tuple(pool[i].expr for i in (*preferred, *others)[:count])
