"""A generator of policies: checkpoints of networks that learn to balance a pole, prompted by the return.

The third domain of Peebles, Radosavovic, Brooks, Efros and Malik 2022 (arXiv 2209.12892), at a size for two cores: a
network 4-16-2 in the place of 4-32-32-1, the policy gradient with a baseline in the place of PPO, episodes of 200
steps, and hundreds of runs in the place of 50,026. The prompt is the share of the 200 steps for which the pole was not
up, plus .005. The wishes lie between the best that was seen and .9 of the present one, from initialisations of runs
that the generator was not trained on. What it proposes is judged by episodes of its own.

The rule, written before the run: the paper's claim, that one jump obeys the prompted return, is reproduced if the
alignment R^2 of diffusion on unseen initialisations is at least .9 as a mean over seeds; it is not if it is below .5,
and open between. If regression or the nearest stored checkpoint is as good, the verdict says so first.

    python -m experiments gpt_policies           # minutes on two cores
    python -m experiments gpt_policies quick
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from experiments.gpt._rows import distances_to, noise_as_far
from experiments.gpt._training import Fitting, fit
from experiments.suite.cells import name_settings, settings_of
from experiments.suite.results import write_result
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn.zoo import Zoo, ZooConfig, fill_zoo, train_by_gradients
from metalearn_models.networks import mlp
from metalearn_models.optimizers import gpt
from metalearn_models.optimizers.gpt.codes import align_runs, fit_codec
from metalearn_tasks.systems.cart_pole import mean_return, policy_loss

LEAST = 0.005
"""Added to the share of lost steps, whose logarithm the generator reads."""

POLICY = mlp(4, (16,), 2)
OUTPUTS = 2
LENGTHS = np.logspace(-2, 2, 25).astype(np.float32)
"""Of the single gradient step."""


@dataclass(frozen=True)
class PolicyConfig:
    """Record runs of the policy gradient on a pole on a cart, and train generators on their checkpoints."""

    seeds: int = 3
    """Seeds of the generators; the checkpoints are the same."""
    runs: int = 544
    """Recorded runs; 32 of them are unseen."""
    updates: int = 150
    """Updates per run."""
    rate: float = 0.02
    """Learning rate of Adam in these runs."""
    episodes: int = 8
    """Episodes per update."""
    horizon: int = 200
    """Steps of an episode at most."""
    judged_by: int = 32
    """Episodes that a checkpoint's return is the mean of."""
    steps: int = 1500
    """Training steps of a generator."""
    initial_share: float = 0.5
    """Share of its pairs that begin at an initialisation."""
    width: int = 64
    """Width of its Transformer."""
    prompts: int = 10
    """Wishes per network."""
    out: Path = Path("runs/gpt_policies")
    """Folder for checkpoints, picture and table."""


PRESETS = {
    "standard": PolicyConfig(initial_share=0.9),
    "quick": PolicyConfig(seeds=1, runs=160, updates=100, steps=300),
}


def lost_share(config: PolicyConfig, params: Any, key: Array) -> Array:
    """The share of an episode's steps for which the pole is not up, plus `LEAST`."""
    keys = jax.random.split(key, config.judged_by)
    return 1 + LEAST - mean_return(POLICY.apply, params, keys, config.horizon) / config.horizon


def record(config: PolicyConfig, progress: Progress | None) -> Zoo:
    """Checkpoints of the policy gradient."""
    training = train_by_gradients(
        POLICY.init,
        lambda params, keys: policy_loss(POLICY.apply, params, keys, config.horizon),
        lambda key: jax.random.split(key, config.episodes),
        optax.adam(config.rate),
        lambda params: {"train": lost_share(config, params, jax.random.key(7))},
    )
    shape = ZooConfig(config.runs, 32, config.updates, 12, shard=64)
    about = {"system": "cart pole", "rate": config.rate, "episodes": config.episodes, "horizon": config.horizon}
    about["judged_by"] = config.judged_by
    return fill_zoo(config.out / "checkpoints", training, shape, about, progress)


