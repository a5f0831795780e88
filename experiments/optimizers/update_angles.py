"""Does KFAC move along FOOF? The angle between their updates, with either damping of KFAC.

Benzing, "Gradient Descent on Neurons and its Link to Approximate Second-Order Optimization" (ICML 2022, arXiv
2201.12250), Fig. 3B: with heuristic damping the updates of KFAC point nearly where those of FOOF point (cosine about
.75 in the paper), with standard damping they do not (about .1). A network is trained by KFAC; at every update FOOF gets
the same gradients and statistics and says where it would go. Network and data are those of `neurons`, task digits.

The paper's dampings are those that train best. Here KFAC and FOOF have the dampings, and KFAC the learning rates, that
`neurons` chose for them on the same task; the rate of FOOF does not change an angle.

Rule of the verdict, written before the first run. Per seed the cosine is averaged over all updates. Reproduced: the
difference, heuristic minus standard, has a 95 % interval over seeds (Student's t) above 0, and the mean with heuristic
damping is at least .5. Not reproduced: the interval of the difference lies below 0, or the mean with heuristic damping
has an interval below .5. Open: otherwise, and where a run diverged.

    OPENBLAS_NUM_THREADS=1 python -m experiments update_angles            # 150 updates, 5 seeds
    OPENBLAS_NUM_THREADS=1 python -m experiments update_angles standard   # 10 seeds
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
from jaxtyping import Array, Float, Int, PRNGKeyArray

from experiments.optimizers.neurons.tasks import TASKS, Data, Task, draw_batches, draw_data, init, loss
from experiments.suite.intervals import list_interval
from experiments.suite.results import write_result
from experiments.suite.tables import format_columns, format_estimate
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn_models.optimizers.curvature import foof, kfac, kfac_standard, value_grad_and_sampled_statistics

__all__ = ["PRESETS", "UpdateAnglesConfig", "cosine", "format_result", "judge", "make_angles", "run"]

LEAST = 0.5
"""The mean cosine that heuristic damping must reach."""


@dataclass(frozen=True)
class UpdateAnglesConfig:
    """The angle between updates of KFAC and of FOOF along trainings by KFAC."""

    seeds: int = 5
    """Trainings with each damping."""
    heuristic: tuple[float, float] = (0.01, 1e-4)
    """Learning rate and damping of KFAC with heuristic damping."""
    standard: tuple[float, float] = (0.1, 0.1)
    """Learning rate and damping of KFAC with standard damping."""
    foof: float = 0.1
    """Damping of FOOF."""
    out: Path = Path("runs/update_angles")
    """Folder of the picture and the table."""


PRESETS = {"quick": UpdateAnglesConfig(), "standard": UpdateAnglesConfig(seeds=10)}


def run(config: UpdateAnglesConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Train, measure and draw; returns what result.json holds."""
    begun, task = time.monotonic(), TASKS["digits"]
    methods = {"heuristic": kfac(*config.heuristic), "standard": kfac_standard(*config.standard)}
    rows = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for name, tx in methods.items():
            measure = make_angles(task, tx, foof(1.0, config.foof))
            found = [measure(draw_data(task, seed), jax.random.key(seed)) for seed in range(config.seeds)]
            cosines, losses = (np.stack([np.asarray(row[i]) for row in found]) for i in (0, 1))
            rows[name] = {"cosine": cosines, "loss": losses}
            if progress is not None:
                progress.note(f"{name}: mean cosine {cosines.mean():.3f}")
    picture = draw(rows, config.out / "update_angles.png")
    result = {"rows": rows, **judge({name: row["cosine"] for name, row in rows.items()}), "picture": str(picture)}
    return write_result(config.out, result | {"seconds": round(time.monotonic() - begun, 1)})


