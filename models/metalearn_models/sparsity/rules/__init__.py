"""Rules by which the connections of a sparse network change in training, one file each."""

from metalearn_models.sparsity.rules.gradual_pruning import gradual_pruning as gradual_pruning
from metalearn_models.sparsity.rules.learned_rule import Topology as Topology
from metalearn_models.sparsity.rules.learned_rule import learned_rule as learned_rule
from metalearn_models.sparsity.rules.learned_rule import learned_topology as learned_topology
from metalearn_models.sparsity.rules.learned_rule import rigl_theta as rigl_theta
from metalearn_models.sparsity.rules.learned_rule import set_theta as set_theta
from metalearn_models.sparsity.rules.learned_rule import snfs_theta as snfs_theta
from metalearn_models.sparsity.rules.rigl import rigl as rigl
from metalearn_models.sparsity.rules.rigl import rigl_released as rigl_released
from metalearn_models.sparsity.rules.set_rule import set_rule as set_rule
from metalearn_models.sparsity.rules.snfs import snfs as snfs
from metalearn_models.sparsity.rules.srigl import srigl as srigl
from metalearn_models.sparsity.rules.static import static as static

__all__ = [
    "Topology",
    "gradual_pruning",
    "learned_rule",
    "learned_topology",
    "rigl",
    "rigl_released",
    "rigl_theta",
    "set_rule",
    "set_theta",
    "snfs",
    "snfs_theta",
    "srigl",
    "static",
]
