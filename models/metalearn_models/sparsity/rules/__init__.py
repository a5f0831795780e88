"""Rules by which the connections of a sparse network change in training, one file each."""

from metalearn_models.sparsity.rules.rigl import rigl as rigl
from metalearn_models.sparsity.rules.rigl import rigl_released as rigl_released
from metalearn_models.sparsity.rules.static import static as static

__all__ = ["rigl", "rigl_released", "static"]