def make_angles(
    task: Task, tx: optax.GradientTransformationExtraArgs, other: optax.GradientTransformationExtraArgs
) -> Callable[[Data, PRNGKeyArray], tuple[Array, Array]]:
    """One training as a compiled function.

    Args:
        task: what is trained.
        tx: trains the network.
        other: gets the same gradients and statistics, and changes nothing.

    Returns:
        `(data, key) -> (cosines[T], losses[T])` of the two updates, and of each batch before its update.
    """

    def step(data: Data, carry: tuple[Any, ...], given: tuple[Int[Array, "B"], PRNGKeyArray]) -> Any:
        (params, state, beside), (rows, key) = carry, given
        compute = value_grad_and_sampled_statistics(loss)
        value, grads, found = compute(key, params, data.inputs[rows], data.labels[rows])
        updates, state = tx.update(grads, state, params, statistics=found)
        compared, beside = other.update(grads, beside, params, statistics=found)
        return (optax.apply_updates(params, updates), state, beside), (cosine(updates, compared), value)

    @jax.jit
    def measure(data: Data, key: PRNGKeyArray) -> tuple[Array, Array]:
        init_key, order_key, step_key = jax.random.split(key, 3)
        params = init(task, data.inputs.shape[1], init_key)
        rows = draw_batches(task, len(data.labels), task.steps, order_key)
        start = params, tx.init(params), other.init(params)
        given = rows, jax.random.split(step_key, task.steps)
        return jax.lax.scan(lambda carry, x: step(data, carry, x), start, given)[1]

    return measure


def cosine(a: Any, b: Any) -> Float[Array, ""]:
    """The cosine of the angle between two trees, each taken as one vector; NaN if one is 0."""
    return jnp.asarray(optax.tree.vdot(a, b) / (optax.tree.norm(a) * optax.tree.norm(b)))


def judge(cosines: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict by the rule of this module.

    Args:
        cosines: `[seeds, T]` with "heuristic" and with "standard" damping.

    Returns:
        `means` of both and their `difference`, each with its interval, `verdict` and `words`.
    """
    heuristic, standard = (np.asarray(cosines[name], np.float64).mean(1) for name in ("heuristic", "standard"))
    means = {"heuristic": list_interval(heuristic), "standard": list_interval(standard)}
    difference = list_interval(heuristic - standard)
    if not (np.isfinite(heuristic).all() and np.isfinite(standard).all()):
        verdict = "open"
    elif difference[1] > 0 and means["heuristic"][0] >= LEAST:
        verdict = "reproduced"
    elif difference[2] < 0 or means["heuristic"][2] < LEAST:
        verdict = "not reproduced"
    else:
        verdict = "open"
    words = f"heuristic minus standard {format_estimate(difference)}"
    return {"means": means, "difference": difference, "verdict": verdict, "words": words}


def format_result(result: Mapping[str, Any]) -> str:
    """A table and the verdict."""
    means = result["means"]
    columns = {"mean cosine with FOOF [95 %]": [format_estimate(x) for x in means.values()]}
    return "\n".join([
        format_columns(list(means), columns, "damping of KFAC"),
        f"{result['verdict']}: {result['words']}",
        f"picture: {result['picture']} ({result['seconds']} s)",
    ])  # fmt: skip


def draw(rows: Mapping[str, Mapping[str, Any]], path: Path) -> Path:
    """Draw cosine and loss against the update: seeds faint, their mean strong."""
    figure, axes = new_figure(columns=2, width=4.6, height=3.6)
    for number, (name, row) in enumerate(rows.items()):
        for ax, field in zip(axes, ("cosine", "loss"), strict=True):
            curves = np.asarray(row[field])
            ax.plot(curves.T, color=f"C{number}", alpha=0.2, linewidth=0.7)
            ax.plot(curves.mean(0), color=f"C{number}", label=f"{name} damping")
    axes[0].set(xlabel="update", ylabel="cosine of KFAC's update and FOOF's", ylim=(-0.1, 1.0))
    axes[1].set(xlabel="update", ylabel="loss of the batch", yscale="log")
    axes[0].legend(frameon=False)
    figure.suptitle("Does KFAC move along FOOF? 64-128-128-128-10 on digits, trained by KFAC", fontsize=9)
    return save(figure, path)
