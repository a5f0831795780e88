"""The search spaces of this room by name, with a line of text each, for `metalearn list`."""

from __future__ import annotations

__all__ = ["SPACES"]

SPACES: dict[str, str] = {
    "feedforward_cell": "cells of few nodes on vectors, small enough for a table of the whole space",
    "recurrent_cell": "8 nodes, 4 operations, 2,642,411,520 cells (Li and Talwalkar), on sequences of symbols",
    "convolutional_cell": "4 nodes, 2 inputs each, 8 operations, 3,019,898,880 cells (Li and Talwalkar), on images",
    "learner_sizes": "the sizes of the in-context Transformer or LSTM, as cells of a sweep",
}
"""Functions of `metalearn_models.architectures` that make a network for every architecture of a space, or a space."""
