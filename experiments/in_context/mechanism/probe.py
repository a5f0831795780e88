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
    alike,
    classical_predictions,
    fitted_setting,
    kernel_weights,
    similarity,
)
from experiments.in_context.mechanism.attention import Reading, predictions_with, read_attention
from metalearn.recipes.in_context.build import Recipe, prepare
from metalearn.recipes.in_context.config import TrainConfig
from metalearn.recipes.streams import stream
from metalearn_models.learners.attention_probe import attention_weights
from metalearn_models.learners.transformer import TransformerConfig
from metalearn_tasks.families.projected import ProjectedConfig

PROBE_SEED = 2**31 - 1
"""Names the unseen tasks on which all Transformers are measured, so that they can be compared on each example."""
SHARED = 64
"""Sequences of which a Transformer's mistakes are kept, for the comparison of different seeds."""


class Episodes(NamedTuple):
    """Sequences [B, T, D] and labels [B, T]; the second half of the sequences is for measuring."""

    xs: np.ndarray
    ys: np.ndarray


def episodes(recipe: Recipe, kind: Literal["seen", "unseen"], sequences: int) -> Episodes:
    """Held-out examples: of the unseen tasks that all cells share, or of those met in meta-training."""
    data, family = recipe.test_data, recipe.family
    if kind == "unseen":
        data = data._replace(seed=jnp.uint32(PROBE_SEED))
    task, root = getattr(family, kind), stream(PROBE_SEED, f"episodes of {kind} tasks")

    def one(data: Any, i: jax.Array) -> Any:
        return family.episode(data, task(data, i), jax.random.fold_in(root, i))

    xs, ys = jax.jit(jax.vmap(one, (None, 0)))(data, jnp.arange(sequences))
    return Episodes(np.asarray(xs), np.asarray(ys))


@lru_cache(maxsize=1)
def _shared(config: TrainConfig, sequences: int) -> tuple[Episodes, dict[str, dict[str, np.ndarray]]]:
    # Once a worker: what does not depend on the cell.
    recipe = prepare(config)
    drawn = episodes(recipe, "unseen", sequences)
    return drawn, classical_predictions(recipe.family.signature, *drawn)


def shared(config: TrainConfig, sequences: int) -> tuple[Episodes, dict[str, dict[str, np.ndarray]]]:
    """The episodes of all cells, twice `sequences` of them, and what the classical learners predict."""
    assert isinstance(config.family, ProjectedConfig)
    task = dataclasses.replace(config.family, num_tasks=None, seed=0)
    return _shared(dataclasses.replace(config, family=task, seed=0), 2 * sequences)


