"""One-shot pruning of trained parameters: scores, and the choice of what stays.

scores = magnitude(params)
masks = keep_globally(scores, share_to_keep(params, scores, compression=8))
optimizer = sparse_with_masks(optax.adam(1e-3), static(), masks)  # fine-tune in the ordinary loop
params = apply_masks(params, masks)
"""

from metalearn_models.sparsity.pruning.activation import activation as activation
from metalearn_models.sparsity.pruning.gradient import gradient_magnitude as gradient_magnitude
from metalearn_models.sparsity.pruning.gradient import snip as snip
from metalearn_models.sparsity.pruning.keep import keep_by_layer as keep_by_layer
from metalearn_models.sparsity.pruning.keep import keep_globally as keep_globally
from metalearn_models.sparsity.pruning.keep import share_to_keep as share_to_keep
from metalearn_models.sparsity.pruning.magnitude import magnitude as magnitude
from metalearn_models.sparsity.pruning.magnitude import random as random
from metalearn_models.sparsity.pruning.obs import Pruned as Pruned
from metalearn_models.sparsity.pruning.obs import batch_gradients as batch_gradients
from metalearn_models.sparsity.pruning.obs import optimal_brain_damage as optimal_brain_damage
from metalearn_models.sparsity.pruning.obs import optimal_brain_surgeon as optimal_brain_surgeon
from metalearn_models.sparsity.pruning.rewind import Ticket as Ticket
from metalearn_models.sparsity.pruning.rewind import find_ticket as find_ticket

__all__ = [
    "Pruned",
    "Ticket",
    "activation",
    "batch_gradients",
    "find_ticket",
    "gradient_magnitude",
    "keep_by_layer",
    "keep_globally",
    "magnitude",
    "optimal_brain_damage",
    "optimal_brain_surgeon",
    "random",
    "share_to_keep",
    "snip",
]


def __dir__() -> list[str]:
    return __all__
