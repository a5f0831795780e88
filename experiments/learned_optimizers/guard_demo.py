"""A guard around a learned optimizer that reaches too far (Prémont-Schwarz, Vítků and Feyereisl 2022, 2201.12426).

Meta-trained briefly on short runs of a small network on 8x8 digits, it trains that for many times as long, alone and
under a guard; then on another data set, and another network. LGL2O chooses after a few steps by the loss on fresh
batches, its guard Adam or SGD. GL2O (Heaton et al. 2020, 2003.01880) chooses at every step by the length of the guard's
next one, which bounds what is left only where gradients are exact; here they are not.

What a guard is for, "never worse than the better of its two parts", is measured run by run: the final loss (over all
examples, in the last tenth) over the smaller one of the parts', each alone from the same start and batches. It saves
every run that the learned part loses, but 2 % it does not keep. Around SGD on digits, eight times as many fresh batches
left the mean ratio at 1.08, rounds of 200 steps made it 1.01: what is better after ten steps can be a place from where
both parts end higher. Guards' learning rates are not tuned.

    python -m experiments guard_demo            # a table and a picture; --help
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Array, Float, Key, PRNGKeyArray

from experiments.learned_optimizers._training import final_interval, meta_train
from experiments.suite.intervals import interval, shown
from experiments.suite.results import write_result
from metalearn.gradients import nres
from metalearn.pictures import draw_loss_curves, new_figure, save
from metalearn.runs.progress import Progress, default_progress
from metalearn_models.optimizers import LearnedOptimizer, gl2o, lgl2o_rounds, small_fc
from metalearn_models.optimizers.wrappers.guard import Rounds
from metalearn_tasks.datasets.load import Split, load
from metalearn_tasks.objectives import Objective, capped, final_losses, mlp_classification, training_loop
from metalearn_tasks.objectives.objective import start

LEARNED = small_fc(step_size=5e-3, exponent=0.1)  # the paper has 0.001 and 0.001, for longer meta-training


@dataclass(frozen=True)
class GuardDemoConfig:
    """A learned optimizer beyond its meta-training, with and without a guard."""

    steps: int = 150
    """Outer steps: too few."""
    length: int = 200
    """Steps of a training run in meta-training."""
    far: int = 10_000
    """Steps of the runs that are compared."""
    penalty: float = 1e-3
    """Half of it times the squared parameters is added to losses, which else end near 0, where ratios say little."""
    train_batches: int = 10
    """n_t: steps of each part between two choices of LGL2O."""
    fresh_batches: int = 16
    """n_c: fresh batches that judge."""
    adam: float = 3e-3
    """Learning rate of Adam."""
    sgd: float = 0.1
    """Learning rate of SGD."""
    tolerance: float = 0.02
    """How much worse than the better part still counts as no worse."""
    seeds: int = 5
    """Meta-trainings, each with one run a place."""
    seed: int = 0
    """Of all randomness."""
    out: Path = Path("runs/guard-demo")
    """Folder of the picture and the table."""
    json: bool = False
    """Print one JSON object as the last line."""


class Contender(NamedTuple):
    """`(learned transformation, loss) -> Rounds`, and the name of the contender that is its guard alone, if any."""

    make: Callable[[Any, Any], Rounds]
    guard: str | None = None


def contenders(config: GuardDemoConfig) -> dict[str, Contender]:
    """The parts alone, and guarded."""
    adam, sgd = optax.adam(config.adam), optax.sgd(config.sgd)
    return {
        "learned": Contender(each_step),
        "Adam": Contender(lambda learned, loss: each_step(adam, loss)),
        "SGD": Contender(lambda learned, loss: each_step(sgd, loss)),
        "LGL2O, Adam": Contender(lambda learned, loss: lgl2o_rounds(learned, adam, loss), "Adam"),
        "LGL2O, SGD": Contender(lambda learned, loss: lgl2o_rounds(learned, sgd, loss), "SGD"),
        "GL2O, SGD": Contender(lambda learned, loss: each_step(gl2o(learned, sgd), loss), "SGD"),
    }


def penalised(objective: Objective, penalty: float) -> Objective:
    """The objective plus `penalty / 2 |params|^2`, whose least value is not 0."""

    def loss(problem: Any, params: Any, batch: Any) -> Array:
        return objective.loss(problem, params, batch) + 0.5 * penalty * optax.tree.norm(params, squared=True)

    return objective._replace(loss=loss)


def places(penalty: float) -> dict[str, tuple[Objective, Split]]:
    """Where they run, with the data; the first is where the learned optimizer is meta-trained."""

    def place(name: str, hidden: Any, activation: Any = jax.nn.relu) -> tuple[Objective, Split]:
        found = load(name)
        objective = mlp_classification(found.inputs, hidden, found.classes, activation=activation)
        return penalised(objective, penalty), jax.tree.map(jnp.asarray, found.train)

    return {
        "as meta-trained, longer": place("digits", 32),
        "another data set": place("breast_cancer", 32),
        "another network": place("digits", (64, 64), jnp.tanh),
    }


def each_step(transform: optax.GradientTransformation, loss: Callable[[Any, Any], Array]) -> Rounds:
    """A transformation in rounds, one step a batch; step i may look at fresh batch i modulo their number."""
    made: Any = optax.with_extra_args_support(transform)

    def round(params: Any, state: Any, batches: Any, fresh: Any) -> tuple[Any, Any, Array]:
        steps, judges = (jax.tree.leaves(x)[0].shape[0] for x in (batches, fresh))

        def body(carry: tuple[Any, Any], i: Array) -> tuple[tuple[Any, Any], None]:
            params, state = carry
            batch, other = (jax.tree.map(lambda x, j=j: x[j], b) for b, j in ((batches, i), (fresh, i % judges)))
            value, grads = jax.value_and_grad(loss)(params, batch)
            with jax.numpy_dtype_promotion("standard"):  # optax counts on it
                updates, state = made.update(grads, state, params, value=value, value_fn=lambda p: loss(p, other))
            return (optax.apply_updates(params, updates), state), None

        return *jax.lax.scan(body, (params, state), jnp.arange(steps))[0], jnp.zeros(2)

    return Rounds(made.init, round)


@partial(jax.jit, static_argnums=(0, 1, 2, 6))
def run(
    contender: Contender,
    optimizer: LearnedOptimizer,
    objective: Objective,
    thetas: Any,
    data: Split,
    keys: Key[Array, "S"],
    config: GuardDemoConfig,
) -> tuple[Float[Array, "S R"], Float[Array, "S R"]]:
    """Loss over all examples after each round, and share of its choices for the guard; one run a theta and key."""

    def one(theta: Any, key: PRNGKeyArray) -> tuple[Array, Array]:
        problem, params = start(objective, jax.random.fold_in(key, 0))
        rounds = contender.make(optimizer.transform(theta, config.far), lambda p, b: objective.loss(problem, p, b))

        def draw(key: PRNGKeyArray, number: int) -> Any:
            return jax.vmap(lambda k: objective.sample(problem, data, k))(jax.random.split(key, number))

        def body(carry: tuple[Any, Any], t: Array) -> tuple[tuple[Any, Any], tuple[Array, Array]]:
            k, (_, old) = jax.random.split(jax.random.fold_in(key, t)), carry
            params, state, _ = rounds.round(*carry, draw(k[0], config.train_batches), draw(k[1], config.fresh_batches))
            share = (state.fallbacks - old.fallbacks) / (state.step - old.step) if contender.guard else jnp.float32(0)
            return (params, state), (objective.loss(problem, params, data), share)

        return jax.lax.scan(body, (params, rounds.init(params)), 1 + jnp.arange(config.far // config.train_batches))[1]

    return jax.vmap(one)(thetas, keys)


def compared(losses: dict[str, Any], shares: dict[str, Any], who: dict[str, Contender], slack: float) -> dict[str, Any]:
    """Final losses of all, and for the guarded ones the ratio to the better of their parts, run by run."""
    final = {name: final_losses(curves) for name, curves in losses.items()}
    found: dict[str, dict[str, Any]] = {name: {"final": x} for name, x in final.items()}
    for name, contender in who.items():
        if contender.guard is not None:
            better = np.minimum(final["learned"], final[contender.guard])
            ratios = np.where(np.isfinite(final[name]), final[name] / better, np.inf)
            found[name] |= {"ratio": ratios, "worst": ratios.max(), "held": float((ratios <= 1 + slack).mean())}
            found[name]["guard_share"] = float(shares[name].mean())
    return found


def main(config: GuardDemoConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Meta-train, run; writes and returns what result.json holds."""
    if not (1 <= config.train_batches <= config.far and config.fresh_batches >= 1):
        raise ValueError(f"a round has 1 to far={config.far} steps and at least one fresh batch, got {config}")
    began, where, who, optimizer = time.monotonic(), places(config.penalty), contenders(config), LEARNED
    met, data = where["as meta-trained, longer"]
    estimator = nres(capped(training_loop(met, optimizer, config.length), 20.0), 0.01, 8, max(1, config.length // 4))
    tx = optax.adam(optax.cosine_decay_schedule(3e-3, config.steps, 0.01))
    meta_keys, keys = jax.random.split(jax.random.key(config.seed), (2, config.seeds))
    trained = meta_train("small-fc", optimizer, estimator, tx, data, config.steps, meta_keys, progress)
    thetas = jax.tree.map(lambda *x: jnp.stack(x), *trained)
    found, curves, shares = {}, {}, {}
    for place, (objective, data) in where.items():
        runs = {n: run(c, optimizer, objective, thetas, data, keys, config) for n, c in who.items()}
        curves[place] = {n: np.asarray(losses) for n, (losses, _) in runs.items()}
        shares[place] = {n: np.asarray(runs[n][1]) for n, c in who.items() if c.guard}
        found[place] = compared(curves[place], shares[place], who, config.tolerance)
        if progress is not None:
            progress.note(table({place: found[place]}, config))
    draw(config, curves, shares)
    print(f"{table(found, config)}\n\npicture: {config.out / 'guard_demo.png'}")
    return write_result(config.out, {"places": found, "seconds": round(time.monotonic() - began, 1)})


def table(found: dict[str, Any], config: GuardDemoConfig) -> str:
    """Final losses; of the guarded, also how they compare with the better of their parts."""
    lines = []
    for place, rows in found.items():
        lines.append(
            f"{f'{place}, {config.seeds} runs':<34} {'final loss, geometric mean [95 %]':<42} "
            f"{'over the better part (worst)':<30} {f'within {config.tolerance:.0%}':>10} {'guard chosen':>13}"
        )
        for name, row in rows.items():
            line = f"    {name:<30} {shown(final_interval(row['final'])):<42}"
            if "ratio" in row:
                ratio = f"{interval(row['ratio'], geometric=True).mean:.3f} ({row['worst']:.3f})"
                line += f" {ratio:<30} {row['held']:>10.0%} {row['guard_share']:>13.0%}"
            lines.append(line)
    return "\n".join(lines)


def draw(config: GuardDemoConfig, curves: dict[str, dict[str, np.ndarray]], shares: dict[str, Any]) -> None:
    """Losses a place, and what was chosen when."""
    figure, axes = new_figure(columns=len(curves) + 1, width=4.2)
    for ax, (place, rows) in zip(axes, curves.items(), strict=False):
        steps = {n: np.repeat(x, config.train_batches, 1) for n, x in rows.items()}  # a loss for the steps of its round
        draw_loss_curves(ax, {n if "," in n else f"reference: {n} alone": x for n, x in steps.items()})
        ax.set_title(place, fontsize=9)
    for i, (place, rows) in enumerate(shares.items()):
        for (name, share), style in zip(rows.items(), ("-", "--", ":"), strict=False):
            parts = np.array_split(share.mean(0), min(25, share.shape[1]))
            x = config.far * (np.arange(len(parts)) + 0.5) / len(parts)
            axes[-1].plot(x, [part.mean() for part in parts], style, color=f"C{i}", label=f"{place}: {name}")
    axes[-1].set(xlabel="training step", ylabel="share of choices for the guard", ylim=(-0.02, 1.02))
    axes[-1].legend(fontsize=6)
    save(figure, config.out / "guard_demo.png")


if __name__ == "__main__":
    command = tyro.cli(GuardDemoConfig, description=__doc__)
    written = main(command, default_progress("loss"))
    if command.json:
        print(json.dumps(written))
