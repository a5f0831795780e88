"""The training of a generator on checkpoints, which all experiments of this room share; it continues after a stop."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metalearn.gradients import backprop
from metalearn.outer import local_mesh, outer_loop
from metalearn.runs.files import write_atomically
from metalearn.runs.progress import Progress
from metalearn_models.optimizers import gpt
from metalearn_models.optimizers.gpt.training import Pairs, measure_errors

__all__ = ["Fitted", "Fitting", "fit", "operations_per_step"]


@dataclass(frozen=True)
class Fitting:
    """How a generator is trained."""

    steps: int
    """Steps of AdamW; the learning rate rises for a tenth of them, 100 at most, then falls to a hundredth."""
    batch: int = 128
    """Pairs of checkpoints per step."""
    rate: float = 2e-3
    """The greatest learning rate."""
    initial_share: float = 0.5
    """Share of the pairs that begin at an initialisation."""
    average: float = 0.995
    """Decay of the average of the weights."""


class Fitted(NamedTuple):
    """A generator that has been trained.

    Attributes:
        theta: its weights, averaged.
        errors: of its prediction at each time, for the sampler of diffusion; None for other methods.
        seconds: of training.
        error: the mean loss of the last steps.
        weights: number of its meta-parameters.
    """

    theta: Any
    errors: Any
    seconds: float
    error: float
    weights: int


def fit(
    generator: gpt.Generator,
    params: np.ndarray,
    losses: np.ndarray,
    fitting: Fitting,
    seed: int,
    kept: Path | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Train a generator on the checkpoints of training runs.

    Args:
        generator: what is trained.
        params: checkpoints `[R, S, P]`.
        losses: what they are prompted by, `[R, S]`.
        fitting: how.
        seed: of its weights and of the pairs.
        kept: file in which the state of the training is kept twenty times, and read from there if it exists.
        progress: counts steps.
    """
    began, steps = time.monotonic(), fitting.steps
    data = Pairs(generator.scaled(params), jnp.asarray(losses))
    schedule = optax.warmup_cosine_decay_schedule(
        0, fitting.rate, max(1, min(100, steps // 10)), steps, fitting.rate / 100
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.01))
    per_call = max(d for d in range(1, 21) if steps % d == 0)
    loop = outer_loop(
        backprop(gpt.pairs_loop(generator, fitting.initial_share), fitting.batch),
        gpt.with_average(optimizer, fitting.average),
        per_call,
        local_mesh(fitting.batch),
    )
    key = jax.random.key(seed)
    state = loop.init(generator.init(jax.random.fold_in(key, 0)), data, jax.random.fold_in(key, 1))
    state, seen, before = _restore(kept, state)
    if progress is not None:
        progress.start(int(state.step), steps)
    for done in range(int(state.step) + per_call, steps + 1, per_call):
        state, metrics = loop.step(state, data)
        seen.append(float(metrics["loss"].mean()))
        if kept is not None and done // per_call % max(1, steps // per_call // 20) == 0:
            _keep(kept, state, seen, before + time.monotonic() - began)
        if progress is not None:
            progress.update(done, {"loss": seen[-1]})
    theta, data = jax.device_get((gpt.average_of(state.optimizer), data))
    seconds = before + time.monotonic() - began
    errors = None
    if generator.config.method == "diffusion":  # measured on training runs: unseen ones are for judging only
        errors = jax.jit(lambda theta, data: measure_errors(generator, theta, data, jax.random.fold_in(key, 2)))(
            theta, data
        )
    return Fitted(theta, errors, seconds, float(np.mean(seen[-5:])), count_weights(theta))


def count_weights(theta: Any) -> int:
    """How many meta-parameters there are."""
    return sum(x.size for x in jax.tree.leaves(theta))


def operations_per_step(generator: gpt.Generator, batch: int) -> float:
    """Operations of one step of training: six per weight, token and pair."""
    weights = count_weights(jax.eval_shape(generator.init, jax.random.key(0)))
    return 6.0 * weights * sum(len(group) for group in generator.tokeniser.places) * batch


def _keep(path: Path, state: Any, losses: list[float], seconds: float) -> None:
    leaves = [jax.random.key_data(x) if _is_key(x) else x for x in jax.tree.leaves(state)]
    content = io.BytesIO()
    np.savez(content, *(np.asarray(x) for x in leaves), losses=np.array(losses), seconds=np.array(seconds))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())


def _restore(path: Path | None, state: Any) -> tuple[Any, list[float], float]:
    if path is None or not path.exists():
        return state, [], 0.0
    leaves, tree = jax.tree.flatten(state)
    with np.load(path) as found:
        arrays = [jnp.asarray(found[f"arr_{i}"]) for i in range(len(leaves))]
        wrapped = [jax.random.wrap_key_data(x) if _is_key(old) else x for x, old in zip(arrays, leaves, strict=True)]
        return tree.unflatten(wrapped), found["losses"].tolist(), float(found["seconds"])


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
