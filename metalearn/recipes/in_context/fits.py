"""Whether a configuration fits into this machine's memory, how large a batch would fit, and how long a sweep will take.

`metalearn.costs.memory` measures one outer step; here it is asked about a `TrainConfig`. Of many configurations only
the largest are checked: those with the most parameters and those with the largest state, each times the examples per
outer step. Both numbers are known without compiling anything.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import jax

from metalearn.costs.memory import PROBES, available_bytes, bound_bytes, check_memory, format_bytes
from metalearn.errors import NotEnoughMemoryError
from metalearn.outer import local_mesh, outer_loop
from metalearn.recipes.driving import LONG, compile_outer_loop, initial_state, time_step
from metalearn.recipes.in_context.build import load_data, prepare
from metalearn.recipes.in_context.config import TrainConfig
from metalearn.runs.folder import note_on_stderr
from metalearn.runs.progress import duration
from metalearn_tasks.datasets import Dataset

__all__ = ["announce_time", "check_fits", "check_largest", "largest"]


def check_fits(config: TrainConfig, dataset: Dataset | None = None, available: int | None = None) -> int | None:
    """Refuse a configuration whose outer step needs more memory than there is.

    Two programs with small batches are compiled, which takes some ten seconds; nothing is run. The memory of
    evaluations is not checked.

    Args:
        config: what is to be meta-trained.
        dataset: the examples, if they are at hand already; None: they are loaded.
        available: bytes that are free on each device; None: ask the devices.

    Returns:
        Bytes that a device needs for an outer step; None if the available memory is unknown.

    Raises:
        NotEnoughMemoryError: with the number of tasks that would fit.
        ValueError: from `prepare`.
    """
    dataset = dataset or load_data(config)
    recipe = prepare(config, dataset)
    mesh = local_mesh(recipe.training.estimator.batch)
    devices = 1 if mesh is None else mesh.devices.size
    data = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), recipe.data)
    if available is None:
        available = available_bytes(devices)
        if available is None:
            return None
        # The examples are on the first device by now, and are counted among the arguments of the step.
        available += sum(x.nbytes for x in jax.tree.leaves(recipe.data))
    # The small programs have the mesh and the steps per call of the whole batch.
    _, per_call = compile_outer_loop(recipe.training, config.steps)
    pairs = None if config.gradient.method == "backprop" else config.gradient.pairs

    def program(tasks: int) -> tuple[Any, tuple[Any, ...]]:
        # Only shapes are needed, not the weights of the run to begin from.
        small = prepare(dataclasses.replace(config, batch=tasks, start=None), dataset).training
        loop = outer_loop(small.estimator, small.optimizer, per_call, mesh)
        return loop.step, (jax.eval_shape(lambda: initial_state(small, loop)), data)

    def advice(largest: int) -> str:
        fewer = "fewer --sequences" if config.sequences > 1 else "shorter sequences or a smaller learner"
        return f" (--batch {largest}), or {fewer}" if largest else f": take {fewer}"

    unit = pairs or devices
    # One task per pair compiles to another kind of program than several.
    few = 2 * pairs if pairs else PROBES[0] * devices
    return check_memory(program, config.batch, available, probes=(few, 2 * few), unit=unit, advice=advice)


def check_largest(configs: Mapping[str, TrainConfig], workers: int) -> None:
    """Refuse a sweep whose largest cells do not fit, before hours are spent on the others; see `largest`.

    Cells whose memory bound already fits, see `metalearn.costs.memory.bound_bytes`, are not compiled.

    Args:
        configs: of the cells that are to be run, by name.
        workers: processes that run cells at the same time and share the memory; 0: this process.

    Raises:
        NotEnoughMemoryError: says which cell, what it needs, what there is and what would fit.
    """
    shapes = {_shape(config): name for name, config in configs.items()}  # one of several that differ in data alone
    distinct = {name: configs[name] for name in shapes.values()}
    found = _apart(workers, _misfit, distinct, max(workers, 1))
    if found is not None:
        message, numbers = found
        raise NotEnoughMemoryError(message, **numbers)


def announce_time(configs: Mapping[str, TrainConfig], workers: int, seeds: int = 1) -> None:
    """Say how long the cells of a sweep will take, if a cell has `LONG` steps or more: a step of the longest is timed.

    Args:
        configs: of the cells that are to be run, by name.
        workers: processes that run cells at the same time; 0: this process.
        seeds: for so many cells, which differ in their seeds alone, stands each of `configs`.
    """
    name, longest = max(configs.items(), key=lambda item: item[1].steps, default=("", None))
    if longest is None or longest.steps < LONG:
        return
    note_on_stderr(f"cells of up to {longest.steps:,} steps: timing one step first, which compiles it")
    seconds, cells = _apart(workers, _time, longest), seeds * len(configs)
    if seconds is None:
        return
    steps, together = seeds * sum(config.steps for config in configs.values()), max(1, min(workers, cells))
    note_on_stderr(
        f"a step of {name} takes {seconds:.2g} s: about {duration(seconds * steps / together)} for {cells} cells, "
        f"{together} at a time, if each step of each takes as long, without evaluations. No cell has begun: "
        "Ctrl-C ends it here"
    )


def _apart(workers: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a process of its own, so that no memory of an accelerator is kept from the workers."""
    if workers == 0:
        return function(*arguments)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _time(config: TrainConfig) -> float | None:
    """Seconds of an outer step; None if the cell cannot be prepared: it will fail, and say why."""
    try:
        return time_step(prepare(dataclasses.replace(config, start=None)).training)
    except ValueError:
        return None


