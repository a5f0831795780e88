"""The search for loss functions: genetic programming over formulas, with training of networks as the fitness.

This is the outer loop of EvoMAL (Raymond, Chen, Xue, Zhang 2023, arXiv 2209.08907) with its filters moved to the front.
Candidates are rejected or recognised by their tables; the new ones of a generation are trained together
(`population.py`). Random search over the same formulas is the control. Or all small losses of one form are listed,
each once (`enumeration.py`), and a model of those that were trained chooses the next (`surrogate.py`).

    search.json     the state of the search after each generation, replaced in one step
    lock            held by the process that searches

A search that was killed continues from its folder, with the numbers of one that was not.

Several processes of `jax.distributed` may drive one search. Each breeds and rejects the same candidates and trains its
share of the new ones; errors are exchanged once per generation. Process 0 alone touches the folder, apart from a check
that all see it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Key

from metalearn.runs.processes import agree_on, all_do, name_the_lost, share_out
from metalearn.runs.progress import Progress
from metalearn.runs.stopping import StopOnSignal
from metalearn_models.losses.formulas import Expr, size
from metalearn_models.losses.search.config import LISTED, SearchConfig, Strategy
from metalearn_models.losses.search.enumeration import Candidate, enumerate_losses
from metalearn_models.losses.search.evolution import initial_population, next_generation
from metalearn_models.losses.search.file import Generation, State, Trained, identity_of
from metalearn_models.losses.search.keeping import FILE, begin, save, stop_together, what_is_safe
from metalearn_models.losses.search.listed import choose
from metalearn_models.losses.search.neighbours import neighbours
from metalearn_models.losses.search.population import LossTask, Trainer, TrainingConfig, trainer
from metalearn_models.losses.search.preferences import order, pareto_front, prefer_small
from metalearn_models.losses.search.screening import fingerprint, reject
from metalearn_models.losses.search.table import Kind, screening_table
from metalearn_models.losses.symbolic_loss import MOST_CLASSES, SymbolicLoss

__all__ = ["FILE", "SearchResult", "as_loss", "pareto_front", "prefer_small", "random_control", "search"]


class SearchResult(NamedTuple):
    """The outcome of a search.

    Attributes:
        best: the finalists with their errors on fresh seeds, best first.
        trained: every distinct loss that was trained, with its errors during the search, best first.
        generations: numbers of each generation.
        compilations: number of compilations of the training in this process: one per task.
    """

    best: tuple[Trained, ...]
    trained: tuple[Trained, ...]
    generations: tuple[Generation, ...]
    compilations: int


def search(
    tasks: Sequence[LossTask],
    config: SearchConfig,
    folder: str | Path | None = None,
    progress: Progress | None = None,
    devices: Sequence[Any] | None = None,
    final_tasks: Sequence[LossTask] | None = None,
    prepare: Callable[[LossTask, TrainingConfig, Sequence[Any] | None], Trainer] | None = None,
) -> SearchResult:
    """Search for the loss function with which networks have the least error on the validation examples of some tasks.

    With several processes of `jax.distributed`, all call this with the same arguments and get the result of one
    process. A signal to one of them stops all after the same generation; what ends one ends all.

    Args:
        tasks: at least one, all of one kind.
        config: the settings of the search.
        folder: folder for the state after each generation, created if needed. If it holds a search already, that
            search continues, with any number of processes. None: nothing is written.
        progress: receives one update per generation; "loss" is the best fitness so far.
        devices: candidates are split over them, without a change of the results. None: all local devices.
        final_tasks: tasks that judge the finalists, such as other splits of the same data, since the best of hundreds
            is partly chosen for its luck with the examples. None: the same tasks, with fresh networks.
        prepare: makes the training on a task, so that several searches can share theirs. None: `population.trainer`.

    Raises:
        ValueError: no task, tasks of two kinds, data that cannot be trained on, or all candidates were rejected.
        RunError: the folder holds another search or a damaged one, or another process writes to it; or the processes
            of one search differ in settings, versions, data or folder; or one of them had to end it.
        KeyboardInterrupt: with several processes, after Ctrl-C at one of them, once the generation is saved.
        SystemExit: the same after SIGTERM, with code 143.
    """
    kind = _common_kind([*tasks, *(final_tasks or ())] if tasks else ())
    classes = max(task.outputs for task in tasks)
    prepare = prepare or trainer
    trainers = all_do(lambda: [prepare(task, config.training, devices) for task in tasks])
    judges = trainers
    if final_tasks:
        judges = all_do(lambda: [prepare(task, config.training, devices) for task in final_tasks])
    with contextlib.ExitStack() as stack:
        path, state, identity = None, State((), (), {}, ()), identity_of(tasks, dataclasses.asdict(config))
        agree_on(identity)
        stop = None if jax.process_count() == 1 else stack.enter_context(StopOnSignal())
        if folder is not None:
            path = Path(folder) / FILE
            state = begin(path, identity, stack) or state
        stack.enter_context(name_the_lost(lambda: what_is_safe(state, path)))
        if progress is not None:
            progress.start(len(state.generations), config.generations)
            stack.callback(progress.close)
        pool = _list_once(kind, config.largest) if config.strategy in LISTED else ()
        while len(state.generations) < config.generations and not _has_spent_budget(config, state):
            state = _advance(state, kind, classes, trainers, config, pool)
            save(path, state, identity)
            if progress is not None:
                progress.update(len(state.generations), {"loss": state.generations[-1].best})
            if stop is not None:
                stop_together(stop.signal, what_is_safe(state, path))
        return _finish(state, trainers, judges, config)


@functools.cache
def _list_once(kind: Kind, largest: int) -> tuple[Candidate, ...]:
    """The list is the same for all searches of a process."""
    return enumerate_losses(kind, largest)


def as_loss(expr: Expr, tasks: Sequence[LossTask], strategy: Strategy = "evolution") -> SymbolicLoss:
    """A formula that was found on tasks as a loss.

    Its link is that of their kind. Its `classes` are as many as the largest task has; or 1,000 if the formula comes
    from a list, whose form needs no weights for other numbers of classes.
    """
    if _common_kind(tasks) == "regression":
        return SymbolicLoss(expr, link="identity")
    classes = MOST_CLASSES if strategy in LISTED else max(task.outputs for task in tasks)
    return SymbolicLoss(expr, link="softmax", classes=classes)


def random_control(config: SearchConfig, result: SearchResult) -> SearchConfig:
    """The settings of a random search that trains as many distinct losses as `result` did.

    It may need more formulas for that, so it has 20 times as many generations.
    """
    return dataclasses.replace(
        config, strategy="random", max_trained=len(result.trained), generations=20 * config.generations, climbs=0
    )


def _advance(
    state: State,
    kind: Kind,
    classes: int,
    trainers: Sequence[Trainer],
    config: SearchConfig,
    pool: Sequence[Candidate],
) -> State:
    """One generation: breed or choose, reject, recognise and train."""
    start, number = time.monotonic(), len(state.generations)
    if number >= config.generations - config.climbs and state.trained:
        population = neighbours(min(state.trained.values(), key=order).expr)
    elif config.strategy in LISTED:
        population = choose(state, config, pool)
    elif number == 0 or config.strategy == "random":
        population = initial_population(config.evolution, config.seed, number)
    else:
        population = next_generation(config.evolution, config.seed, number, state.population, state.fitness)
    keys: list[str | None] = []
    rejected, new = Counter[str](), dict[str, Expr]()
    trained, known = dict(state.trained), 0
    for expr in population:
        screened = screening_table(expr, kind)
        reason = reject(screened, kind, MOST_CLASSES if config.strategy in LISTED else classes)
        keys.append(None if reason else fingerprint(screened, kind))
        key = keys[-1]
        if reason or key is None:
            rejected[(reason or "").split(":")[0]] += 1
        elif key in trained:
            known += 1
            trained[key] = trained[key]._replace(expr=min(trained[key].expr, expr, key=size))
        elif key in new:
            known += 1
            new[key] = min(new[key], expr, key=size)
        elif config.max_trained is None or len(trained) + len(new) < config.max_trained:
            new[key] = expr
    judged = _judge(list(new.values()), trainers, config, _keys(config, 0))
    trained |= dict(zip(new, judged, strict=True))
    fitness = tuple(trained[key].fitness if key in trained else math.inf for key in keys)
    best = min((entry.fitness for entry in trained.values()), default=math.inf)
    record = Generation(dict(sorted(rejected.items())), known, len(new), best, time.monotonic() - start)
    return State(population, fitness, trained, (*state.generations, record))


def _judge(
    losses: Sequence[Expr], trainers: Sequence[Trainer], config: SearchConfig, keys: Key[Array, "S"]
) -> list[Trained]:
    """Train losses on all tasks. The error of a loss on a task is that at its best learning rate."""

    def train(share: list[Expr]) -> list[Any]:
        scores = [one.train(share, keys).mean(-1) for one in trainers]  # [P, L] per task
        return [[s[i].tolist() for s in scores] for i in range(len(share))]

    rates = np.asarray(config.training.learning_rates)
    judged = []
    for expr, scores in zip(losses, share_out(losses, train), strict=True):
        errors = tuple(min(of_rates) for of_rates in scores)
        best = tuple(float(rates[np.argmin(of_rates)]) for of_rates in scores)
        judged.append(Trained(expr, _average(errors, trainers, config), errors, best))
    return judged


def _average(errors: Sequence[float], trainers: Sequence[Trainer], config: SearchConfig) -> float:
    if config.average == "arithmetic":
        return float(np.mean(errors))
    return float(np.exp(np.mean(np.log(np.maximum(errors, [one.least for one in trainers])))))


def _keys(config: SearchConfig, round_number: int) -> Key[Array, "S"]:
    """Keys of networks and batches: round 0 is for the search, the others are for finalists."""
    seeds = config.training.seeds
    numbers = np.arange(round_number * seeds, (round_number + 1) * seeds, dtype=np.uint32)
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(config.seed), i))(numbers)


def _finish(state: State, trainers: Sequence[Trainer], judges: Sequence[Trainer], config: SearchConfig) -> SearchResult:
    trained = tuple(sorted(state.trained.values(), key=order))
    finalists = [entry.expr for entry in trained if math.isfinite(entry.fitness)][: config.finalists]
    if not finalists:
        slots = len(state.generations) * config.evolution.population
        reasons = sum((Counter(g.rejected) for g in state.generations), Counter[str]())
        rejected = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        raise ValueError(
            f"none of {slots} candidates can be used (rejected: {rejected or 'none'}; {len(trained)} trained without a "
            "finite error): search longer, with a larger population or another seed, or begin with known losses "
            "(EvolutionConfig(seeds=evolution.SEEDS[...]))"
        )
    rounds = [_judge(finalists, judges, config, _keys(config, number)) for number in range(1, config.final_rounds + 1)]
    best = []
    for entries in zip(*rounds, strict=True):
        errors = tuple(float(np.mean(e)) for e in zip(*(entry.errors for entry in entries), strict=True))
        best.append(Trained(entries[0].expr, _average(errors, judges, config), errors, entries[0].rates))
    compilations = sum(one.compilations() for one in {id(one): one for one in (*trainers, *judges)}.values())
    return SearchResult(tuple(sorted(best, key=order)), trained, state.generations, compilations)


def _has_spent_budget(config: SearchConfig, state: State) -> bool:
    return config.max_trained is not None and len(state.trained) >= config.max_trained


def _common_kind(tasks: Sequence[LossTask]) -> Kind:
    if not tasks:
        raise ValueError("a search needs at least one task, got none")
    kinds = sorted({task.kind for task in tasks})
    if len(kinds) > 1:
        raise ValueError(
            f"the tasks of a search must be of one kind, got {' and '.join(kinds)}: f is a probability in one, a "
            "number in the other"
        )
    return tasks[0].kind
