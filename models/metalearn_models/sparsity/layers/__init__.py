"""Truly sparse layers: what they store and compute is linear in the number of connections."""

from metalearn_models.sparsity.layers.all_relu import all_relu as all_relu
from metalearn_models.sparsity.layers.block import block_product as block_product
from metalearn_models.sparsity.layers.block import block_to_dense as block_to_dense
from metalearn_models.sparsity.layers.block import draw_blocks as draw_blocks
from metalearn_models.sparsity.layers.convert import from_dense as from_dense
from metalearn_models.sparsity.layers.convert import from_mask as from_mask
from metalearn_models.sparsity.layers.convert import to_dense as to_dense
from metalearn_models.sparsity.layers.convert import to_mask as to_mask
from metalearn_models.sparsity.layers.ell import Connections as Connections
from metalearn_models.sparsity.layers.ell import ell_product as ell_product
from metalearn_models.sparsity.layers.importance import Smaller as Smaller
from metalearn_models.sparsity.layers.importance import importance as importance
from metalearn_models.sparsity.layers.importance import prune_neurons as prune_neurons
from metalearn_models.sparsity.layers.importance import remove_neurons as remove_neurons
from metalearn_models.sparsity.layers.mlp import Layers as Layers
from metalearn_models.sparsity.layers.mlp import SparseNetwork as SparseNetwork
from metalearn_models.sparsity.layers.mlp import Topologies as Topologies
from metalearn_models.sparsity.layers.mlp import erdos_renyi_fan_in as erdos_renyi_fan_in
from metalearn_models.sparsity.layers.mlp import evolve_layers as evolve_layers
from metalearn_models.sparsity.layers.mlp import sparse_mlp as sparse_mlp
from metalearn_models.sparsity.layers.module import BlockDense as BlockDense
from metalearn_models.sparsity.layers.module import SparseDense as SparseDense
from metalearn_models.sparsity.layers.module import Topology as Topology
from metalearn_models.sparsity.layers.module import from_linear as from_linear
from metalearn_models.sparsity.layers.module import to_linear as to_linear
from metalearn_models.sparsity.layers.topology import Evolved as Evolved
from metalearn_models.sparsity.layers.topology import connect as connect
from metalearn_models.sparsity.layers.topology import default_capacity as default_capacity
from metalearn_models.sparsity.layers.topology import draw_connections as draw_connections
from metalearn_models.sparsity.layers.topology import draw_values as draw_values
from metalearn_models.sparsity.layers.topology import evolve as evolve
from metalearn_models.sparsity.layers.topology import forget as forget

__all__ = [
    "BlockDense",
    "Connections",
    "Evolved",
    "Layers",
    "Smaller",
    "SparseDense",
    "SparseNetwork",
    "Topologies",
    "Topology",
    "all_relu",
    "block_product",
    "block_to_dense",
    "connect",
    "default_capacity",
    "draw_blocks",
    "draw_connections",
    "draw_values",
    "ell_product",
    "erdos_renyi_fan_in",
    "evolve",
    "evolve_layers",
    "forget",
    "from_dense",
    "from_linear",
    "from_mask",
    "importance",
    "prune_neurons",
    "remove_neurons",
    "sparse_mlp",
    "to_dense",
    "to_linear",
    "to_mask",
]


def __dir__() -> list[str]:
    return __all__
