"""Parts of an experiment that are computed once: an interrupted run continues where it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from metalearn.runs.files import write_atomically
from metalearn.runs.json_values import as_json

__all__ = ["name_settings", "remember", "settings_of"]


def settings_of(config: Any, without: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a configuration as JSON values, but for `out` and for those that do not decide the numbers."""
    kept = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return as_json({name: value for name, value in kept.items() if name != "out" and name not in without})


def name_settings(settings: Mapping[str, Any]) -> str:
    """Eight characters that stand for settings, for the name of a file."""
    return hashlib.sha256(json.dumps(as_json(settings), sort_keys=True).encode()).hexdigest()[:8]


def remember(folder: Path, name: str, settings: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
    """What was computed under this name with these settings, read from the folder; else computed and written there.

    Results of other settings stay in the folder, each in a file of its own.

    Args:
        folder: of the experiment; the file is in its folder `cells`.
        name: of the part; letters, digits and dashes.
        settings: all that decides the result besides the name, with a hash of weights that may change in their place.
        compute: gives the result as JSON values.
    """
    path, asked = folder / "cells" / f"{name}-{name_settings(settings)}.json", as_json(settings)
    if path.exists():
        return json.loads(path.read_bytes())["result"]
    result = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"settings": asked, "result": result}).encode())
    return json.loads(path.read_bytes())["result"]
