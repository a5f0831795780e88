"""Does a configuration fit this machine, and how many tasks would: `metalearn.costs.memory` for a `TrainConfig`.

Of many configurations only the largest are looked at, and which these are is told by two numbers that cost nothing,
times the sequences and examples of an outer step: a learner's parameters and the size of its state.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import jax

from metalearn.costs.memory import PROBES, available_bytes, bound_bytes, check_memory, in_words
from metalearn.errors import NotEnoughMemoryError
from metalearn.outer import local_mesh, outer_loop
from metalearn.recipes.in_context.build import compile_outer_loop, initial_state, load_data, prepare
from metalearn.recipes.in_context.config import TrainConfig
from metalearn.recipes.outer_optimizer import outer_optimizer
from metalearn_tasks.datasets.load import Dataset
from metalearn_tasks.families.regression import RegressionConfig


def check_fits(config: TrainConfig, dataset: Dataset | None = None, available: int | None = None) -> int | None:
    """Refuse a configuration whose outer step needs more memory than there is; evaluations are not looked at.

    Two programs with few tasks are compiled, which takes some ten seconds, and nothing is run.

    Args:
        config: what is to be meta-trained.
        dataset: the examples, when they are at hand already; loaded otherwise.
        available: bytes that are free on each device; None: ask them.

    Returns:
        Bytes that a device needs for an outer step; None where nobody knows what there is.

    Raises:
        NotEnoughMemoryError: with the number of tasks that would fit.
        ValueError: from `prepare`.
    """
    if dataset is None and not isinstance(config.family, RegressionConfig):
        dataset = load_data(config.data)
    recipe = prepare(config, dataset)
    mesh = local_mesh(recipe.estimator.batch)
    devices = 1 if mesh is None else mesh.devices.size
    data = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), recipe.data)
    if available is None:
        available = available_bytes(devices)
        if available is None:
            return None
        # The examples are on the first device by now, and are counted among the arguments of the step.
        available += sum(x.nbytes for x in jax.tree.leaves(recipe.data))
    # The mesh and the steps in a call are those of all tasks, also for the programs with few.
    _, per_call = compile_outer_loop(recipe, config.steps)
    pairs = None if config.gradient.method == "backprop" else config.gradient.pairs

    def program(tasks: int) -> tuple[Any, tuple[Any, ...]]:
        # Only shapes are needed, not the weights of the run to begin from.
        small = prepare(dataclasses.replace(config, batch=tasks, start=None), dataset)
        loop = outer_loop(small.estimator, outer_optimizer(config.outer_optimizer, config.steps), per_call, mesh)
        return loop.step, (jax.eval_shape(lambda: initial_state(small, loop)), data)

    def advice(largest: int) -> str:
        fewer = "fewer --sequences" if config.sequences > 1 else "shorter sequences or a smaller learner"
        return f" (--batch {largest}), or {fewer}" if largest else f": take {fewer}"

    unit = pairs or devices
    # A pair with a single task is a program of another kind than one with several.
    few = 2 * pairs if pairs else PROBES[0] * devices
    return check_memory(program, config.batch, available, probes=(few, 2 * few), unit=unit, advice=advice)


def check_largest(configs: Mapping[str, TrainConfig], workers: int) -> None:
    """Refuse a sweep whose largest cells do not fit, before hours are spent on the others; see `largest`.

    Cells whose memory bound already fits, see `metalearn.costs.memory.bound_bytes`, are not compiled.

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
    """Names of the cells with most parameters and with the largest state, times the examples of an outer step.

    Of several with as many of one, that with most of the other.
    """
    sources = {c.data for c in configs.values() if not isinstance(c.family, RegressionConfig)}
    datasets = {source: load_data(source) for source in sources}
    parameters, state = {}, {}
    for name, config in configs.items():
        try:
            learner = prepare(config, datasets.get(config.data)).learner
        except ValueError:  # it will fail by itself, and say why
            continue
        count = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(learner.init, jax.random.key(0))))
        examples = config.batch * config.sequences * config.family.length
        parameters[name], state[name] = count * examples, learner.state_size * examples
    orders = ((parameters, state), (state, parameters))
    found = [max(one, key=lambda n, one=one, other=other: (one[n], other[n])) for one, other in orders if one]
    return list(dict.fromkeys(found))


def _misfit(configs: Mapping[str, TrainConfig], workers: int) -> tuple[str, dict[str, int]] | None:
    """Message and numbers of the error for the first of the largest cells that does not fit."""
    free = available_bytes(jax.local_device_count())
    if free is None:
        return None
    for name in largest(configs):
        config = configs[name]
        if _bound(config) <= free // workers:
            continue
        try:
            check_fits(config, available=free // workers)
        except NotEnoughMemoryError as error:
            numbers = {"needed": error.needed, "available": error.available, "largest": error.largest}
            among = f" for each of {workers} workers" if workers > 1 else ""
            message = (
                f"the largest cell, {name}, needs {in_words(error.needed)} for an outer step of {config.batch} tasks, "
                f"{in_words(error.available)} are free{among}: {error.largest or 'none'} of them would fit. Take "
                f"{'fewer --workers, ' if workers > 1 else ''}smaller learners, another preset or a larger device; "
                "nothing was run"
            )
            return message, numbers
    return None


def _bound(config: TrainConfig) -> int:
    """Bytes that an outer step needs at most on a device, and in all outside of what is split over them."""
    recipe = prepare(dataclasses.replace(config, start=None))  # only shapes are needed, not the weights to begin from
    loop, _ = compile_outer_loop(recipe, config.steps)
    return bound_bytes(loop.step, jax.eval_shape(lambda: initial_state(recipe, loop)), recipe.data)


def _shape(config: TrainConfig) -> str:
    """What decides the programs of a run, as far as seeds and numbers of tasks do not."""
    task = dataclasses.replace(config.family, seed=0, num_tasks=config.family.num_tasks and 1)
    return repr(dataclasses.replace(config, seed=0, start=None, family=task))
