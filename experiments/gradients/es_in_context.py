"""In-context learners without backpropagation: an LSTM meta-trained by evolution strategies alone.

Evolution strategies as in Vicol, Metz & Sohl-Dickstein 2021 (PES, arXiv 2112.13835), Li et al. 2023 (NRES, arXiv
2304.12180) and EGGROLL (rank-1 noise, arXiv 2511.16652), on the learners and tasks of Kirsch et al. 2022 (GPICL, arXiv
2212.04458). Two questions:

    how far along    The cosine of the estimate with the gradient of backpropagation, for 64 to 8,192 pairs, against the
                     closed form 1 / sqrt(1 + (P + 1) / n) of a linear loss.
    is it enough     The same learner meta-trained by full ES, by NRES and PES (an update every 10 of 20 examples), by
                     backpropagation; accuracy on unseen tasks against outer steps.

    python experiments/gradients/es_in_context.py            # about six minutes on two cores
    python experiments/gradients/es_in_context.py --help
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from scipy import stats

from metalearn.curves import last_positions
from metalearn.gradients import Estimator, backprop, dense, full_es, low_rank
from metalearn.learner import inner_loop
from metalearn.pictures import new_figure, save
from metalearn.recipes.in_context.build import prepare
from metalearn.recipes.in_context.config import GradientConfig, TrainConfig
from metalearn.recipes.in_context.presets import PRESETS
from metalearn.recipes.in_context.run import meta_train
from metalearn.recipes.in_context.scoring import LAST
from metalearn.runs.folder import open_run
from metalearn.runs.metrics import read_metrics
from metalearn.runs.progress import Progress, default_progress


@dataclass(frozen=True)
class EsInContextConfig:
    """Compare evolution strategies with backpropagation on one in-context learner."""

    methods: tuple[str, ...] = ("es", "nres", "pes", "backprop")
    """Estimators to meta-train with."""
    steps: int = 3000
    """Outer steps of each run."""
    seeds: int = 3
    """Runs of each method."""
    seed: int = 0
    """The first seed."""
    pairs: int = 512
    """Antithetic pairs of the evolution strategies; backpropagation has as many tasks."""
    window: int = 10
    """Examples between two updates of nres and pes."""
    most_pairs: int = 2**13
    """Where the sweep of the cosine ends."""
    out: Path = Path("runs/es_in_context")
    """Folder of the runs, the picture and the table."""
    resume: bool = False
    """Go on with runs that are in the folder already."""
    overwrite: bool = False
    """Remove runs that are in the folder already."""
    json: bool = False
    """Print one JSON object as the last line."""


def config_for(config: EsInContextConfig, method: str, seed: int) -> TrainConfig:
    """The `es` preset with another estimator; backpropagation gets the step size it does best with."""
    base = PRESETS["es"][1]
    optimizer = (
        base.outer_optimizer if method != "backprop" else dataclasses.replace(base.outer_optimizer, learning_rate=3e-3)
    )
    window = config.window if method in ("nres", "pes", "truncated-es") else None
    return dataclasses.replace(
        base,
        gradient=GradientConfig(method, window),  # pyright: ignore[reportArgumentType]
        outer_optimizer=optimizer,
        batch=config.pairs,
        steps=config.steps,
        seed=seed,
        evaluate_every=max(1, config.steps // 10),
        checkpoint_every=config.steps,
        references=(),
    )


def cosines(config: EsInContextConfig, progress: Progress) -> dict[str, Any]:
    """Cosine of the estimate with the exact gradient against the number of pairs, dense and rank-1 noise.

    One task with 16 sequences stands still, so that the noise of evolution strategies is all there is. At the initial
    theta; sigma is small enough for the loss to be linear over it.
    """
    recipe = prepare(config_for(config, "es", config.seed))
    loop = inner_loop(recipe.learner, recipe.family, sequences=16)
    theta = recipe.learner.init(jax.random.key(config.seed))
    the_one = jax.random.key(1000 + config.seed)
    still = loop._replace(init=lambda theta, data, key: loop.init(theta, data, the_one))
    exact = gradients(backprop(still, 1), theta, recipe.data, 1)[0]
    progress.note(f"cosine of evolution strategies with backpropagation, {exact.size:,} parameters")
    block, repeats = 64, 8  # estimates of 64 pairs are averaged to ever more pairs; 8 independent ones give an interval
    pairs = [2**power for power in range(6, int(np.log2(config.most_pairs)) + 1)]
    found: dict[str, Any] = {"parameters": int(exact.size), "pairs": pairs}
    for name, noise in (("dense", dense), ("rank 1", low_rank(1))):
        estimator = full_es(still, 1e-3, block, noise=noise)
        each = gradients(estimator, theta, recipe.data, repeats * pairs[-1] // block).reshape(repeats, -1, exact.size)
        means = np.stack([each[:, : n // block].mean(1) for n in pairs])
        cosine = means @ exact / np.linalg.norm(means, axis=-1) / np.linalg.norm(exact)
        found[name] = {"mean": cosine.mean(1).tolist(), "half": interval(cosine.T).tolist()}
    found["predicted"] = [float(1 / np.sqrt(1 + (exact.size + 1) / n)) for n in pairs]
    return found


def gradients(estimator: Estimator, theta: Any, data: Any, number: int) -> np.ndarray:
    """So many independent gradients, flattened: [number, P]."""

    def one(key: Any) -> Any:
        return estimator.grad(theta, estimator.init(theta, data, key), data, key, jnp.int32(0))[0]

    rows = jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(jax.random.key(1), number))
    return np.concatenate([np.reshape(a, (number, -1)) for a in jax.tree.leaves(rows)], 1)


def interval(values: np.ndarray) -> np.ndarray:
    """Half the width of the 95 % interval of the mean over the leading axis (Student's t)."""
    n = len(values)
    return stats.t.ppf(0.975, n - 1) * values.std(0, ddof=1) / n**0.5 if n > 1 else np.full(values.shape[1:], np.nan)


def meta_trained(config: EsInContextConfig, method: str, progress: Progress) -> dict[str, Any]:
    """Accuracy on unseen tasks over the last positions, at the end and along the way, for each seed."""
    final, paths, steps, seconds = [], [], [], []
    for seed in range(config.seed, config.seed + config.seeds):
        folder = config.out / f"{method}-{seed}"
        resume = config.resume and (folder / "config.json").exists()
        result, scores = meta_train(
            config_for(config, method, seed), folder, resume=resume, overwrite=config.overwrite, progress=progress
        )
        lines = [line for line in read_metrics(open_run(folder)) if "eval/unseen_score" in line]
        steps = [line["step"] for line in lines]
        paths.append([line["eval/unseen_score"] for line in lines])
        final.append(last_positions(scores["unseen"], LAST)[0])
        seconds.append(result["seconds"])
    return {"unseen": final, "steps": steps, "paths": paths, "seconds": seconds}


def draw(found: dict[str, Any], path: Path) -> None:
    """Left the cosine against the closed form, right accuracy against outer steps."""
    figure, (left, right) = new_figure(columns=2, width=4.4)
    cosine = found["cosine"]
    left.plot(cosine["pairs"], cosine["predicted"], color="0.4", label=r"$1/\sqrt{1+(P+1)/n}$")
    for name, marker in (("dense", "o"), ("rank 1", "s")):
        half = cosine[name]["half"]
        left.errorbar(cosine["pairs"], cosine[name]["mean"], half, fmt=marker, markersize=4, label=f"{name} noise")
    left.set_xscale("log", base=2)
    left.set_xlabel("antithetic pairs")
    left.set_ylabel("cosine with backpropagation")
    left.set_title(f"P = {cosine['parameters']:,} parameters", fontsize=9)
    left.legend()
    for number, (method, runs) in enumerate(found["runs"].items()):
        paths = np.asarray(runs["paths"])
        right.plot(runs["steps"], paths.mean(0), color=f"C{number}", label=method)
        if len(paths) > 1:
            right.fill_between(runs["steps"], paths.min(0), paths.max(0), color=f"C{number}", alpha=0.2, linewidth=0)
    right.axhline(found["chance"], color="0.5", linewidth=0.8, linestyle=":")
    right.set_xlabel("outer step")
    right.set_ylabel("accuracy on unseen tasks, last 10 of 20")
    right.set_title("mean and range over seeds; dotted: chance", fontsize=9)
    right.legend()
    save(figure, path)


def main(config: EsInContextConfig, progress: Progress | None = None) -> dict[str, Any]:
    """The cosine and the runs; returns what is in result.json."""
    progress = default_progress() if progress is None else progress
    began = time.monotonic()
    found: dict[str, Any] = {"cosine": cosines(config, progress)}
    found["runs"] = {method: meta_trained(config, method, progress) for method in config.methods}
    found["chance"] = prepare(config_for(config, "es", config.seed)).chance
    draw(found, config.out / "es_in_context.png")
    found["seconds"] = round(time.monotonic() - began, 1)
    (config.out / "result.json").write_text(json.dumps(found, indent=2))
    return found


if __name__ == "__main__":
    command = tyro.cli(EsInContextConfig, description=__doc__)
    result = main(command)
    print(f"{'pairs':>8} {'dense':>16} {'rank 1':>16} {'predicted':>10}   cosine with backpropagation")
    shown = result["cosine"]
    for i, n in enumerate(shown["pairs"]):
        cells = [f"{shown[k]['mean'][i]:.3f} ± {shown[k]['half'][i]:.3f}" for k in ("dense", "rank 1")]
        print(f"{n:>8,} {cells[0]:>16} {cells[1]:>16} {shown['predicted'][i]:>10.3f}")
    print(f"{'method':>8} {'unseen, last 10':>18} {'seconds a run':>15}   chance {result['chance']:.3f}")
    for method, runs in result["runs"].items():
        values = np.asarray(runs["unseen"])
        score = f"{values.mean():.3f} ± {interval(values[:, None])[0]:.3f}"
        print(f"{method:>8} {score:>18} {np.mean(runs['seconds']):>15.0f}")
    print(f"picture: {command.out / 'es_in_context.png'} ({result['seconds']} s)")
    if command.json:
        print(json.dumps(result))
