"""A halving in a folder: its checkpoints hold the states of all candidates and the scores of all rungs.

The folder is that of a run (`metalearn.runs`). A search that is killed continues from its last checkpoint and ends with
the bits of one that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxtyping import PRNGKeyArray

from metalearn.runs.checkpoints import restore_checkpoint, save_checkpoint
from metalearn.runs.folder import create_run, resume_run
from metalearn.runs.lock import only_writer
from metalearn.search.population import Search
from metalearn.search.successive_halving import HalvingState, Rungs, begin_halving, successive_halving

__all__ = ["search_in_folder"]


def search_in_folder(
    folder: Path,
    config: Mapping[str, Any],
    search: Search,
    thetas: Any,
    data: Any,
    key: PRNGKeyArray,
    rungs: Rungs,
    *,
    every: int | None = None,
    chunk: int = 64,
    saved: Callable[[HalvingState], None] = lambda state: None,
) -> HalvingState:
    """Begin a search, or continue the one in the folder.

    Args:
        folder: of the search.
        config: what decides the candidates and their training, as JSON values; compared with what is in the folder.
        search: what is searched.
        thetas: N candidates.
        data: passed on to the loop and the score.
        key: of the trajectories.
        rungs: the plan; kept with the configuration.
        every: steps between two checkpoints; None: at the rungs.
        chunk: see `metalearn.search.population.train_members`.
        saved: called after each checkpoint.

    Returns:
        The final state, as of `successive_halving`.

    Raises:
        RunError: the folder holds another search, such as that of another space, or is written by another process.
    """
    values = {**config, "rungs": rungs._asdict()}
    begun = (folder / "config.json").exists()
    run = resume_run(folder, values, free=()) if begun else create_run(folder, values, free=())

    def keep(state: HalvingState) -> None:
        save_checkpoint(run, int(state.step), state)
        saved(state)

    with only_writer(folder):
        state = restore_checkpoint(run, begin_halving(search, thetas, data, key, rungs))
        return successive_halving(search, thetas, data, key, rungs, chunk=chunk, state=state, every=every, saved=keep)
