"""The designs that are compared: B and C on tokens of hidden units, A on codes of aligned networks."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.gpt._problem import OUTPUTS, Checkpoints
from metalearn.gradients import backprop
from metalearn.outer import local_mesh, outer_loop
from metalearn.runs.files import write_atomically
from metalearn.runs.progress import Progress
from metalearn_models.optimizers import gpt
from metalearn_models.optimizers.gpt.codes import align_runs, code_tokens, fit_codec
from metalearn_models.optimizers.gpt.training import Pairs, measure_errors

ARMS = {
    "regression": "C: regression on hidden-unit tokens",
    "diffusion": "B: diffusion on hidden-unit tokens",
    "flow": "B: rectified flow on hidden-unit tokens",
    "codes": "A: rectified flow on codes of aligned networks",
}


class Trained(NamedTuple):
    """A generator that has been trained.

    Attributes:
        propose: `(flat[U, P], losses[U], wished[U, Q]) -> flat[U, Q, P]`.
        flops: of one jump, two per weight and token.
        seconds: of training.
        error: the mean loss of the last steps.
        weights: number of its meta-parameters.
    """

    propose: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    flops: float
    seconds: float
    error: float
    weights: int


def train_arm(
    name: str,
    made: Checkpoints,
    network: gpt.TransformerConfig,
    sampler: int,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
    kept: Path,
    progress: Progress | None,
) -> Trained:
    """Train one design on the checkpoints of the training runs.

    The state of the training is kept in the file `kept` twenty times, and read from there if it exists.
    """
    began = time.monotonic()
    codec, params, tokeniser = None, made.params, made.tokeniser
    if name == "codes":
        codec, params = fit_codec(tokeniser, params, OUTPUTS)
        tokeniser = code_tokens(params.shape[-1])
    method = "flow" if name == "codes" else name
    config = gpt.GeneratorConfig(cast(gpt.Method, method), network, sampler)
    generator = gpt.make_generator(config, tokeniser, gpt.fit_generator_scales(tokeniser, params, made.losses))
    data = Pairs(generator.scaled(params), jnp.asarray(made.losses))
    schedule = optax.warmup_cosine_decay_schedule(0, rate, max(1, min(100, steps // 10)), steps, rate / 100)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.01))
    per_call = max(d for d in range(1, 21) if steps % d == 0)
    loop = outer_loop(
        backprop(gpt.pairs_loop(generator), batch), gpt.with_average(optimizer, 0.995), per_call, local_mesh(batch)
    )
    key = jax.random.key(seed)
    state = loop.init(generator.init(jax.random.fold_in(key, 0)), data, jax.random.fold_in(key, 1))
    state, losses, before = _restore(kept, state)
    if progress is not None:
        progress.start(int(state.step), steps)
    for done in range(int(state.step) + per_call, steps + 1, per_call):
        state, metrics = loop.step(state, data)
        losses.append(float(metrics["loss"].mean()))
        if done // per_call % max(1, steps // per_call // 20) == 0:
            _keep(kept, state, losses, before + time.monotonic() - began)
        if progress is not None:
            progress.update(done, {"loss": losses[-1]})
    theta = jax.device_get(gpt.average_of(state.optimizer))
    seconds = before + time.monotonic() - began
    data = jax.device_get(data)
    errors = None
    if method == "diffusion":  # measured on training runs: unseen ones are for judging only
        errors = jax.jit(lambda theta, data: measure_errors(generator, theta, data, jax.random.fold_in(key, 2)))(
            theta, data
        )
    jumps = gpt.compile_jumps(generator)

    def propose(flat: np.ndarray, losses: np.ndarray, wished: np.ndarray) -> np.ndarray:
        keys = jax.random.split(jax.random.fold_in(key, 3), wished.shape)
        start = flat if codec is None else codec.encode(align_runs(made.tokeniser, codec, flat, OUTPUTS))
        found = np.asarray(jumps(theta, start, losses, wished.astype(np.float32), keys, errors))
        return found if codec is None else codec.decode(found)

    weights = sum(x.size for x in jax.tree.leaves(theta))
    tokens = sum(len(group) for group in tokeniser.places)
    return Trained(propose, 2.0 * weights * tokens * config.predictions, seconds, float(np.mean(losses[-5:])), weights)


def _keep(path: Path, state: Any, losses: list[float], seconds: float) -> None:
    leaves = [jax.random.key_data(x) if _is_key(x) else x for x in jax.tree.leaves(state)]
    content = io.BytesIO()
    np.savez(content, *(np.asarray(x) for x in leaves), losses=np.array(losses), seconds=np.array(seconds))
    write_atomically(path, content.getvalue())


def _restore(path: Path, state: Any) -> tuple[Any, list[float], float]:
    if not path.exists():
        return state, [], 0.0
    leaves, tree = jax.tree.flatten(state)
    with np.load(path) as found:
        arrays = [jnp.asarray(found[f"arr_{i}"]) for i in range(len(leaves))]
        wrapped = [jax.random.wrap_key_data(x) if _is_key(old) else x for x, old in zip(arrays, leaves, strict=True)]
        return tree.unflatten(wrapped), found["losses"].tolist(), float(found["seconds"])


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
