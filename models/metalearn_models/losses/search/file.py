"""What a search knows after a generation, and the file in which it is kept.

The file is JSON, formulas in prefix notation; it also says which tasks and settings it belongs to, and is refused to a
search of others.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from metalearn.errors import RunError
from metalearn_models.losses.formulas import Expr, parse, to_text
from metalearn_models.losses.search.population import LossTask

__all__ = ["Generation", "State", "Trained", "dump", "identity_of", "load"]

FORMAT = 1


class Trained(NamedTuple):
    """A loss that was trained.

    Attributes:
        expr: the smallest formula met that has this table.
        fitness: mean over tasks of `errors`, arithmetic or geometric as configured; smaller is better.
        errors: of each task, at its best learning rate: error rate or mean squared error on validation examples, mean
            over seeds.
        rates: those learning rates.
    """

    expr: Expr
    fitness: float
    errors: tuple[float, ...]
    rates: tuple[float, ...]


class Generation(NamedTuple):
    """What became of a population.

    Attributes:
        rejected: candidates refused by their table, by the first words of the reason.
        known: candidates whose table had been seen before, in this generation or an earlier one.
        trained: new candidates, trained.
        best: smallest fitness so far; infinity when there is none.
        seconds: wall time.
    """

    rejected: dict[str, int]
    known: int
    trained: int
    best: float
    seconds: float


class State(NamedTuple):
    """What is known after a generation: the contents of `search.json`."""

    population: tuple[Expr, ...]
    fitness: tuple[float, ...]
    trained: dict[str, Trained]
    generations: tuple[Generation, ...]


def identity_of(tasks: Sequence[LossTask], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a folder must agree with to be gone on with."""
    return {
        "config": json.loads(json.dumps(settings)),
        "tasks": {f"{i} {task.name}": _digest(task) for i, task in enumerate(tasks)},
    }


def _digest(task: LossTask) -> str:
    params = jax.eval_shape(task.init, jax.random.key(0))
    digest = hashlib.sha256(f"{task.kind} {task.outputs} {params}".encode())
    for array in (*task.train, *task.valid):
        values = np.ascontiguousarray(array)
        digest.update(f"{values.dtype}{values.shape}".encode() + values.tobytes())
    return digest.hexdigest()[:16]


def dump(state: State, identity: dict[str, Any]) -> bytes:
    """JSON without infinities, for which it has no word: null."""

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    record = {
        "format": FORMAT,
        **identity,
        "population": [to_text(expr) for expr in state.population],
        "fitness": [number(value) for value in state.fitness],
        "trained": {
            key: {
                "loss": to_text(entry.expr),
                "fitness": number(entry.fitness),
                "errors": [number(value) for value in entry.errors],
                "rates": entry.rates,
            }
            for key, entry in state.trained.items()
        },
        "generations": [{**g._asdict(), "best": number(g.best)} for g in state.generations],
    }
    return json.dumps(record, indent=1, allow_nan=False).encode()


def load(path: Path, identity: dict[str, Any]) -> State:
    """Read what `dump` wrote.

    Raises:
        RunError: the file cannot be read, or is of another search than `identity`.
    """

    def number(value: float | None) -> float:
        return math.inf if value is None else float(value)

    try:
        record = json.loads(path.read_bytes())
        if record["format"] != FORMAT:
            raise RunError(f"{path} has format {record['format']}, this metalearn writes {FORMAT}: use another folder")
        _check_same(path, record, identity)
        trained = {
            key: Trained(
                parse(entry["loss"]),
                number(entry["fitness"]),
                tuple(number(value) for value in entry["errors"]),
                tuple(float(rate) for rate in entry["rates"]),
            )
            for key, entry in record["trained"].items()
        }
        generations = tuple(Generation(**{**g, "best": number(g["best"])}) for g in record["generations"])
        population = tuple(parse(text) for text in record["population"])
        return State(population, tuple(number(value) for value in record["fitness"]), trained, generations)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path} is not the file of a search, or damaged ({error!r:.200}): choose another folder"
        ) from error


def _check_same(path: Path, record: dict[str, Any], identity: dict[str, Any]) -> None:
    for part, ours in identity.items():
        theirs = record[part]
        if theirs != ours:
            names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
            told = "; ".join(f"{name}: there {theirs.get(name)!r:.300}, here {ours.get(name)!r:.300}" for name in names)
            raise RunError(f"{path} belongs to another search, its {part} differ ({told}): choose another folder")
