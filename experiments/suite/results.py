"""Results of experiments: the content of result.json, made of the records of a sweep, written and read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.catalogue import find_module
from experiments.suite.experiment import Experiment, load
from metalearn.errors import RunError
from metalearn.runs.environment import environment
from metalearn.runs.json_values import as_json, finite_or_null
from metalearn.sweeps import Record

__all__ = ["FORMAT", "make_result", "read_result", "read_settings", "write_result"]

FORMAT = 1
"""The version of result.json that this code writes and reads."""
_RENAMED = {"plateau": {"tasks": "batch"}}
"""Settings that earlier results have under another name, by experiment: old name -> name of today."""


def make_result(experiment: Experiment, settings: Any, preset: str, records: Sequence[Record]) -> dict[str, Any]:
    """The result of an experiment from the records of its cells, without the time that it took.

    Raises:
        RunError: no cell was run to its end.
    """
    rows = [{**r.cell, **(r.result or {})} for r in records if r.state == "done"]
    failed = {r.name: r.error for r in records if r.state == "failed"}
    if not rows:
        reason = next(iter(failed.values()), "nothing was run")
        raise RunError(f"no cell of {experiment.name} was run to its end: {reason}")
    result = {
        "format": FORMAT,
        "experiment": experiment.name,
        "claim": experiment.claim,
        "preset": preset,
        "settings": settings,
        "environment": environment(),
        "cells": len(records),
        "failed": failed,
        "cell_seconds": round(sum(r.seconds or 0.0 for r in records), 1),
        "summary": experiment.summarise(settings, rows),
        "rows": rows,
    }
    return finite_or_null(as_json(result))


def read_result(path: Path) -> dict[str, Any]:
    """The content of a result.json of this version.

    Raises:
        RunError: it cannot be read, is no result, or was written by another version.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        got = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise RunError(
            f"{path} was written by another version (format {got}, this one reads {FORMAT}): choose another folder "
            "with --out, or remove this one"
        )
    missing = [key for key in ("experiment", "settings", "summary", "rows", "failed", "seconds") if key not in content]
    if missing:
        raise RunError(f"{path} is no result of an experiment: it lacks {', '.join(missing)}")
    renamed = _RENAMED.get(content["experiment"], {})
    return {**content, "settings": {renamed.get(k, k): v for k, v in content["settings"].items()}}


def read_settings(result: Mapping[str, Any]) -> Any:
    """The settings of a result, as the dataclass of its experiment; fields that it lacks have their defaults."""
    kind = type(next(iter(load(find_module(result["experiment"])).presets.values())))

    def with_tuples(value: Any) -> Any:
        return tuple(map(with_tuples, value)) if isinstance(value, list) else value

    known = {f.name for f in dataclasses.fields(kind)}
    return kind(**{k: with_tuples(v) for k, v in result["settings"].items() if k in known})


def write_result(folder: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """Write `result.json`; returns its content, in which numbers that are not finite are None (null in JSON)."""
    folder.mkdir(parents=True, exist_ok=True)
    content = finite_or_null(as_json(result))
    (folder / "result.json").write_text(json.dumps(content, indent=2, allow_nan=False))
    return content
