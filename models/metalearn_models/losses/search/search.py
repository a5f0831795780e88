"""The search for loss functions: genetic programming over formulas, fitness by training networks with them.

EvoMAL's outer loop (Raymond, Chen, Xue, Zhang 2023, arXiv 2209.08907) with its filters moved to the front: a candidate
is tabulated, refused or recognised by its table, and only what is new is trained, all of a generation together
(`population.py`). Random search over the same formulas is the control.

    search.json     after each generation, everything that the search knows; written in one piece
    lock            held by the process that searches

A search that was killed goes on from its folder, with the numbers of one that was not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from metalearn.runs.files import write_atomically
from metalearn.runs.lock import only_writer
from metalearn.runs.progress import Progress
from metalearn_models.losses.formulas import Expr, size, to_text
from metalearn_models.losses.search.config import SearchConfig
from metalearn_models.losses.search.evolution import initial_population, next_generation
from metalearn_models.losses.search.file import Generation, State, Trained, dump, identity_of, load
from metalearn_models.losses.search.neighbours import neighbours
from metalearn_models.losses.search.population import LossTask, Trainer, trainer
from metalearn_models.losses.search.screening import fingerprint, reject
from metalearn_models.losses.search.table import Kind, screening_table

__all__ = ["SearchResult", "pareto_front", "random_control", "search"]

FILE = "search.json"


class SearchResult(NamedTuple):
    """The outcome of a search.

    Attributes:
        best: the finalists as judged on fresh seeds, best first.
        trained: every distinct loss that was trained, as judged during the search, best first.
        generations: one record each.
        compilations: of the training, in this process: one a task.
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
) -> SearchResult:
    """Search for the loss function by which networks get best on the validation examples of some tasks.

    Args:
        tasks: at least one, all of one kind.
        config: of the search.
        folder: where the search is kept after each generation, created if need be; a search that is there already
            goes on. None: nothing is written.
        progress: told of each generation; its "loss" is the best fitness so far.
        devices: candidates are split over them; by default all local ones. The results stay the same.
        final_tasks: on which the finalists are judged, such as other splits of the same data: what is best of hundreds
            owes some of it to the examples it was chosen by. None: the same tasks, with fresh networks.

    Raises:
        ValueError: no task, tasks of two kinds, data that cannot be trained on, or every candidate was refused.
        RunError: the folder holds another search, or one that cannot be read, or another process writes it.
    """
    kind = _common_kind([*tasks, *(final_tasks or ())] if tasks else ())
    trainers = [trainer(task, config.training, devices) for task in tasks]
    judges = [trainer(task, config.training, devices) for task in final_tasks] if final_tasks else trainers
    with contextlib.ExitStack() as stack:
        path, state, identity = None, State((), (), {}, ()), identity_of(tasks, dataclasses.asdict(config))
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            stack.enter_context(only_writer(Path(folder)))
            path = Path(folder) / FILE
            if path.exists():
                state = load(path, identity)
        if progress is not None:
            progress.start(len(state.generations), config.generations)
            stack.callback(progress.close)
        while len(state.generations) < config.generations and not _spent(config, state):
            state = _advance(state, kind, trainers, config)
            if path is not None:
                write_atomically(path, dump(state, identity))
            if progress is not None:
                progress.update(len(state.generations), {"loss": state.generations[-1].best})
        return _finish(state, trainers, judges, config)


def pareto_front(trained: Sequence[Trained]) -> tuple[Trained, ...]:
    """The losses that no smaller formula beats, from the smallest to the best."""
    front: list[Trained] = []
    for entry in sorted(trained, key=lambda e: (size(e.expr), e.fitness, to_text(e.expr))):
        if math.isfinite(entry.fitness) and (not front or entry.fitness < front[-1].fitness):
            front.append(entry)
    return tuple(front)


def random_control(config: SearchConfig, result: SearchResult) -> SearchConfig:
    """The configuration of a random search that trains as many distinct losses as `result` did.

    It may look at more formulas for that: up to 20 times as many generations.
    """
    return dataclasses.replace(
        config, strategy="random", max_trained=len(result.trained), generations=20 * config.generations, climbs=0
    )


