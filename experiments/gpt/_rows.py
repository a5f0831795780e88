"""A row of the table: what proposes parameters is judged on unseen initialisations, and so are the trivial answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.gpt._problem import OUTPUTS, Checkpoints
from metalearn_models.optimizers import gpt
from metalearn_models.optimizers.gpt.codes import align_runs, fit_codec
from metalearn_models.optimizers.gpt.symmetry import distance_in_quotient

LINES = np.logspace(-3, 1.5, 46).astype(np.float32)
"""Lengths of the single gradient step."""
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 0.1)
"""Learning rates of Adam."""
THRESHOLDS = (1, 2, 3, 4, 6)
"""Multiples of the zoo's median distance to the nearest other run, beyond which a network counts as novel."""


class Judge(NamedTuple):
    """What all rows are judged by.

    Attributes:
        made: the checkpoints.
        wished: `[U, Q]`, the first prompt of each is the best.
        losses: `(flat[..., P]) -> losses`, compiled.
        stored: units and rest of stored networks, for distances.
        flats: the same, flat.
        unit: the median distance of a stored network to the nearest other one; None: the network has no units.
    """

    made: Checkpoints
    wished: np.ndarray
    losses: Callable[[np.ndarray], np.ndarray]
    stored: Any
    flats: np.ndarray
    unit: float | None


