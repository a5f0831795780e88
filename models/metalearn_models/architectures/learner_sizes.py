"""The sizes of in-context learners as a space like any other.

Programs of other sizes have other shapes, so these architectures are not trained in one program: `Space.describe` gives
the cell of a sweep, whose names are the options of `metalearn train`, and sweeps train them with many workers.
"""

from __future__ import annotations

from metalearn.errors import unknown_name
from metalearn_models.architectures.space import Space, make_space

__all__ = ["learner_sizes"]

_SIZES: dict[str, dict[str, tuple[int | str, ...]]] = {
    "transformer": {
        "learner.width": (32, 64, 128, 256),
        "learner.layers": (1, 2, 4),
        "learner.heads": (1, 2, 4, 8),
        "learner.key_size": (8, 16, 32),
        "learner.mlp_ratio": (2, 4),
        "learner.token": ("pair", "paper"),
    },
    "lstm": {"learner.hidden": (16, 32, 64, 128, 256), "learner.token": ("pair", "paper")},
}


def learner_sizes(learner: str) -> Space:
    """The sizes of an in-context learner, up to those of Kirsch et al. 2022 (arXiv 2212.04458).

    Which sizes there are below these is our choice.

    Args:
        learner: "transformer" or "lstm".

    Raises:
        UnknownNameError: another name; with the nearest ones.
    """
    if learner not in _SIZES:
        raise unknown_name("learner", learner, _SIZES)
    return make_space(f"{learner} sizes", {"learner": (learner,), **_SIZES[learner]})