def largest(configs: Mapping[str, TrainConfig]) -> list[str]:
    """Names of the cells with the most parameters and with the largest state, each times the examples per outer step.

    Cells that are equal in one number are ordered by the other.
    """
    datasets = {config.data: load_data(config) for config in configs.values()}
    parameters, state = {}, {}
    for name, config in configs.items():
        try:
            learner = prepare(config, datasets[config.data]).learner
        except ValueError:  # the cell itself will fail, and say why
            continue
        count = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(learner.init, jax.random.key(0))))
        examples = config.batch * config.sequences * config.family.length
        parameters[name], state[name] = count * examples, learner.state_size * examples
    orders = ((parameters, state), (state, parameters))
    found = [max(one, key=lambda n, one=one, other=other: (one[n], other[n])) for one, other in orders if one]
    return list(dict.fromkeys(found))


def _misfit(configs: Mapping[str, TrainConfig], workers: int) -> tuple[str, dict[str, int]] | None:
    """The error for the first of the largest cells that does not fit, as message and numbers; None: all fit."""
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
                f"the largest cell, {name}, needs {format_bytes(error.needed)} for an outer step of {config.batch} "
                f"tasks, {format_bytes(error.available)} are free{among}: {error.largest or 'none'} of them would fit. "
                f"Take {'fewer --workers, ' if workers > 1 else ''}smaller learners, another preset or a larger "
                "device; nothing was run"
            )
            return message, numbers
    return None


def _bound(config: TrainConfig) -> int:
    """An upper bound of the bytes that an outer step needs per device."""
    # Only shapes are needed, not the weights to begin from.
    training = prepare(dataclasses.replace(config, start=None)).training
    loop, _ = compile_outer_loop(training, config.steps)
    return bound_bytes(loop.step, jax.eval_shape(lambda: initial_state(training, loop)), training.data)


def _shape(config: TrainConfig) -> str:
    """What decides the compiled programs of a run: its configuration without seeds and numbers of tasks."""
    family = dataclasses.replace(config.family, seed=0, num_tasks=config.family.num_tasks and 1)
    return repr(dataclasses.replace(config, seed=0, start=None, family=family))
