"""Truly sparse layers: what they store and compute is linear in the number of connections."""

from metalearn_models.sparsity.layers.convert import from_dense as from_dense
from metalearn_models.sparsity.layers.convert import from_mask as from_mask
from metalearn_models.sparsity.layers.convert import to_dense as to_dense
from metalearn_models.sparsity.layers.convert import to_mask as to_mask
from metalearn_models.sparsity.layers.ell import Connections as Connections
from metalearn_models.sparsity.layers.ell import ell_product as ell_product
from metalearn_models.sparsity.layers.topology import Evolved as Evolved
from metalearn_models.sparsity.layers.topology import connect as connect
from metalearn_models.sparsity.layers.topology import default_capacity as default_capacity
from metalearn_models.sparsity.layers.topology import draw_connections as draw_connections
from metalearn_models.sparsity.layers.topology import draw_values as draw_values
from metalearn_models.sparsity.layers.topology import evolve as evolve
from metalearn_models.sparsity.layers.topology import forget as forget

__all__ = [
    "Connections",
    "Evolved",
    "connect",
    "default_capacity",
    "draw_connections",
    "draw_values",
    "ell_product",
    "evolve",
    "forget",
    "from_dense",
    "from_mask",
    "to_dense",
    "to_mask",
]


def __dir__() -> list[str]:
    return __all__