def make_judge(made: Checkpoints, prompts: int, neighbours: int) -> Judge:
    """Prompts from the median final loss to 0.9 of each present one; neighbours are the last three checkpoints."""
    best = float(np.median(made.losses[:, -1]))
    wished = np.stack([gpt.prompts_below(best, float(loss), prompts) for loss in made.start_losses])
    losses = compile_losses(made.loss)
    stored, unit = None, None
    flats = made.params[:neighbours, -3:].reshape(-1, made.params.shape[-1])
    if len(made.tokeniser.places) == 2:
        stored = _parts(made, flats)
        own = [
            distance_in_quotient(stored[0][i], stored[1][i], stored, OUTPUTS) for i in range(2, min(96, len(flats)), 3)
        ]
        for place, row in zip(range(2, min(96, len(flats)), 3), own, strict=True):
            row[place // 3 * 3 : place // 3 * 3 + 3] = np.inf  # checkpoints of its own run
        unit = float(np.median([row.min() for row in own]))
    return Judge(made, wished, losses, stored, flats, unit)


def judge_row(judge: Judge, found: np.ndarray | None, one_step: np.ndarray) -> dict[str, Any]:
    """The figures of a row.

    Args:
        judge: what to judge by.
        found: proposals `[U, Q, P]`; None: there is one proposal whatever is wished.
        one_step: proposals for the best prompt `[U, P]`.
    """
    got = judge.losses(one_step)
    achieved = judge.losses(found) if found is not None else np.broadcast_to(got[:, None], judge.wished.shape)
    scores = gpt.alignment(judge.wished, achieved)
    row: dict[str, Any] = {
        "r2": float(scores.mean()),
        "r2_median": float(np.median(scores)),
        "loss": float(got.mean()),
        "accuracy": float(np.mean(jax.lax.map(judge.made.accuracy, jnp.asarray(one_step), batch_size=32))),
        "achieved": achieved.mean(0).tolist(),
    }
    if judge.unit is None:
        return row
    units, rest = _parts(judge.made, one_step)
    apart = [distance_in_quotient(u, r, judge.stored, OUTPUTS) for u, r in zip(units, rest, strict=True)]
    nearest = np.array([row.argmin() for row in apart])
    distances = np.array([row.min() for row in apart]) / judge.unit
    logits = jax.jit(lambda flats: jax.lax.map(judge.made.logits, flats))
    return row | {
        "distance": float(np.median(distances)),
        "novel": {str(t): float(np.mean(distances > t)) for t in THRESHOLDS},
        "disagreement": gpt.disagreement(np.asarray(logits(one_step)), np.asarray(logits(judge.flats[nearest]))),
        "dispersion": gpt.dispersion_ratio(one_step, judge.made.params[:, -1]) if len(one_step) > 1 else 0.0,
    }


def trivial_rows(judge: Judge) -> dict[str, dict[str, Any]]:
    """What needs no generator."""
    made = judge.made
    same = [np.broadcast_to(x, made.starts.shape) for x in (made.params[:, -1].mean(0), gpt.soup(made.params))]
    rows = {"constant: mean of the ends": judge_row(judge, None, same[0])}
    rows["soup of 16"] = judge_row(judge, None, same[1])
    if judge.unit is not None:
        codec, codes = fit_codec(made.tokeniser, made.params[:512, -3:], OUTPUTS, 2)
        del codes
        aligned = _aligned_ends(made, codec)
        for label, flat in (("constant: aligned mean", aligned.mean(0)), ("aligned soup of 16", aligned[:16].mean(0))):
            rows[label] = judge_row(judge, None, np.broadcast_to(flat, made.starts.shape))
    near = stored_of_loss(judge)
    rows["nearest stored checkpoint"] = judge_row(judge, near, near[:, 0])
    rows["single gradient step"] = judge_row(judge, *gradient_steps(made.loss, made.starts, judge.wished))
    return rows


def compile_losses(loss: Callable[[Any], Any]) -> Callable[[np.ndarray], np.ndarray]:
    """A compiled `flat[..., P] -> losses[...]` of `loss`, which takes one flat network."""
    compiled = jax.jit(lambda flats: jax.lax.map(loss, flats, batch_size=64))
    return lambda flat: np.asarray(compiled(flat.reshape(-1, flat.shape[-1]))).reshape(flat.shape[:-1])


def gradient_steps(loss: Callable[[Any], Any], starts: np.ndarray, wished: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Single steps along the gradient from networks `[U, P]`, of the lengths `LINES`.

    Returns:
        `[U, Q, P]`, for each wish `[U, Q]` the step whose loss is nearest to it; and `[U, P]`, the step of least loss.
    """

    def line(flat: Any) -> tuple[Any, Any]:
        tried = flat[None] - jnp.asarray(LINES)[:, None] * jax.grad(loss)(flat)[None]
        return tried, jax.vmap(loss)(tried)

    tried, along = (np.asarray(x) for x in jax.jit(lambda flats: jax.lax.map(line, flats))(jnp.asarray(starts)))
    nearest = np.nanargmin(np.abs(along[:, None] - wished[..., None]), -1)
    least = tried[np.arange(len(tried)), np.nanargmin(along, 1)]
    return np.take_along_axis(tried, nearest[..., None], 1), least


def noisy_row(judge: Judge, distance: float) -> dict[str, Any]:
    """Stored checkpoints with noise, so much that their median distance to the nearest stored one is `distance`."""
    near = stored_of_loss(judge)
    noise = np.random.default_rng(0).normal(size=near.shape).astype(np.float32) * made_scale(judge)
    assert judge.unit is not None
    unit = judge.unit

    def apart(flats: np.ndarray) -> float:
        return float(np.median(distances_to(judge.stored, *_parts(judge.made, flats), OUTPUTS))) / unit

    share = noise_as_far(near[:16, 0], noise[:16, 0], distance, apart)
    found = near + share * noise
    return judge_row(judge, found, found[:, 0]) | {"noise": share}


def noise_as_far(near: np.ndarray, noise: np.ndarray, distance: float, apart: Callable[[np.ndarray], float]) -> float:
    """The share of the noise, in [0, 1], with which `apart(near + share * noise)` is `distance`, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(7):
        middle = (low + high) / 2
        low, high = (middle, high) if apart(near + middle * noise) < distance else (low, middle)
    return (low + high) / 2


def distances_to(
    stored: tuple[np.ndarray, np.ndarray], units: np.ndarray, rest: np.ndarray, outputs: int
) -> np.ndarray:
    """The distance of each network to the nearest stored one, where symmetries do not count."""
    return np.array([distance_in_quotient(u, r, stored, outputs).min() for u, r in zip(units, rest, strict=True)])


def adam_row(judge: Judge, flops: float) -> dict[str, Any]:
    """Adam on batches, for as many operations as one jump takes, its rate tuned on initialisations of training runs."""
    made = judge.made
    steps = max(1, round(flops / (6.0 * made.batch * made.params.shape[-1])))

    def trained(steps: Any, rate: Any, flats: Any) -> Any:
        optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=rate)

        def step(t: Any, carry: Any) -> Any:
            flat, state = carry
            grads = jax.grad(made.batch_loss)(flat, jax.random.fold_in(jax.random.key(11), t))
            with jax.numpy_dtype_promotion("standard"):  # optax relies on it
                updates, state = optimizer.update(grads, state)
                return optax.apply_updates(flat, updates), state

        return jax.vmap(lambda flat: jax.lax.fori_loop(0, steps, step, (flat, optimizer.init(flat)))[0])(flats)

    run = jax.jit(trained)
    tuned = [float(np.mean(judge.losses(np.asarray(run(steps, rate, made.params[:16, 0]))))) for rate in RATES]
    rate = RATES[int(np.nanargmin(tuned))]
    return judge_row(judge, None, np.asarray(run(steps, rate, made.starts))) | {"steps": steps, "rate": rate}


def ceiling_row(judge: Judge) -> dict[str, Any]:
    """Stored ends after a round trip through codes: no generator of codes can be expected to do better."""
    made = judge.made
    codec, _ = fit_codec(made.tokeniser, made.params, OUTPUTS)
    aligned = align_runs(made.tokeniser, codec, made.params[: len(made.starts), -1], OUTPUTS)
    found = codec.decode(codec.encode(aligned))
    return judge_row(judge, None, np.resize(found, made.starts.shape))


def stored_of_loss(judge: Judge) -> np.ndarray:
    """The stored checkpoint whose loss is nearest to each wished one."""
    wished = judge.wished.reshape(-1)
    runs = len(judge.flats) // 3
    found = gpt.nearest_of_loss(judge.made.params[:runs], judge.made.losses[:runs], wished)
    return found.reshape(*judge.wished.shape, -1)


def made_scale(judge: Judge) -> float:
    """Standard deviation of the stored parameters, the unit of noise."""
    return float(judge.made.params[:256, -1].std())


def _aligned_ends(made: Checkpoints, codec: Any) -> np.ndarray:
    return align_runs(made.tokeniser, codec, made.params[:512, -1], OUTPUTS)


def _parts(made: Checkpoints, flats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    units, rest = (np.asarray(flats)[..., places] for places in made.tokeniser.places)
    return units, rest[..., 0, :]
