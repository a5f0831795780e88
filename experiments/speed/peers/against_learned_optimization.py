"""PES of google/learned_optimization (Metz et al. 2022, arXiv 2203.11860) and ours on the same problem, to be timed.

Both meta-train the same two optimizers on the same network, batch size, window and number of particles. The peer gets
its batches from memory, already stacked, so that only its computation is timed; ours draws them inside the step.

The package is not on PyPI in a version for today's JAX. Clone the repository and put it on PYTHONPATH; it needs chex,
dm-haiku and gin-config. It also imports TensorFlow and its data sets, which nothing here uses: while it is imported,
empty modules stand in for them.
"""

from __future__ import annotations

import importlib
import sys
import time
from importlib.machinery import ModuleSpec
from typing import Any
from unittest.mock import MagicMock

import jax
import jax.numpy as jnp
import optax

from experiments.speed._timed_cases import Case, outer_case
from metalearn.gradients import pes
from metalearn_models.optimizers import mlp_optimizer, small_fc
from metalearn_tasks.datasets import Split, load
from metalearn_tasks.objectives.classification import mlp_classification
from metalearn_tasks.objectives.training import training_loop

__all__ = ["OURS", "against_learned_optimization", "our_case", "peer_cases"]

WIDTHS, BATCH = (64, 32, 10), 64
LENGTH, WINDOW, PAIRS, SIGMA = 1000, 50, 16, 0.01
OURS = {"MLP": mlp_optimizer, "small_fc": small_fc}
UNUSED = ("tensorflow", "tensorflow_datasets", "tensorflow_probability", "oryx")


class _EmptyModules:
    """An import hook that makes an empty module of every name in `UNUSED`."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] in UNUSED else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> Any:
        module = MagicMock(name=spec.name)
        module.__path__, module.__name__ = [], spec.name
        return module

    def exec_module(self, module: Any) -> None:
        """Nothing is in it."""


def peer_case(name: str, optimizer: Any, data: Any) -> Case:
    """PES of the peer with its Adam step, each compiled as the peer does it."""
    gradient_learner, lopt_truncated_step, truncated_pes, truncation_schedule = (
        importlib.import_module(f"learned_optimization.outer_trainers.{part}")
        for part in ("gradient_learner", "lopt_truncated_step", "truncated_pes", "truncation_schedule")
    )
    began = time.process_time()
    schedule = truncation_schedule.ConstantTruncationSchedule(LENGTH)
    step = lopt_truncated_step.VectorizedLOptTruncatedStep(
        _peer_family(data), optimizer, schedule, PAIRS, random_initial_iteration_offset=LENGTH
    )
    estimator = truncated_pes.TruncatedPES(step, WINDOW, SIGMA, steps_per_jit=WINDOW)
    theta = optimizer.init(jax.random.PRNGKey(0))
    adam = optax.adam(1e-3)
    outer = gradient_learner.OuterState(jnp.asarray(1))
    batches = [jax.tree.map(jnp.asarray, chunk) for chunk in estimator.get_datas()]

    def weights(theta: Any) -> Any:
        return gradient_learner.WorkerWeights(theta, None, outer)

    @jax.jit
    def update(theta: Any, state: Any, gradient: Any) -> Any:
        updates, state = adam.update(gradient, state, theta)
        return optax.apply_updates(theta, updates), state

    held: list[Any] = [theta, adam.init(theta), estimator.init_worker_state(weights(theta), jax.random.PRNGKey(1)), 0]

    def advance() -> None:
        theta, state, worker, count = held
        key = jax.random.PRNGKey(count)
        out, _ = estimator.compute_gradient_estimate(weights(theta), key, worker, datas_list=batches)
        held[0], held[1] = update(theta, state, out.grad)
        held[2], held[3] = out.unroll_state, count + 1
        jax.block_until_ready(held[0])

    advance()
    return Case(name, advance, PAIRS * 2.0 * WINDOW, time.process_time() - began)


def _peer_family(data: Any) -> Any:
    """Our network and data as a task family of the peer."""
    base = importlib.import_module("learned_optimization.tasks.base")
    datasets = importlib.import_module("learned_optimization.tasks.datasets.base")
    objective = mlp_classification(*WIDTHS, batch=BATCH)
    xs, ys = (jax.device_get(part) for part in data)

    def batches() -> Any:
        start = 0
        while True:
            chosen = [(start + i) % len(xs) for i in range(BATCH)]
            start += BATCH
            yield {"image": xs[chosen], "label": ys[chosen]}

    class Network(base.Task):
        def __init__(self) -> None:
            self.datasets = datasets.Datasets(*(batches() for _ in range(4)))

        def init(self, key: Any) -> Any:
            return objective.init((), key)

        def loss(self, params: Any, key: Any, batch: Any) -> Any:
            return objective.loss((), params, Split(batch["image"], batch["label"]))

    return base.single_task_to_family(Network())


def against_learned_optimization() -> list[tuple[str, list[Case]]]:
    """The comparison of PES on two learned optimizers with the peer's.

    Raises:
        ModuleNotFoundError: the peer, or a package that it needs, is not there.
    """
    return [
        (f"PES, {name}, against the peer", [our_case(name), peer]) for name, peer in peer_cases(tuple(OURS)).items()
    ]


def our_case(name: str) -> Case:
    """PES of ours with a learned optimizer, one of `OURS`."""
    optimizer, data = OURS[name](), load("digits").train
    loop = training_loop(mlp_classification(*WIDTHS, batch=BATCH), optimizer, LENGTH)
    estimator = pes(loop, SIGMA, PAIRS, WINDOW, stagger=True)
    return outer_case("metalearn", estimator, optimizer.init(jax.random.key(0)), data, PAIRS * 2.0 * WINDOW, 1)


def peer_cases(names: tuple[str, ...]) -> dict[str, Case]:
    """PES of the peer with its learned optimizers of these names of `OURS`.

    Raises:
        ModuleNotFoundError: the peer, or a package that it needs, is not there.
    """
    stand_in = _EmptyModules()
    sys.meta_path.insert(0, stand_in)
    try:
        mlp_lopt = importlib.import_module("learned_optimization.learned_optimizers.mlp_lopt")
        adafac_mlp_lopt = importlib.import_module("learned_optimization.learned_optimizers.adafac_mlp_lopt")
        for part in ("gradient_learner", "lopt_truncated_step", "truncated_pes", "truncation_schedule"):
            importlib.import_module(f"learned_optimization.outer_trainers.{part}")
    finally:
        sys.meta_path.remove(stand_in)
        for name in [name for name, module in sys.modules.items() if isinstance(module, MagicMock)]:
            del sys.modules[name]  # other packages, such as einops, look here whether TensorFlow is in use

    theirs = {"MLP": mlp_lopt.MLPLOpt(compute_summary=False), "small_fc": adafac_mlp_lopt.AdafacMLPLOpt()}
    return {name: peer_case("google/learned_optimization", theirs[name], load("digits").train) for name in names}
