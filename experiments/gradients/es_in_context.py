"""In-context learners without backpropagation: an LSTM meta-trained by evolution strategies alone.

The evolution strategies are PES (Vicol, Metz & Sohl-Dickstein 2021, arXiv 2112.13835), NRES (Li et al. 2023, arXiv
2304.12180) and full ES, with the rank-1 noise of EGGROLL (arXiv 2511.16652). The learner and the tasks are those of
Kirsch et al. 2022 (GPICL, arXiv 2212.04458). Two questions:

    accuracy of the estimate    Its cosine with the gradient of backpropagation, for 64 to 8,192 pairs, beside the
                                closed form 1 / sqrt(1 + (P + 1) / n) of a linear loss.
    success of meta-training    Accuracy on unseen tasks against outer steps: full ES, NRES and PES (one update per 10
                                of 20 examples), and backpropagation.

    python -m experiments es_in_context            # about six minutes on two cores
    python -m experiments es_in_context quick      # one short run per method
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Float

from experiments.suite.results import write_result
from metalearn.curves import last_positions
from metalearn.gradients import Estimator, backprop, dense, full_es, low_rank
from metalearn.intervals import half_width
from metalearn.learner import inner_loop
from metalearn.pictures import new_figure, save
from metalearn.recipes.gradient import GradientConfig, Method
from metalearn.recipes.in_context.build import prepare
from metalearn.recipes.in_context.config import TrainConfig
from metalearn.recipes.in_context.presets import PRESETS as RECIPES
from metalearn.recipes.in_context.run import meta_train
from metalearn.recipes.in_context.scoring import LAST
from metalearn.runs.folder import open_run
from metalearn.runs.metrics import read_metrics
from metalearn.runs.progress import Progress, Silent

BLOCK = 64
"""Antithetic pairs per estimate; estimates of one block are averaged to get larger numbers of pairs."""
REPEATS = 8
"""Independent averages per number of pairs, over which the interval of the cosine is computed."""


@dataclass(frozen=True)
class EsInContextConfig:
    """Evolution strategies and backpropagation on one in-context learner."""

    methods: tuple[Method, ...] = ("es", "nres", "pes", "backprop")
    """Estimators to meta-train with."""
    steps: int = 3000
    """Outer steps per run."""
    seeds: int = 3
    """Runs per method."""
    seed: int = 0
    """The first seed."""
    pairs: int = 512
    """Antithetic pairs of the evolution strategies; backpropagation has as many tasks."""
    window: int = 10
    """Examples between two updates of nres and pes."""
    most_pairs: int = 2**13
    """The largest number of pairs for which the cosine is measured."""
    out: Path = Path("runs/es_in_context")
    """Folder for the runs, the picture and the table."""
    resume: bool = False
    """Continue the runs that are already in the folder."""
    overwrite: bool = False
    """Remove the runs that are already in the folder."""


PRESETS = {
    "standard": EsInContextConfig(),
    "quick": EsInContextConfig(steps=300, seeds=1, most_pairs=2**9, out=Path("runs/es_in_context-quick")),
}


def run(config: EsInContextConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Measure the cosine and meta-train with every method; returns what result.json holds."""
    progress = Silent() if progress is None else progress
    start = time.monotonic()
    result: dict[str, Any] = {"cosine": measure_cosines(config, progress)}
    result["runs"] = {method: meta_train_seeds(config, method, progress) for method in config.methods}
    result["chance"] = prepare(train_config(config, "es", config.seed)).chance
    result["picture"] = str(config.out / "es_in_context.png")
    draw(result, Path(result["picture"]))
    result["seconds"] = round(time.monotonic() - start, 1)
    return write_result(config.out, result)