def train_generator(
    config: PolicyConfig, zoo: Zoo, method: gpt.Method, seed: int, progress: Progress | None
) -> Callable[[Any, Any, Any], np.ndarray]:
    """A generator as `(flat[U, P], present[U], wished[U, Q]) -> flat[U, Q, P]`."""
    seen = zoo.seen()
    tokeniser = gpt.hidden_unit_tokens(jax.eval_shape(POLICY.init, jax.random.key(0)))
    shape = gpt.GeneratorConfig(method, gpt.TransformerConfig(config.width, 2), 50)
    losses = zoo.loss(seen, "train")
    made = gpt.make_generator(shape, tokeniser, gpt.fit_generator_scales(tokeniser, seen.params, losses))
    name = name_settings(settings_of(config, ("seeds", "prompts")))
    kept = config.out / "cells" / f"{method}-{seed}-{name}.npz"
    fitting = Fitting(config.steps, 64, initial_share=config.initial_share)
    fitted = fit(made, seen.params, losses, fitting, seed, kept, progress)
    jumps = gpt.compile_jumps(made)

    def propose(flat: Any, present: Any, wished: Any) -> np.ndarray:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 3), wished.shape)
        return np.asarray(jumps(fitted.theta, flat, present, wished, keys, fitted.errors))

    return propose


