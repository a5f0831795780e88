"""The configuration of a generator's training on checkpoints, and the recommended ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from metalearn.errors import RunError
from metalearn.ranges import Count, Decay, Place, Positive, Seed, Share, Size, Steps, Within, check
from metalearn.recipes.kinds import GENERATOR, refuse_other_kinds
from metalearn.recipes.outer_optimizer import OptimizerConfig
from metalearn.zoo import ZooConfig
from metalearn_models.optimizers.gpt import GeneratorConfig, TransformerConfig

__all__ = ["FREE", "PRESETS", "TrainGPTConfig", "from_json", "to_json"]


@dataclass(frozen=True)
class TrainGPTConfig:
    """Everything that decides the numbers of a generator's training."""

    data: Annotated[str, Place()] = "digits"
    """Data set that the checkpoints' networks are trained on; `metalearn list` names all."""
    hidden: tuple[Size, ...] = (16,)
    """Widths of the network's hidden layers; may be empty."""
    rate: Positive = 0.1
    """Learning rate of SGD in the runs that are recorded."""
    examples: Size = 100
    """Examples per batch of these runs."""
    checkpoints: ZooConfig = field(default_factory=lambda: ZooConfig(runs=1152, snapshots=16))
    """How many runs are recorded, and when."""
    zoo: Annotated[str, Place()] | None = None
    """Folder of the checkpoints, which several runs can share; what is missing is recorded. None: RUN-checkpoints,
    beside the folder of the run."""
    tokens: Literal["units", "chunks"] = "units"
    """units: a token per hidden unit, of networks with one hidden layer. chunks: of any network."""
    chunk: Steps = 256
    """Numbers per chunk."""
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    """What is trained."""
    initial_share: Share = 0.5
    """Share of the pairs whose present checkpoint is the initialisation."""
    batch: Steps = 128
    """Pairs of checkpoints per step."""
    outer_optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(2e-3, warmup=50, schedule="cosine", clip=1.0, weight_decay=0.01)
    )
    """The outer optimizer."""
    average: Decay = 0.995
    """Decay of the average of the weights, which is what a run leaves."""
    steps: Steps = 2000
    """Outer steps."""
    steps_per_call: Steps = 25
    """Outer steps per dispatch to the device; results are equal up to rounding."""
    prompts: Annotated[int, Within(2, 1000)] = 20
    """Wished losses per network in an evaluation, from the best seen to 0.9 times the present one."""
    eval_runs: Size = 16
    """Networks in an evaluation, of unseen runs and of those that were trained on."""
    evaluate_every: Count = 1000
    """Outer steps between evaluations."""
    checkpoint_every: Count = 500
    """Outer steps between checkpoints of the generator."""
    seed: Seed = 0
    """The one seed of the generator; that of the checkpoints is theirs."""


FREE = ("steps_per_call", "eval_runs", "evaluate_every", "checkpoint_every", "prompts", "zoo")
"""Fields that may change on resume."""

PRESETS: dict[str, tuple[TrainGPTConfig, str]] = {
    "mlp": (
        TrainGPTConfig(generator=GeneratorConfig("flow", steps=12), initial_share=0.9, steps=2500),
        "a network 64-16-10 on digits, a token per hidden unit, by rectified flow, which did best",
    ),
    "mlp-diffusion": (
        TrainGPTConfig(generator=GeneratorConfig("diffusion"), initial_share=0.9, steps=2500),
        "the same network, by diffusion, as in the paper",
    ),
    "mlp-regression": (
        TrainGPTConfig(generator=GeneratorConfig("regression")),
        "the same network, without noise: the control, whose jump is one evaluation",
    ),
    "softmax": (
        TrainGPTConfig(
            hidden=(),
            rate=0.05,
            tokens="chunks",
            chunk=65,
            generator=GeneratorConfig("diffusion", TransformerConfig(96, 2)),
            batch=64,
            steps=3000,
        ),
        "softmax regression on digits, by diffusion: the convex case, in minutes",
    ),
}
"""Configurations by name, with a line of text."""


def to_json(config: TrainGPTConfig) -> dict[str, Any]:
    """The configuration as JSON values."""
    outer = config.outer_optimizer.to_json()
    return {"kind": GENERATOR, **dataclasses.asdict(config), "outer_optimizer": outer}


def from_json(values: Mapping[str, Any]) -> TrainGPTConfig:
    """The configuration that `to_json` wrote.

    Raises:
        RunError: another command or another version wrote it.
    """
    refuse_other_kinds(values, GENERATOR)
    try:
        fields = {name: value for name, value in values.items() if name != "kind"}
        inner = dict(fields.pop("generator"))
        generator = GeneratorConfig(network=TransformerConfig(**inner.pop("network")), **inner)
        config = TrainGPTConfig(
            hidden=tuple(fields.pop("hidden")),
            checkpoints=ZooConfig(**fields.pop("checkpoints")),
            generator=generator,
            outer_optimizer=OptimizerConfig(**fields.pop("outer_optimizer")),
            **fields,
        )
        check(config)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"the run's configuration was written by another version of metalearn: {error}") from error
    return config