def train_config(config: EsInContextConfig, method: Method, seed: int) -> TrainConfig:
    """The preset `es` of `metalearn train` with another estimator; backpropagation has its own best step size."""
    base = RECIPES["es"][1]
    rate = 3e-3 if method == "backprop" else base.outer_optimizer.learning_rate
    window = config.window if method in ("nres", "pes", "truncated-es") else None
    return dataclasses.replace(
        base,
        gradient=GradientConfig(method, window),
        outer_optimizer=dataclasses.replace(base.outer_optimizer, learning_rate=rate),
        batch=config.pairs,
        steps=config.steps,
        seed=seed,
        evaluate_every=max(1, config.steps // 10),
        checkpoint_every=config.steps,
        references=(),
    )


def measure_cosines(config: EsInContextConfig, progress: Progress) -> dict[str, Any]:
    """Cosine of the estimate with the exact gradient against the number of pairs, for dense and rank-1 noise.

    The task, with 16 sequences, is always the same, so that the noise of evolution strategies is the only randomness.
    Theta is the initial one. Sigma is so small that the loss is linear over the perturbations.
    """
    recipe = prepare(train_config(config, "es", config.seed))
    loop = inner_loop(recipe.learner, recipe.family, sequences=16)
    theta = recipe.learner.init(jax.random.key(config.seed))
    task_key = jax.random.key(1000 + config.seed)
    one_task = loop._replace(init=lambda theta, data, key: loop.init(theta, data, task_key))
    exact = draw_gradients(backprop(one_task, 1), theta, recipe.data, 1)[0]
    progress.note(f"cosine of evolution strategies with backpropagation, {exact.size:,} parameters")
    pairs = [2**power for power in range(6, int(np.log2(config.most_pairs)) + 1)]
    result: dict[str, Any] = {"parameters": int(exact.size), "pairs": pairs}
    for name, noise in (("dense", dense), ("rank 1", low_rank(1))):
        estimator = full_es(one_task, 1e-3, BLOCK, noise=noise)
        estimates = draw_gradients(estimator, theta, recipe.data, REPEATS * pairs[-1] // BLOCK)
        estimates = rearrange(estimates, "(repeats blocks) p -> repeats blocks p", repeats=REPEATS)
        means = np.stack([estimates[:, : n // BLOCK].mean(1) for n in pairs])
        cosine = means @ exact / np.linalg.norm(means, axis=-1) / np.linalg.norm(exact)
        result[name] = {"mean": cosine.mean(1).tolist(), "half": half_width(cosine, axis=1).tolist()}
    result["predicted"] = [float(1 / np.sqrt(1 + (exact.size + 1) / n)) for n in pairs]
    return result


def draw_gradients(estimator: Estimator, theta: Any, data: Any, number: int) -> Float[np.ndarray, "N P"]:
    """`number` independent gradients, each flattened to one row."""

    def one(key: Any) -> Any:
        return estimator.grad(theta, estimator.init(theta, data, key), data, key, jnp.int32(0))[0]

    rows = jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(jax.random.key(1), number))
    return np.concatenate([np.reshape(a, (number, -1)) for a in jax.tree.leaves(rows)], 1)


def meta_train_seeds(config: EsInContextConfig, method: Method, progress: Progress) -> dict[str, Any]:
    """Accuracy of every seed on unseen tasks over the last positions, at the end and along the way."""
    final, paths, steps, seconds = [], [], [], []
    for seed in range(config.seed, config.seed + config.seeds):
        folder = config.out / f"{method}-{seed}"
        resume = config.resume and (folder / "config.json").exists()
        result, scores = meta_train(
            train_config(config, method, seed), folder, resume=resume, overwrite=config.overwrite, progress=progress
        )
        lines = [line for line in read_metrics(open_run(folder)) if "eval/unseen_score" in line]
        steps = [line["step"] for line in lines]
        paths.append([line["eval/unseen_score"] for line in lines])
        final.append(last_positions(scores["unseen"], LAST)[0])
        seconds.append(result["seconds"])
    return {"unseen": final, "steps": steps, "paths": paths, "seconds": seconds}


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw the cosine beside the closed form, and the accuracy of every method against outer steps."""
    figure, (left, right) = new_figure(columns=2, width=4.4)
    cosine = result["cosine"]
    left.plot(cosine["pairs"], cosine["predicted"], color="0.4", label=r"$1/\sqrt{1+(P+1)/n}$")
    for name, marker in (("dense", "o"), ("rank 1", "s")):
        half = cosine[name]["half"]
        left.errorbar(cosine["pairs"], cosine[name]["mean"], half, fmt=marker, markersize=4, label=f"{name} noise")
    left.set_xscale("log", base=2)
    left.set_xlabel("antithetic pairs")
    left.set_ylabel("cosine with backpropagation")
    left.set_title(f"P = {cosine['parameters']:,} parameters", fontsize=9)
    left.legend()
    for number, (method, runs) in enumerate(result["runs"].items()):
        paths = np.asarray(runs["paths"])
        right.plot(runs["steps"], paths.mean(0), color=f"C{number}", label=method)
        if len(paths) > 1:
            right.fill_between(runs["steps"], paths.min(0), paths.max(0), color=f"C{number}", alpha=0.2, linewidth=0)
    right.axhline(result["chance"], color="0.5", linewidth=0.8, linestyle=":")
    right.set_xlabel("outer step")
    right.set_ylabel("accuracy on unseen tasks, last 10 of 20")
    right.set_title("mean and range over seeds; dotted: chance", fontsize=9)
    right.legend()
    save(figure, path)


def format_result(result: Mapping[str, Any]) -> str:
    """A table of cosines and a table of accuracies."""
    cosine = result["cosine"]
    lines = [f"{'pairs':>8} {'dense':>16} {'rank 1':>16} {'predicted':>10}   cosine with backpropagation"]
    for i, n in enumerate(cosine["pairs"]):
        cells = [f"{cosine[k]['mean'][i]:.3f} ± {cosine[k]['half'][i]:.3f}" for k in ("dense", "rank 1")]
        lines.append(f"{n:>8,} {cells[0]:>16} {cells[1]:>16} {cosine['predicted'][i]:>10.3f}")
    lines.append(f"{'method':>8} {'unseen, last 10':>18} {'seconds per run':>15}   chance {result['chance']:.3f}")
    for method, runs in result["runs"].items():
        score = f"{np.mean(runs['unseen']):.3f} ± {half_width(runs['unseen']):.3f}"
        lines.append(f"{method:>8} {score:>18} {np.mean(runs['seconds']):>15.0f}")
    return "\n".join([*lines, f"picture: {result['picture']} ({result['seconds']} s)"])
