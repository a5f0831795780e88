"""The designs that are compared: B and C on tokens of hidden units, A on codes of aligned networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, cast

import jax
import numpy as np

from experiments.gpt._problem import OUTPUTS, Checkpoints
from experiments.gpt._training import Fitted, Fitting, fit
from metalearn.runs.progress import Progress
from metalearn_models.optimizers import gpt
from metalearn_models.optimizers.gpt.codes import align_runs, code_tokens, fit_codec

ARMS = {
    "regression": "C: regression on hidden-unit tokens",
    "diffusion": "B: diffusion on hidden-unit tokens",
    "flow": "B: rectified flow on hidden-unit tokens",
    "codes": "A: rectified flow on codes of aligned networks",
}

Propose = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""`(flat[U, P], losses[U], wished[U, Q]) -> flat[U, Q, P]`."""


class Trained(NamedTuple):
    """A generator that has been trained.

    Attributes:
        propose: what it proposes.
        flops: of one jump, two per weight and token.
        fitted: of its training.
    """

    propose: Propose
    flops: float
    fitted: Fitted


def train_arm(
    name: str,
    made: Checkpoints,
    network: gpt.TransformerConfig,
    sampler: int,
    fitting: Fitting,
    seed: int,
    kept: Path | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train one design on the checkpoints of the training runs; see `fit`."""
    codec, params, tokeniser = None, made.params, made.tokeniser
    if name == "codes":
        codec, params = fit_codec(tokeniser, params, OUTPUTS)
        tokeniser = code_tokens(params.shape[-1])
    method = "flow" if name == "codes" else name
    config = gpt.GeneratorConfig(cast(gpt.Method, method), network, sampler)
    generator = gpt.make_generator(config, tokeniser, gpt.fit_generator_scales(tokeniser, params, made.losses))
    fitted = fit(generator, params, made.losses, fitting, seed, kept, progress)
    jumps = gpt.compile_jumps(generator)

    def propose(flat: np.ndarray, losses: np.ndarray, wished: np.ndarray) -> np.ndarray:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 3), wished.shape)
        start = flat if codec is None else codec.encode(align_runs(made.tokeniser, codec, flat, OUTPUTS))
        found = np.asarray(jumps(fitted.theta, start, losses, wished.astype(np.float32), keys, fitted.errors))
        return found if codec is None else codec.decode(found)

    tokens = sum(len(group) for group in tokeniser.places)
    return Trained(propose, 2.0 * fitted.weights * tokens * config.predictions, fitted)
