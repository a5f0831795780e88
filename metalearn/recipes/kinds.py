"""The kinds of runs: which command began one, and what is done with it when it has ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from metalearn.errors import RunError

__all__ = ["GENERATOR", "LEARNER", "OPTIMIZER", "TABLES", "refuse_other_kinds"]

LEARNER = None
"""An in-context learner: nothing stands under `"kind"` in the configuration of its run."""
TABLES = "tables"
"""What stands there in a run of `metalearn train tables`."""
OPTIMIZER = "train-optimizer"
"""In one of `metalearn train-optimizer`."""
GENERATOR = "train-gpt"
"""In one of `metalearn train-gpt`."""


class _Kind(NamedTuple):
    command: str
    use: str


_KINDS: dict[str | None, _Kind] = {
    LEARNER: _Kind("metalearn train", "`metalearn evaluate RUN` scores it"),
    TABLES: _Kind(
        "metalearn train tables",
        "InContextClassifier(weights=RUN) predicts with it, and `python -m experiments keel --contestants "
        "in-context:RUN forest` scores it",
    ),
    OPTIMIZER: _Kind(
        "metalearn train-optimizer",
        "metalearn_models.optimizers.load(RUN) trains with it, and `python -m experiments optimizer_suite --weights "
        "RUN` scores it",
    ),
    GENERATOR: _Kind(
        "metalearn train-gpt",
        "metalearn_models.optimizers.load(RUN, prompt=LOSS, jumps=1) trains with it, and its result.json has its "
        "scores",
    ),
}


def refuse_other_kinds(values: Mapping[str, Any], wanted: str | None) -> None:
    """Refuse a run of another kind, with the command that continues it and what it is for.

    Args:
        values: the configuration of a run.
        wanted: one of the kinds of this module.

    Raises:
        RunError: the run is of another kind, or of one that this version does not know.
    """
    kind = values.get("kind")
    if kind == wanted:
        return
    if not isinstance(kind, str | None) or kind not in _KINDS:
        raise RunError(f"this version of metalearn knows no runs of kind {kind!r}: another version wrote it")
    command, use = _KINDS[kind]
    found = f"this is a run of `{command}`, not of `{_KINDS[wanted].command}`"
    raise RunError(f"{found}: {use}; `{_resume(kind)} --resume RUN` continues it")


def _resume(kind: str | None) -> str:
    return "metalearn train" if kind == TABLES else _KINDS[kind].command
