"""The configuration of a learned optimizer's meta-training, and the recommended ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from metalearn.errors import RunError, UnknownNameError
from metalearn.ranges import (
    Count,
    Existing,
    Named,
    Place,
    Positive,
    Seed,
    Size,
    Steps,
    Within,
    check,
)
from metalearn.recipes.gradient import GradientConfig
from metalearn.recipes.kinds import OPTIMIZER, refuse_other_kinds
from metalearn.recipes.learned_optimizer.settings import settings_of
from metalearn.recipes.outer_optimizer import OptimizerConfig
from metalearn_models.optimizers.handmade.table import handmade_names
from metalearn_models.optimizers.registry import OPTIMIZERS, make
from metalearn_tasks import objectives

__all__ = [
    "RECOMMENDED",
    "TrainOptimizerConfig",
    "free_fields",
    "from_json",
    "optimizer_names",
    "recommended",
    "rename_old_fields",
    "to_json",
]

_Baseline = Annotated[str, Named("optimizer made by hand", handmade_names)]
EVERY_50_STEPS = GradientConfig("pes", window=50, sigma=0.01, rank=None)


@dataclass(frozen=True)
class _Objective:
    """The name of an objective, with any data set in it, or several joined by +; see `Rule`."""

    def allows(self, value: Any) -> bool:
        over_data = tuple(name.removesuffix("DATA") for name in objectives.names() if name.endswith("-DATA"))

        def is_known(name: str) -> bool:
            return name in objectives.names() or any(name.startswith(n) and name != n for n in over_data)

        return isinstance(value, str) and all(is_known(name) for name in value.split("+"))

    def known(self) -> list[str]:
        return list(objectives.names())

    def describe(self) -> str:
        return f"the name of an objective ({', '.join(objectives.names())}), where DATA is a data set; several: A+B"


@dataclass(frozen=True)
class TrainOptimizerConfig:
    """Everything that decides the numbers of a learned optimizer's meta-training."""

    optimizer: tyro.conf.Suppress[str] = "small-fc"
    """The learned optimizer; given as the first word."""
    settings: Any = None
    """Its own settings."""
    objective: Annotated[str, _Objective()] = "mlp-digits"
    """What is trained on; `metalearn list` names all. Several joined by +, as in mlp-digits+conv-digits, have equal
    shares of each meta-gradient."""
    rescale: tuple[Positive, Positive] | None = None
    """Express the parameters of each training run in a unit of its own, drawn log-uniformly between these two. The
    optimizer then meets learning rates that are too low or too high by such factors. None: as they are."""
    size: Size | None = None
    """Resize images to size x size; None: leave them as they are."""
    data_dir: Annotated[str, Place(), Existing("folder")] | None = None
    """Where tensorflow-datasets keeps its prepared sets; None: its own default."""
    length: Steps | None = None
    """Steps of a training run; None: the default of each objective."""
    shortest: Steps | None = None
    """Draw the length of each training run log-uniformly from this to --length; None: all runs have that length. The
    optimizer's schedule, if it has one, spans the run's own length."""
    measure: Literal["loss", "log-loss", "late-log-loss"] = "loss"
    """What meta-training minimises. loss: the mean training loss of a run. log-loss: the mean of log(loss + 1e-4), in
    which the end of a run, where losses are small, weighs as much as its beginning. late-log-loss: the same with
    weights that grow linearly from 0."""
    ceiling: Annotated[float, Within(0, 1e12, above=True)] = 20.0
    """Losses above this, and NaN or infinity, are replaced by it. Backpropagation through a run that is not finite
    still fails."""
    batch: Steps = 8
    """Training runs per outer step, side by side; antithetic pairs of them with evolution strategies."""
    gradient: GradientConfig = EVERY_50_STEPS
    """Where meta-gradients come from."""
    second_order: bool = False
    """With backprop: differentiate the gradients that the optimizer reads, too. Meta-gradients are then exact, and cost
    second derivatives of the objective; whole runs keep one state per step and compute each step again."""
    outer_optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(1e-3))
    """The outer optimizer."""
    steps: Steps = 5000
    """Outer steps."""
    steps_per_call: Steps = 50
    """Outer steps per dispatch to the device; results are equal up to rounding."""
    seed: Seed = 0
    """The one seed."""
    evaluate_every: Count = 500
    """Outer steps between evaluations on training runs of their own."""
    checkpoint_every: Count = 500
    """Outer steps between checkpoints."""
    eval_runs: Size = 16
    """Training runs in an evaluation, and for each learning rate of a baseline."""
    baselines: tuple[_Baseline, ...] = ("adam", "momentum")
    """Optimizers made by hand in the final table and picture, each with its learning rate tuned; `metalearn list` has
    all."""


NETWORK: dict[str, Any] = {
    "gradient": dataclasses.replace(EVERY_50_STEPS, method="nres"),
    "outer_optimizer": OptimizerConfig(3e-3, schedule="cosine"),
    "measure": "log-loss",
}


RECURRENT: dict[str, Any] = {
    "gradient": GradientConfig("backprop", window=20),
    "batch": 64,
    "outer_optimizer": OptimizerConfig(3e-3, schedule="cosine", clip=1.0),
    "steps": 2000,
    "ceiling": 1e6,  # a capped loss has no gradient
}