def _advance(state: State, kind: Kind, trainers: Sequence[Trainer], config: SearchConfig) -> State:
    """One generation: breed, refuse, recognise, train."""
    began, number = time.monotonic(), len(state.generations)
    if number == 0 or config.strategy == "random":
        population = initial_population(config.evolution, config.seed, number)
    elif number >= config.generations - config.climbs and state.trained:
        population = neighbours(min(state.trained.values(), key=_order).expr)
    else:
        population = next_generation(config.evolution, config.seed, number, state.population, state.fitness)
    keys: list[str | None] = []
    rejected, new = Counter[str](), dict[str, Expr]()
    trained, known = dict(state.trained), 0
    for expr in population:
        screened = screening_table(expr, kind)
        reason = reject(screened, kind)
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
    record = Generation(dict(sorted(rejected.items())), known, len(new), best, time.monotonic() - began)
    return State(population, fitness, trained, (*state.generations, record))


def _judge(
    losses: Sequence[Expr], trainers: Sequence[Trainer], config: SearchConfig, keys: PRNGKeyArray
) -> list[Trained]:
    """Train losses on all tasks; a loss is judged at the learning rate that is best for it on each task."""
    scores = [one.train(losses, keys).mean(-1) for one in trainers]  # [P, L] a task
    rates = np.asarray(config.training.learning_rates)
    judged = []
    for i, expr in enumerate(losses):
        errors = tuple(float(s[i].min()) for s in scores)
        chosen = tuple(float(rates[s[i].argmin()]) for s in scores)
        judged.append(Trained(expr, _average(errors, trainers, config), errors, chosen))
    return judged


def _average(errors: Sequence[float], trainers: Sequence[Trainer], config: SearchConfig) -> float:
    if config.average == "arithmetic":
        return float(np.mean(errors))
    return float(np.exp(np.mean(np.log(np.maximum(errors, [one.least for one in trainers])))))


def _keys(config: SearchConfig, round_number: int) -> PRNGKeyArray:
    """The seeds of networks and batches: round 0 is the search, the others are fresh."""
    seeds = config.training.seeds
    numbers = np.arange(round_number * seeds, (round_number + 1) * seeds, dtype=np.uint32)
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(config.seed), i))(numbers)


def _finish(state: State, trainers: Sequence[Trainer], judges: Sequence[Trainer], config: SearchConfig) -> SearchResult:
    trained = tuple(sorted(state.trained.values(), key=_order))
    finalists = [entry.expr for entry in trained if math.isfinite(entry.fitness)][: config.finalists]
    if not finalists:
        slots = len(state.generations) * config.evolution.population
        reasons = sum((Counter(g.rejected) for g in state.generations), Counter[str]())
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        raise ValueError(
            f"none of {slots} candidates can be used ({told or 'none refused'}; {len(trained)} trained without a "
            "finite error): search longer, with a larger population or another seed, or begin with known losses "
            "(EvolutionConfig(seeds=evolution.SEEDS[...]))"
        )
    rounds = [_judge(finalists, judges, config, _keys(config, number)) for number in range(1, config.final_rounds + 1)]
    best = []
    for entries in zip(*rounds, strict=True):
        errors = tuple(float(np.mean(e)) for e in zip(*(entry.errors for entry in entries), strict=True))
        best.append(Trained(entries[0].expr, _average(errors, judges, config), errors, entries[0].rates))
    compilations = sum(one.compilations() for one in {id(one): one for one in (*trainers, *judges)}.values())
    return SearchResult(tuple(sorted(best, key=_order)), trained, state.generations, compilations)


def _order(entry: Trained) -> tuple[float, int, str]:
    return entry.fitness, size(entry.expr), to_text(entry.expr)


def _spent(config: SearchConfig, state: State) -> bool:
    return config.max_trained is not None and len(state.trained) >= config.max_trained


def _common_kind(tasks: Sequence[LossTask]) -> Kind:
    if not tasks:
        raise ValueError("a search needs at least one task, got none")
    kinds = sorted({task.kind for task in tasks})
    if len(kinds) > 1:
        raise ValueError(
            f"the tasks of a search must be of one kind, got {' and '.join(kinds)}: f is a probability in one, a "
            "prediction in the other"
        )
    return tasks[0].kind
