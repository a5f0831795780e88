"""Does the largest meta-training of an experiment fit this machine? Asked before hours are spent on the others.

Which one is the largest is told by two numbers that cost nothing, times the sequences and examples of an outer step: a
learner's parameters and the size of its state. For the largest by either, `metalearn.cli.fits` compiles two small
programs, which takes some ten seconds, and predicts what the whole batch needs.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor

import jax

from metalearn.cli.config import TrainConfig
from metalearn.cli.fits import check_fits
from metalearn.cli.recipe import load_data, prepare
from metalearn.errors import NotEnoughMemoryError
from metalearn.memory import available_bytes, in_words
from metalearn_tasks.regression import RegressionConfig


def check_largest(configs: Mapping[str, TrainConfig], workers: int) -> None:
    """Refuse an experiment whose largest cell does not fit.

    Args:
        configs: of the cells that are to be run, by name.
        workers: processes that run cells at the same time, which share the memory; 0: this process.

    Raises:
        NotEnoughMemoryError: says which cell, what it needs, what there is and what would fit.
    """
    shapes = {_shape(config): name for name, config in configs.items()}  # one of those that differ in data alone
    distinct = {name: configs[name] for name in shapes.values()}
    if workers == 0:
        found = _misfit(distinct, 1)
    else:  # a process of its own, that keeps no memory of an accelerator from the workers
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            found = pool.submit(_misfit, distinct, workers).result()
    if found is not None:
        message, numbers = found
        raise NotEnoughMemoryError(message, **numbers)


def largest(configs: Mapping[str, TrainConfig]) -> list[str]:
    """Names of the cells with most parameters and with the largest state, times the examples of an outer step."""
    datasets = {c.data: load_data(c.data) for c in configs.values() if not isinstance(c.task, RegressionConfig)}
    parameters, state = {}, {}
    for name, config in configs.items():
        learner = prepare(config, datasets.get(config.data)).learner
        count = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(learner.init, jax.random.key(0))))
        examples = config.tasks * config.sequences * config.task.length
        parameters[name], state[name] = count * examples, learner.state_size * examples
    measures = [measure for measure in (parameters, state) if any(measure.values())]
    return list(dict.fromkeys(max(measure, key=measure.__getitem__) for measure in measures))


def _misfit(configs: Mapping[str, TrainConfig], workers: int) -> tuple[str, dict[str, int]] | None:
    """Message and numbers of the error for the first of the largest cells that does not fit."""
    free = available_bytes(jax.local_device_count())
    if free is None:
        return None
    for name in largest(configs):
        config = configs[name]
        try:
            check_fits(config, available=free // workers)
        except NotEnoughMemoryError as error:
            numbers = {"needed": error.needed, "available": error.available, "largest": error.largest}
            among = f" for each of {workers} workers" if workers > 1 else ""
            message = (
                f"the largest cell, {name}, needs {in_words(error.needed)} for an outer step of {config.tasks} tasks, "
                f"{in_words(error.available)} are free{among}: {error.largest or 'none'} of them would fit. Take "
                f"{'fewer --workers, ' if workers > 1 else ''}smaller learners, another preset or a larger device; "
                "nothing was run"
            )
            return message, numbers
    return None


def _shape(config: TrainConfig) -> str:
    """What decides the programs of a run, as far as seeds and numbers of tasks do not."""
    task = dataclasses.replace(config.task, seed=0, num_tasks=config.task.num_tasks and 1)
    return repr(dataclasses.replace(config, seed=0, start=None, task=task))