RECURRENT_ON_NETWORKS = RECURRENT | {
    "objective": "sigmoid-mlp-digits",
    "batch": 8,  # one parameter costs as much as one quadratic
    "steps": 1000,
}


CONSTANTS: dict[str, Any] = {
    "gradient": dataclasses.replace(EVERY_50_STEPS, method="nres", sigma=0.1),
    "outer_optimizer": OptimizerConfig(3e-2, schedule="cosine"),
    "steps": 1000,
}


LARGER_STEPS = {"step_size": 5e-3, "exponent": 0.1}


RECOMMENDED: dict[str, dict[str, Any]] = {
    "small-fc": NETWORK | {"settings": LARGER_STEPS},
    "star": NETWORK
    | {
        # The nominal term does what tuned Adam does. In logarithms of the loss its preconditioner, which makes steps of
        # vanishing gradients, would be driven to where it has nothing to hold on to.
        "settings": {"step_size": 1e-3, "nominal_step_size": 1e-2, "exponent": 0.1},
        "measure": "loss",
        "outer_optimizer": OptimizerConfig(3e-3, schedule="cosine", weight_decay=0.1),
        "steps": 3000,
    },
    "mlp": NETWORK | {"settings": LARGER_STEPS},
    "rnn-mlp": NETWORK | {"settings": LARGER_STEPS},
    "nn-adam": NETWORK,
    "celo": NETWORK | {"settings": {"exponent": 0.1}},
    "compass": {
        "objective": "mlp-digits+deep-mlp-digits+noisy-regression",
        "length": 150,
        "rescale": (0.3, 3.0),
        "settings": {"learning_rate": 2e-3, "orthogonalise": True},
        "measure": "late-log-loss",
        "batch": 4,  # on each of three objectives
        # Evolution strategies got nowhere in 1,000 steps on six objectives: their noise was larger than the gains.
        "gradient": GradientConfig("backprop"),
        "second_order": True,
        "outer_optimizer": OptimizerConfig(2e-2, schedule="cosine", clip=1.0),
        "steps": 300,
        "evaluate_every": 100,
        "checkpoint_every": 25,
        "steps_per_call": 5,
    },
    "lstm": RECURRENT | {"objective": "quadratic"},
    "component-rnn": RECURRENT | {"objective": "regression"},
    "lstm-log": RECURRENT_ON_NETWORKS,
    "rnnprop": RECURRENT_ON_NETWORKS,
    "dmd-lstm": RECURRENT_ON_NETWORKS,
    "learnable-sgd": CONSTANTS,
    "learnable-momentum": CONSTANTS,
    "learnable-adam": CONSTANTS,
    "schedule": CONSTANTS,
    **dict.fromkeys(handmade_names(), CONSTANTS),
}
"""What the default configuration of each learned optimizer changes in `TrainOptimizerConfig`; our choice."""


def optimizer_names() -> tuple[str, ...]:
    """The learned optimizers that can be meta-trained."""
    return tuple(OPTIMIZERS)


def recommended(name: str) -> TrainOptimizerConfig:
    """The default configuration of a learned optimizer's meta-training.

    Raises:
        UnknownNameError: no such optimizer.
    """
    make(name)
    values = dict(RECOMMENDED.get(name, {}))
    return TrainOptimizerConfig(name, settings_of(name, values.pop("settings", None)), **values)


def free_fields(config: TrainOptimizerConfig) -> tuple[str, ...]:
    """Fields that may change on resume, since they leave the numbers of the steps already done as they are."""
    free = ("steps_per_call", "data_dir", "evaluate_every", "checkpoint_every", "eval_runs", "baselines")
    return free if config.outer_optimizer.knows_the_end else ("steps", *free)


def to_json(config: TrainOptimizerConfig) -> dict[str, Any]:
    """The configuration as JSON values."""
    values = {**dataclasses.asdict(config), "gradient": config.gradient.to_json()}
    values["outer_optimizer"] = config.outer_optimizer.to_json()
    if config.rescale is None:
        del values["rescale"]  # the form of before there was such a field
    if not config.second_order:
        del values["second_order"]
    values["settings"] = dataclasses.asdict(config.settings or settings_of(config.optimizer))
    return {"kind": OPTIMIZER, **values}


def from_json(values: Mapping[str, Any]) -> TrainOptimizerConfig:
    """The configuration that `to_json` wrote.

    Raises:
        RunError: another command or another version wrote it.
    """
    refuse_other_kinds(values, OPTIMIZER)
    try:
        values = rename_old_fields(values)
        del values["kind"]
        config = TrainOptimizerConfig(
            settings=settings_of(values["optimizer"], values.pop("settings")),
            gradient=GradientConfig(**values.pop("gradient")),
            outer_optimizer=OptimizerConfig(**values.pop("outer_optimizer")),
            baselines=tuple(values.pop("baselines")),
            rescale=None if (between := values.pop("rescale", None)) is None else tuple(between),
            **values,
        )
        check(config)
    except UnknownNameError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"the run's configuration was written by another version of metalearn: {error}") from error
    return config


def rename_old_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON values of a configuration under the names of today; version 0.1 wrote outer and gradient.runs."""
    values = dict(values)
    if "outer" not in values:
        return values
    values["outer_optimizer"], gradient = values.pop("outer"), dict(values["gradient"])
    values["batch"], values["gradient"] = gradient.pop("runs"), {"pairs": None, "rank": None, **gradient}
    return values
