"""Rules by which the connections of a sparse network change in training, one file each."""

from metalearn_models.sparsity.rules.gradual_pruning import gradual_pruning as gradual_pruning
from metalearn_models.sparsity.rules.rigl import rigl as rigl
from metalearn_models.sparsity.rules.rigl import rigl_released as rigl_released
from metalearn_models.sparsity.rules.set_rule import set_rule as set_rule
from metalearn_models.sparsity.rules.snfs import snfs as snfs
from metalearn_models.sparsity.rules.static import static as static

__all__ = ["gradual_pruning", "rigl", "rigl_released", "set_rule", "snfs", "static"]
