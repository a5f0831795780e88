"""What is measured of one meta-trained Transformer in `experiments.in_context.mechanism.experiment`."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.in_context.mechanism.agreement import (
    SIMILARITIES,
    classical_predictions,
    compare_predictions,
    fit_setting,
    kappa,
    kernel_weights,
    similarity,
)
from experiments.in_context.mechanism.attention import Reading, predictions_with, read_attention
from metalearn.recipes.in_context.build import Recipe, prepare
from metalearn.recipes.in_context.config import TrainConfig
from metalearn.recipes.streams import stream
from metalearn_models.learners.attention_probe import attention_weights
from metalearn_models.learners.transformer import TransformerConfig

PROBE_SEED = 2**31 - 1
"""The seed of the unseen tasks on which all Transformers are measured, so that their mistakes can be compared."""
SHARED = 64
"""Number of sequences whose mistakes are kept, to compare Transformers of different seeds."""

__all__ = ["PROBE_SEED", "SHARED", "Episodes", "draw_episodes", "prepare_shared", "probe"]


class Episodes(NamedTuple):
    """Inputs [B, T, D] and labels [B, T]."""

    xs: np.ndarray
    ys: np.ndarray


def draw_episodes(recipe: Recipe, kind: Literal["seen", "unseen"], sequences: int) -> Episodes:
    """Sequences of held-out examples, of the unseen tasks that all cells share or of those met in meta-training."""
    data, family = recipe.test_data, recipe.family
    if kind == "unseen":
        data = data._replace(seed=jnp.uint32(PROBE_SEED))
    task, root = getattr(family, kind), stream(PROBE_SEED, f"episodes of {kind} tasks")

    def one(data: Any, i: jax.Array) -> Any:
        return family.episode(data, task(data, i), jax.random.fold_in(root, i))

    xs, ys = jax.jit(jax.vmap(one, (None, 0)))(data, jnp.arange(sequences))
    return Episodes(np.asarray(xs), np.asarray(ys))


@lru_cache(maxsize=1)
def _prepare_shared(config: TrainConfig, sequences: int) -> tuple[Episodes, dict[str, dict[str, np.ndarray]]]:
    # This does not depend on the cell, so each worker needs it once.
    recipe = prepare(config)
    drawn = draw_episodes(recipe, "unseen", sequences)
    return drawn, classical_predictions(recipe.family.signature, *drawn)


def prepare_shared(config: TrainConfig, sequences: int) -> tuple[Episodes, dict[str, dict[str, np.ndarray]]]:
    """The episodes that all cells share, 2 x `sequences` of them, and what the classical learners predict on them.

    Settings are fitted on the first half of the episodes, and everything is measured on the second.
    """
    family = dataclasses.replace(config.family, num_tasks=None, seed=0)
    return _prepare_shared(dataclasses.replace(config, family=family, seed=0), 2 * sequences)


def probe(recipe: Recipe, theta: Any, sequences: int, with_example: bool) -> dict[str, Any]:
    """Agreement with each classical learner, what the attention compares, and accuracy without it, as JSON values.

    Everything is measured over the second half of the positions.

    Args:
        recipe: what the configuration of the meta-training builds.
        theta: the meta-parameters.
        sequences: number of sequences to measure on. The classical learners' settings are fitted on as many others.
        with_example: keep weights and similarities of a few queries for the picture.
    """
    assert isinstance(recipe.config.learner, TransformerConfig)
    signature, model, n = recipe.family.signature, recipe.config.learner, sequences
    first = signature.length // 2
    (xs, ys), known = prepare_shared(recipe.config, n)
    run = jax.jit(lambda theta, xs, ys: jnp.argmax(recipe.learner.run(theta, xs, ys), -1))  # pyright: ignore
    predicted = np.asarray(run(theta, xs, ys))
    fit, test = (slice(0, n), slice(first, None)), (slice(n, None), slice(first, None))
    classical = {}
    for name, tried in known.items():
        setting = fit_setting({k: v[fit] for k, v in tried.items()}, predicted[fit])
        other = tried[setting]
        found = compare_predictions(predicted[test], other[test], ys[test], signature.outputs)
        parts = np.array_split(np.arange(1, signature.length), 5)
        by_seen = [kappa(predicted[n:, p], other[n:, p]) for p in parts]
        classical[name] = {"setting": setting, "accuracy": float((other == ys)[test].mean()), **found}
        classical[name]["kappa_by_seen"] = by_seen

    def read(xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, Reading]:
        parts = range(0, len(xs), 64)  # bounds memory
        of = jax.jit(lambda theta, xs, ys: attention_weights(signature, model, theta, xs, ys))
        weights = np.concatenate([np.asarray(of(theta, xs[i : i + 64], ys[i : i + 64])) for i in parts], 1)
        return weights, read_attention(weights, xs, ys, first)

    xs, ys, predicted = xs[n:], ys[n:], predicted[n:]
    weights, reading = read(xs, ys)
    strength = np.stack([reading.correlation[kind] for kind in SIMILARITIES])  # [3, L, H]
    heads = strength.max(0).argmax(-1)
    layer = int(strength.max((0, 2)).argmax())
    kind = SIMILARITIES[int(strength[:, layer, heads[layer]].argmax())]
    of_head = (layer, heads[layer])
    seen = draw_episodes(recipe, "seen", n)
    _, reading_seen = read(*seen)
    result = {
        "value": float((predicted == ys)[:, first:].mean()),
        "unseen_accuracy": float((predicted == ys)[:, first:].mean()),
        "seen_accuracy": float((np.asarray(run(theta, *seen)) == seen.ys)[:, first:].mean()),
        "classical": classical,
        "matching": {
            "layer": layer,
            "head": int(heads[layer]),
            "kind": kind,
            "chance": reading.chance,
            "same_class": float(reading.same_class[of_head]),
            "seen_same_class": float(reading_seen.same_class[of_head]),
            "seen_correlation": float(reading_seen.correlation[kind][of_head]),
            **{key: float(getattr(reading, key)[kind][of_head]) for key in ("correlation", "temperature", "explained")},
        },
        "heads": {
            "same_class": reading.same_class.tolist(),
            **{key: getattr(reading, key)[kind].tolist() for key in ("correlation", "temperature", "explained")},
        },
        "replaced": replace_attention(recipe, theta, Episodes(xs, ys), reading, predicted, first),
        "mistakes": "".join(chr(48 + d) for d in ((predicted - ys) % signature.outputs)[:SHARED, first:].ravel()),
        "example": pick_example(weights[layer][:, heads[layer]], xs, ys, kind) if with_example else None,
    }
    return _round_all(result)


def replace_attention(
    recipe: Recipe, theta: Any, episodes: Episodes, reading: Reading, predicted: np.ndarray, first: int
) -> list[dict[str, dict[str, float]]]:
    """Accuracy if one layer attends by fitted kernels, or equally, and agreement with the unchanged Transformer.

    Each head gets the kernel, of all similarities and temperatures, that explains most of its weights.

    Returns:
        Per layer, for "kernels" and "equal": `accuracy` and `agreement`.
    """
    (xs, ys), config, signature = episodes, recipe.config.learner, recipe.family.signature
    assert isinstance(config, TransformerConfig)
    near, found = {kind: similarity(xs, kind) for kind in SIMILARITIES}, []
    inputs, labels = jnp.asarray(xs), jnp.asarray(ys)
    for layer in range(config.layers):
        change = jax.jit(  # theta is an argument, so that all cells find one compiled program
            lambda theta, xs, ys, kernels, layer=layer: predictions_with(
                signature, config, theta, xs, ys, layer, kernels
            ).argmax(-1)
        )
        best = [max(SIMILARITIES, key=lambda k: reading.explained[k][layer, head]) for head in range(config.heads)]
        kernels = {
            "kernels": np.stack(
                [kernel_weights(near[k], float(reading.temperature[k][layer, head])) for head, k in enumerate(best)], 1
            ),
            "equal": kernel_weights(np.zeros_like(near["cosine"]), 1.0)[:, None],
        }
        got = {
            name: np.asarray(change(theta, inputs, labels, jnp.asarray(value, jnp.float32)))
            for name, value in kernels.items()
        }
        found.append(
            {
                name: {
                    "accuracy": float((q == ys)[:, first:].mean()),
                    "agreement": float((q == predicted)[:, first:].mean()),
                }
                for name, q in got.items()
            }
        )
    return found


def pick_example(weights: np.ndarray, xs: np.ndarray, ys: np.ndarray, kind: str) -> dict[str, list[Any]]:
    """Log weight of a head and similarity for the last query of three sequences, minus the mean of each."""
    near = similarity(xs[:3], kind)[:, -1, :-1]
    log = np.log(np.maximum(weights[:3, -1, 1:], 1e-9))
    same = ys[:3, :-1] == ys[:3, -1:]
    centred = [(a - a.mean(-1, keepdims=True)).ravel().tolist() for a in (near, log)]
    return {"similarity": centred[0], "log_weight": centred[1], "same_class": same.astype(int).ravel().tolist()}


def _round_all(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _round_all(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_round_all(v) for v in value]
    return round(value, 4) if isinstance(value, float) else value
