"""Sizes of the Transformer for tables."""

from __future__ import annotations

from dataclasses import dataclass

from metalearn.ranges import Size

__all__ = ["TableTransformerConfig"]


@dataclass(frozen=True)
class TableTransformerConfig:
    """Sizes of the Transformer for tables."""

    width: Size = 64
    """Numbers in the token of a cell."""
    layers: Size = 4
    """Blocks: attention over rows, attention over columns, MLP."""
    cell_layers: Size = 2
    """So many blocks, the first ones, also have attention inside each column."""
    key_size: Size = 32
    """Numbers in queries, keys and values; each attention has one head."""
    hidden: Size = 128
    """Hidden width of the MLP."""
    frequencies: Size = 8
    """Sines, and as many cosines, of a cell's rank in its column."""
    codes: Size = 16
    """Numbers in the code of a class; up to so many classes have codes of their own."""
    votes: Size = 2
    """Heads of the decoder, whose answers are averaged."""
