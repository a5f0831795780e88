"""Generators of parameters that were learned from checkpoints: given parameters and a wished loss, propose others.

Peebles, Radosavovic, Brooks, Efros and Malik 2022, "Learning to learn with generative models of neural network
checkpoints" (arXiv 2209.12892), with the controls of Zeng et al. 2025 (arXiv 2506.07998).
"""

from metalearn_models.optimizers.gpt.controls import (
    nearest_of_loss,
    soup,
)
from metalearn_models.optimizers.gpt.diffusion import (
    Schedule,
    linear_schedule,
    sample_diffusion,
)
from metalearn_models.optimizers.gpt.flow import sample_flow
from metalearn_models.optimizers.gpt.generator import (
    Generator,
    GeneratorConfig,
    Method,
    compile_jumps,
    fit_generator_scales,
    jump,
    make_generator,
)
from metalearn_models.optimizers.gpt.scores import alignment, disagreement, dispersion_ratio, prompts_below
from metalearn_models.optimizers.gpt.symmetry import align_units, balance_units, distance_in_quotient
from metalearn_models.optimizers.gpt.tokens import Tokeniser, chunk_tokens, hidden_unit_tokens
from metalearn_models.optimizers.gpt.training import average_of, pairs_loop, with_average
from metalearn_models.optimizers.gpt.transformer import TransformerConfig

__all__ = [
    "Generator",
    "GeneratorConfig",
    "Method",
    "Schedule",
    "Tokeniser",
    "TransformerConfig",
    "align_units",
    "alignment",
    "average_of",
    "balance_units",
    "chunk_tokens",
    "compile_jumps",
    "disagreement",
    "dispersion_ratio",
    "distance_in_quotient",
    "fit_generator_scales",
    "hidden_unit_tokens",
    "jump",
    "linear_schedule",
    "make_generator",
    "nearest_of_loss",
    "pairs_loop",
    "prompts_below",
    "sample_diffusion",
    "sample_flow",
    "soup",
    "with_average",
]