def run(config: PolicyConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Record, train, judge and draw."""
    began = time.monotonic()
    zoo = record(config, progress)
    recorded = time.monotonic() - began
    seen, unseen = zoo.seen(), zoo.unseen()
    losses, present = zoo.loss(seen, "train"), zoo.loss(unseen, "train")[:, 0]
    best = float(losses.min())
    worse = present > 2 * best  # of a start that balances already nothing can be wished
    flat, present = np.asarray(unseen.params[worse, 0]), present[worse]
    wished = np.stack([gpt.prompts_below(best, float(x), config.prompts) for x in present]).astype(np.float32)
    unflatten = zoo.unflatten(jax.eval_shape(POLICY.init, jax.random.key(0)))

    @jax.jit
    def achieved(flats: Array) -> Array:
        return jax.lax.map(lambda x: lost_share(config, unflatten(x), jax.random.key(8)), flats, batch_size=32)

    def score(found: np.ndarray) -> dict[str, Any]:
        got = np.asarray(achieved(jnp.asarray(found.reshape(-1, found.shape[-1])))).reshape(wished.shape)
        return {
            "alignment": float(gpt.alignment(wished, got).mean()),
            "best_return": float(config.horizon * (1 + LEAST - got[:, 0].mean())),
            "achieved": got.mean(0).tolist(),
        }

    def repeat(one: np.ndarray) -> np.ndarray:
        return np.broadcast_to(one, (*wished.shape, one.shape[-1]))

    near = gpt.nearest_of_loss(seen.params, losses, wished.reshape(-1)).reshape(*wished.shape, -1)
    ends = np.asarray(seen.params[:, -1])
    tokeniser = gpt.hidden_unit_tokens(jax.eval_shape(POLICY.init, jax.random.key(0)))
    codec, _ = fit_codec(tokeniser, np.asarray(seen.params[:, -3:]), OUTPUTS, 2)
    aligned = align_runs(tokeniser, codec, ends, OUTPUTS)
    rows = {
        "the present policy": [score(np.repeat(flat[:, None], config.prompts, 1))],
        "constant: mean of the ends": [score(repeat(ends.mean(0)))],
        "constant: aligned mean": [score(repeat(aligned.mean(0)))],
        "aligned soup of 16": [score(repeat(aligned[:16].mean(0)))],
        "nearest stored checkpoint": [score(near)],
        "single gradient step": [score(gradient_step(config, unflatten, flat, wished))],
    }
    for method in ("regression", "flow", "diffusion"):
        generators = [train_generator(config, zoo, method, seed, progress) for seed in range(config.seeds)]
        found = [generator(flat, present, wished) for generator in generators]
        rows[method] = [score(one) for one in found]
        if method == "diffusion":
            share = noise_of_distance(tokeniser, ends, found[0][:, 0], near[:, 0])
            noise = np.random.default_rng(0).normal(size=near.shape).astype(np.float32) * ends.std()
            rows["stored + noise, as far as diffusion"] = [score(near + share * noise)]
    result = {
        "rows": rows,
        "wished": wished.mean(0).tolist(),
        "last_return": float(config.horizon * (1 + LEAST - losses[:, -1].mean())),
        "diverged": zoo.diverged,
        "recording_seconds": round(recorded, 1),
        "seconds": round(time.monotonic() - began, 1),
        "picture": str(config.out / "policies.png"),
    }
    draw(config, result)
    return write_result(config.out, result | {"verdict": verdict(rows)})


def gradient_step(
    config: PolicyConfig, unflatten: Callable[[Any], Any], flat: np.ndarray, wished: np.ndarray
) -> np.ndarray:
    """One step along the policy gradient, of the length whose return is nearest to each wish."""

    def along(one: Array) -> tuple[Array, Array]:
        keys = jax.random.split(jax.random.key(9), 4 * config.judged_by)
        gradient = jax.grad(lambda x: policy_loss(POLICY.apply, unflatten(x), keys, config.horizon))(one)
        tried = one[None] - jnp.asarray(LENGTHS)[:, None] * gradient[None]
        return tried, jax.lax.map(lambda x: lost_share(config, unflatten(x), jax.random.key(7)), tried)

    tried, lost = (np.asarray(x) for x in jax.jit(lambda flats: jax.lax.map(along, flats))(jnp.asarray(flat)))
    chosen = np.abs(lost[:, None] - wished[..., None]).argmin(-1)
    return np.take_along_axis(tried, chosen[..., None], 1)


def noise_of_distance(tokeniser: gpt.Tokeniser, ends: np.ndarray, found: np.ndarray, near: np.ndarray) -> float:
    """The share of noise that takes stored policies as far from all stored ones as proposals are, by the median."""

    def parts(flats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        units, rest = (flats[..., places] for places in tokeniser.places)
        return units, rest[..., 0, :]

    stored = parts(np.concatenate([ends[:128], np.unique(near, axis=0)]))

    def apart(flats: np.ndarray) -> float:
        return float(np.median(distances_to(stored, *parts(flats), OUTPUTS)))

    noise = np.random.default_rng(0).normal(size=near.shape).astype(np.float32) * ends.std()
    return noise_as_far(near[:16], noise[:16], apart(found), apart)


def verdict(rows: Mapping[str, Any]) -> str:
    """The rule at the head of this module."""
    means = {name: float(np.mean([one["alignment"] for one in row])) for name, row in rows.items()}
    ours = means["diffusion"]
    rivals = [
        f"{name} ({means[name]:.3f})" for name in ("nearest stored checkpoint", "regression") if means[name] >= ours
    ]
    word = "reproduced" if ours >= 0.9 else "not reproduced" if ours < 0.5 else "open"
    first = f"As good as diffusion or better: {' and '.join(rivals)}. " if rivals else ""
    return f"{first}{word[0].upper()}{word[1:]}: alignment of diffusion {ours:.3f}"


def format_result(result: Mapping[str, Any]) -> str:
    """The table, and the verdict."""
    lines = [f"{'one jump from unseen initialisations':<38} {'alignment R^2':>14} {'best return':>12}"]
    for name, row in result["rows"].items():
        scores, returns = ([one[key] for one in row] for key in ("alignment", "best_return"))
        lines.append(f"{name:<38} {np.mean(scores):>14.3f} {np.mean(returns):>12.1f}   {len(row)} seeds")
    lines.append(f"mean return of the recorded runs' last policies: {result['last_return']:.1f}")
    lines.append(result["verdict"])
    lines.append(
        f"picture: {result['picture']} ({result['seconds']} s, {result['recording_seconds']} s for checkpoints)"
    )
    return "\n".join(lines)


def draw(config: PolicyConfig, result: Mapping[str, Any]) -> None:
    """Achieved against wished returns, means over networks and seeds."""
    figure, (ax,) = new_figure(columns=1)
    wished = config.horizon * (1 + LEAST - np.array(result["wished"]))
    for name, row in result["rows"].items():
        got = config.horizon * (1 + LEAST - np.mean([one["achieved"] for one in row], 0))
        style = "o-" if name in ("regression", "flow", "diffusion") else "--"
        ax.plot(wished, got, style, markersize=3, linewidth=1.2, label=name)
    ax.plot(wished, wished, "k:", linewidth=1, label="as wished")
    ax.set_xlabel("wished return")
    ax.set_ylabel("return after one jump")
    ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    save(figure, config.out / "policies.png")
