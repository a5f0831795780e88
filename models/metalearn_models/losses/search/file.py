"""The state of a search after a generation, and its file.

The file is JSON with formulas in prefix notation. It names the tasks and settings of the search; a search with others
refuses to continue it.
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
from metalearn.runs.json_values import check_same_config
from metalearn_models.losses.formulas import Expr, parse, to_text
from metalearn_models.losses.search.population import LossTask

__all__ = ["Generation", "State", "Trained", "dump", "identity_of", "load"]

FORMAT = 1


class Trained(NamedTuple):
    """A loss with its errors after training.

    Attributes:
        expr: the smallest of the candidates with this table.
        fitness: mean over tasks of `errors`, arithmetic or geometric as configured; smaller is better.
        errors: error rate or mean squared error on validation examples, mean over seeds, per task at its best learning
            rate.
        rates: the best learning rate per task.
    """

    expr: Expr
    fitness: float
    errors: tuple[float, ...]
    rates: tuple[float, ...]


class Generation(NamedTuple):
    """Numbers of one generation.

    Attributes:
        rejected: number of candidates rejected by their table, by the first words of the reason.
        known: number of candidates whose table equals an earlier one, in this generation or before.
        trained: number of new candidates, which were trained.
        best: smallest fitness so far; infinity if there is none.
        seconds: wall time.
    """

    rejected: dict[str, int]
    known: int
    trained: int
    best: float
    seconds: float


class State(NamedTuple):
    """The state of a search after a generation: the content of `search.json`.

    Attributes:
        population: formulas of the newest generation.
        fitness: fitness of each of them; infinity if it was rejected.
        trained: all trained losses, by fingerprint.
        generations: numbers of each generation.
    """

    population: tuple[Expr, ...]
    fitness: tuple[float, ...]
    trained: dict[str, Trained]
    generations: tuple[Generation, ...]


def identity_of(tasks: Sequence[LossTask], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The tasks and settings of a search. A folder can be continued only if its own are equal."""
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
    """The state and the identity of a search as JSON, which writes infinity as null."""

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


def load(content: bytes, path: Path, identity: dict[str, Any]) -> State:
    """The state that `dump` wrote.

    Args:
        content: of the file.
        path: of the file, for messages.
        identity: of the search that is to continue.

    Raises:
        RunError: this is no file of a search, or it belongs to a search with another identity; names the differing
            settings.
    """

    def number(value: float | None) -> float:
        return math.inf if value is None else float(value)

    try:
        record = json.loads(content)
        if record["format"] != FORMAT:
            raise RunError(f"{path} has format {record['format']}, this metalearn writes {FORMAT}: use another folder")
        old = {part: record[part] for part in identity}
        old["config"].setdefault("largest", identity["config"].get("largest"))  # files of version 0.1 lack it
        check_same_config(old, identity, (), f"{path} belongs to another search")
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
            f"{path} is damaged, or not the file of a search ({error!r:.200}): choose another folder"
        ) from error
