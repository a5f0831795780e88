"""Results of a search on disk: every candidate with its scores, and what is needed to train any of them again.

A results file is JSON. It names the space, the settings from which the search is made again, the seed of the
training, and all candidates with all scores, so nothing of a search is lost and nobody has to trust its summary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from metalearn.errors import RunError
from metalearn.runs.files import write_atomically
from metalearn.runs.json_values import as_json, check_same_config, finite_or_null

__all__ = ["FORMAT", "Results", "read_results", "write_results"]

FORMAT = 1
"""The version of a results file that this code writes and reads."""


class Results(NamedTuple):
    """What a search evaluated: N candidates at K rungs.

    Attributes:
        experiment: in whose module `rebuild(settings)` makes the search again.
        settings: that decide every number, as JSON values.
        space: of the architectures, `Space.as_json()`.
        seed: of the training.
        steps: of the rungs.
        candidates: each as JSON values, such as the number of its architecture and its learning rate.
        scores: validation scores at the rungs; NaN where a candidate was not scored, infinite where it diverged.
        test: test scores of those that reached the last rung, NaN for others.
    """

    experiment: str
    settings: dict[str, Any]
    space: dict[str, Any]
    seed: int
    steps: tuple[int, ...]
    candidates: list[dict[str, Any]]
    scores: Float[np.ndarray, "K N"]
    test: Float[np.ndarray, "N"]


def _plain(scores: np.ndarray) -> Any:
    """Nested lists in which "diverged" stands for infinity, which JSON cannot hold; NaN becomes null."""
    if scores.ndim > 1:
        return [_plain(row) for row in scores]
    return ["diverged" if value == np.inf else value for value in scores.tolist()]


def _numbers(values: Any) -> np.ndarray:
    if values and isinstance(values[0], list):
        return np.stack([_numbers(row) for row in values])
    return np.array([np.nan if v is None else np.inf if v == "diverged" else v for v in values], np.float64)


def write_results(path: Path, results: Results) -> None:
    """Write a results file in one step; its folder is made."""
    content = {"format": FORMAT, **results._asdict(), "scores": _plain(results.scores), "test": _plain(results.test)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(finite_or_null(as_json(content)), allow_nan=False).encode())


def read_results(
    path: Path, settings: Mapping[str, Any] | None = None, space: Mapping[str, Any] | None = None
) -> Results:
    """Read a results file.

    Args:
        path: the file.
        settings: what its settings must be; None: anything.
        space: what its space must be; None: anything.

    Raises:
        RunError: it cannot be read, is of another version, or has other settings or another space; with what differs.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read the results {path}: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        got = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise RunError(f"{path} has the format {got}; this version reads {FORMAT}")
    if missing := [name for name in Results._fields if name not in content]:
        raise RunError(f"{path} is no results file: it lacks {', '.join(missing)}")
    if space is not None:
        check_same_config(content["space"], as_json(space), (), f"{path} holds results of another space")
    if settings is not None:
        check_same_config(content["settings"], as_json(settings), (), f"{path} holds results of other settings")
    values = {name: content[name] for name in Results._fields}
    return Results(
        **values
        | {
            "steps": tuple(content["steps"]),
            "scores": _numbers(content["scores"]),
            "test": _numbers(content["test"]),
        }
    )
