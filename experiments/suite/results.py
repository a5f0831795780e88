"""The result of an experiment: what is in its result.json, and what its records come to."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.catalogue import find_module
from experiments.suite.experiment import Experiment, load
from metalearn.errors import RunError
from metalearn.runs.environment import environment
from metalearn.runs.json_values import as_json, finite_or_null
from metalearn.sweeps import Record

FORMAT = 1


def summary(experiment: Experiment, settings: Any, preset: str, found: Sequence[Record]) -> dict[str, Any]:
    """What the records of a sweep come to.

    Raises:
        RunError: not one cell was run to its end.
    """
    rows = [{**r.cell, **(r.result or {})} for r in found if r.state == "done"]
    failed = {r.name: r.error for r in found if r.state == "failed"}
    if not rows:
        reasons = list(failed.values())
        raise RunError(
            f"no cell of {experiment.name} was run to its end: {reasons[0] if reasons else 'nothing was run'}"
        )
    result = {
        "format": FORMAT,
        "experiment": experiment.name,
        "claim": experiment.claim,
        "preset": preset,
        "settings": settings,
        "environment": environment(),
        "cells": len(found),
        "failed": failed,
        "cell_seconds": round(sum(r.seconds or 0.0 for r in found), 1),
        "summary": experiment.summarise(settings, rows),
        "rows": rows,
    }
    return finite_or_null(as_json(result))


def read_result(path: Path) -> dict[str, Any]:
    """A result.json of this version.

    Raises:
        RunError: it cannot be read, or is another version's.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        got = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise RunError(
            f"{path} is of another version (format {got}, this one reads {FORMAT}): choose another folder with "
            "--out, or remove that one"
        )
    missing = [key for key in ("experiment", "settings", "summary", "rows", "failed", "seconds") if key not in content]
    if missing:
        raise RunError(f"{path} is no result of an experiment: it has no {', '.join(missing)}")
    return content


def settings_of(result: Mapping[str, Any]) -> Any:
    """The settings of a result as its experiment has them; fields that it lacks have their defaults."""
    kind = type(next(iter(load(find_module(result["experiment"])).presets.values())))

    def tuples(value: Any) -> Any:
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    known = {f.name for f in dataclasses.fields(kind)}
    return kind(**{k: tuples(v) for k, v in result["settings"].items() if k in known})


def write_result(folder: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """Write `result.json`; returns what it holds: numbers that are not finite are null in JSON."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return plain(value.tolist())
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    folder.mkdir(parents=True, exist_ok=True)
    written = plain(result)
    (folder / "result.json").write_text(json.dumps(written, indent=2, allow_nan=False))
    return written
