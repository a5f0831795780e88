"""Does a configuration fit this machine, and how many tasks would: `metalearn.memory` for a `TrainConfig`."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from metalearn.cli.config import TrainConfig
from metalearn.cli.recipe import initial_state, load_data, outer_loop, outer_optimizer, prepare
from metalearn.memory import PROBES, available_bytes, check_memory
from metalearn.outer import local_mesh, outer
from metalearn_tasks.datasets import Dataset
from metalearn_tasks.regression import RegressionConfig


def check_fits(config: TrainConfig, dataset: Dataset | None = None, available: int | None = None) -> int | None:
    """Refuse a configuration whose outer step needs more memory than there is; evaluations are not looked at.

    Two programs with few tasks are compiled, which takes seconds, and nothing is run.

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
    if dataset is None and not isinstance(config.task, RegressionConfig):
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
    _, per_call = outer_loop(recipe, config.steps)
    pairs = None if config.gradient.method == "backprop" else config.gradient.pairs

    def program(tasks: int) -> tuple[Any, tuple[Any, ...]]:
        # Only shapes are needed, not the weights of the run to begin from.
        small = prepare(dataclasses.replace(config, tasks=tasks, start=None), dataset)
        loop = outer(small.estimator, outer_optimizer(config.optimizer, config.steps), per_call, mesh)
        return loop.step, (jax.eval_shape(lambda: initial_state(small, loop)), data)

    def advice(largest: int) -> str:
        fewer = "fewer --sequences" if config.sequences > 1 else "shorter sequences or a smaller learner"
        return f" (--tasks {largest}), or {fewer}" if largest else f": take {fewer}"

    unit = pairs or devices
    # A pair with a single task is a program of another kind than one with several.
    few = 2 * pairs if pairs else PROBES[0] * devices
    return check_memory(program, config.tasks, available, probes=(few, 2 * few), unit=unit, advice=advice)