def probe(recipe: Recipe, theta: Any, sequences: int, with_example: bool) -> dict[str, Any]:
    """Likeness with each classical learner, readings of the attention, and accuracies without it, as JSON values.

    Everything is of the second half of the positions.

    Args:
        recipe: what the configuration of the meta-training builds.
        theta: the meta-parameters.
        sequences: how many to measure on; as many others to choose the classical learners' settings on.
        with_example: keep weights and similarities of a few queries, for a picture.
    """
    assert isinstance(recipe.config.learner, TransformerConfig)
    signature, model, n = recipe.family.signature, recipe.config.learner, sequences
    first = signature.length // 2
    (xs, ys), known = shared(recipe.config, n)
    run = jax.jit(lambda theta, xs, ys: jnp.argmax(recipe.learner.run(theta, xs, ys), -1))  # pyright: ignore
    predicted = np.asarray(run(theta, xs, ys))
    fit, test = (slice(0, n), slice(first, None)), (slice(n, None), slice(first, None))
    classical = {}
    for name, tried in known.items():
        setting = fitted_setting({k: v[fit] for k, v in tried.items()}, predicted[fit])
        other = tried[setting]
        found = alike(predicted[test], other[test], ys[test], signature.outputs)
        parts = np.array_split(np.arange(1, signature.length), 5)
        by_seen = [alike(predicted[n:, p], other[n:, p], ys[n:, p], signature.outputs)["kappa"] for p in parts]
        classical[name] = {"setting": setting, "accuracy": float((other == ys)[test].mean()), **found}
        classical[name]["kappa_by_seen"] = by_seen

    def reading(xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, Reading]:
        parts = range(0, len(xs), 64)  # bounds memory
        of = jax.jit(lambda theta, xs, ys: attention_weights(signature, model, theta, xs, ys))
        weights = np.concatenate([np.asarray(of(theta, xs[i : i + 64], ys[i : i + 64])) for i in parts], 1)
        return weights, read_attention(weights, xs, ys, first)

    xs, ys, predicted = xs[n:], ys[n:], predicted[n:]
    weights, read = reading(xs, ys)
    strength = np.stack([read.correlation[kind] for kind in SIMILARITIES])  # [3, L, H]
    heads = strength.max(0).argmax(-1)
    layer = int(strength.max((0, 2)).argmax())
    kind = SIMILARITIES[int(strength[:, layer, heads[layer]].argmax())]
    of_head = (layer, heads[layer])
    seen = episodes(recipe, "seen", n)
    _, read_seen = reading(*seen)
    result = {
        "value": float((predicted == ys)[:, first:].mean()),
        "unseen_accuracy": float((predicted == ys)[:, first:].mean()),
        "seen_accuracy": float((np.asarray(run(theta, *seen)) == seen.ys)[:, first:].mean()),
        "classical": classical,
        "matching": {
            "layer": layer,
            "head": int(heads[layer]),
            "kind": kind,
            "chance": read.chance,
            "same_class": float(read.same_class[of_head]),
            "seen_same_class": float(read_seen.same_class[of_head]),
            "seen_correlation": float(read_seen.correlation[kind][of_head]),
            **{key: float(getattr(read, key)[kind][of_head]) for key in ("correlation", "temperature", "explained")},
        },
        "heads": {
            "same_class": read.same_class.tolist(),
            **{key: getattr(read, key)[kind].tolist() for key in ("correlation", "temperature", "explained")},
        },
        "replaced": replaced(recipe, theta, Episodes(xs, ys), read, predicted, first),
        "mistakes": "".join(chr(48 + d) for d in ((predicted - ys) % signature.outputs)[:SHARED, first:].ravel()),
        "example": example(weights[layer][:, heads[layer]], xs, ys, kind) if with_example else None,
    }
    return _rounded(result)


def replaced(
    recipe: Recipe, theta: Any, drawn: Episodes, read: Reading, predicted: np.ndarray, first: int
) -> list[dict[str, dict[str, float]]]:
    """Accuracy, and agreement with the Transformer as it is, when one layer attends by its fitted kernels, or equally.

    Each head gets the kernel, of all similarities and temperatures, that explains most of its weights.
    """
    (xs, ys), config, signature = drawn, recipe.config.learner, recipe.family.signature
    assert isinstance(config, TransformerConfig)
    near, found = {kind: similarity(xs, kind) for kind in SIMILARITIES}, []
    inputs, labels = jnp.asarray(xs), jnp.asarray(ys)
    for layer in range(config.layers):
        change = jax.jit(  # theta is an argument, so that all cells find one compiled program
            lambda theta, xs, ys, kernels, layer=layer: predictions_with(
                signature, config, theta, xs, ys, layer, kernels
            ).argmax(-1)
        )
        best = [max(SIMILARITIES, key=lambda k: read.explained[k][layer, head]) for head in range(config.heads)]
        kernels = {
            "kernels": np.stack(
                [kernel_weights(near[k], float(read.temperature[k][layer, head])) for head, k in enumerate(best)], 1
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


def example(weights: np.ndarray, xs: np.ndarray, ys: np.ndarray, kind: str) -> dict[str, list[Any]]:
    """Log weight of a head and similarity for the last queries of three sequences, each less its mean."""
    near = similarity(xs[:3], kind)[:, -1, :-1]
    log = np.log(np.maximum(weights[:3, -1, 1:], 1e-9))
    same = ys[:3, :-1] == ys[:3, -1:]
    centred = [(a - a.mean(-1, keepdims=True)).ravel().tolist() for a in (near, log)]
    return {"similarity": centred[0], "log_weight": centred[1], "same_class": same.astype(int).ravel().tolist()}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return round(value, 4) if isinstance(value, float) else value
