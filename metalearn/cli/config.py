"""The configuration of a meta-training run, its presets, and its JSON form."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from metalearn.errors import RunError
from metalearn_models.lstm import LSTMConfig
from metalearn_models.registry import learner_entry, learner_name
from metalearn_models.transformer import TransformerConfig
from metalearn_tasks.projected import ProjectedConfig
from metalearn_tasks.regression import RegressionConfig

REFERENCES = ("1nn", "centroid", "ridge", "logistic")


@dataclass(frozen=True)
class DataConfig:
    """Where the examples come from."""

    source: str = "digits"
    """A bundled set (`metalearn list`), a tensorflow-datasets name, or a folder prepared by tensorflow-datasets."""
    size: int | None = None
    """Resize images to size x size; none: leave them."""
    pca: int | None = None
    """Reduce inputs to this many principal components, fitted on the training examples; none: keep all."""
    data_dir: str | None = None
    """Where tensorflow-datasets keeps its prepared sets; none: its own default."""


@dataclass(frozen=True)
class OptimizerConfig:
    """The outer optimizer: Adam (Kingma & Ba 2015, arXiv 1412.6980) with warm-up, decay and clipping, from optax."""

    learning_rate: float = 1e-3
    """Peak learning rate."""
    warmup: int = 0
    """Outer steps of linear warm-up from 0."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: stay, or fall along a cosine to a hundredth of the peak at the last step."""
    clip: float | None = None
    """Clip the global gradient norm to this; none: do not."""
    b1: float = 0.9
    """Decay of the first moment."""
    b2: float = 0.999
    """Decay of the second moment."""
    eps: float = 1e-8
    """Adam's epsilon, outside the root."""
    eps_root: float = 0.0
    """Adam's epsilon inside the root; the paper's official code has 1e-8, which damps small gradients."""
    weight_decay: float = 0.0
    """Share of theta taken away at a step, times the learning rate, as in AdamW (Loshchilov & Hutter 2019)."""


@dataclass(frozen=True)
class GradientConfig:
    """Where meta-gradients come from: backpropagation, or evolution strategies, which need forward passes only."""

    method: Literal["backprop", "es", "nres", "pes", "truncated-es"] = "backprop"
    """Backpropagation (truncated when there is a window); evolution strategies on whole sequences, or on windows with
    noise kept for a sequence (nres), noise credited with all later losses (pes), or each window by itself."""
    sigma: float = 0.05
    """Evolution strategies: standard deviation of the perturbations of theta."""
    pairs: int | None = None
    """Evolution strategies: antithetic pairs, among which the tasks of an outer step are divided evenly; none: a pair
    a task."""
    rank: int | None = 1
    """Evolution strategies: rank of the perturbations of matrices; none: dense."""


@dataclass(frozen=True)
class CurriculumConfig:
    """Short contexts first: of each sequence only the first examples count in the loss, and more and more of them."""

    first: int = 10
    """Examples that count at the first outer step."""
    steps: int = 0
    """Outer steps over which that number grows to all examples, linearly; 0: all count from the start."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the numbers of a meta-training run."""

    data: DataConfig = field(default_factory=DataConfig)
    """Examples; unused by regression tasks, which make their own."""
    task: Any = field(default_factory=ProjectedConfig)
    """The distribution of tasks."""
    learner: Any = field(default_factory=TransformerConfig)
    """The learner; choose another with --learner NAME."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The outer optimizer."""
    tasks: int = 64
    """Tasks an outer step."""
    sequences: int = 1
    """Sequences a task."""
    gradient: GradientConfig = field(default_factory=GradientConfig)
    """Where meta-gradients come from."""
    window: int | None = None
    """An update every so many examples; none: after whole sequences."""
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    """Short contexts first."""
    steps: int = 1500
    """Outer steps."""
    steps_per_call: int = 25
    """Outer steps in one dispatch to the device; does not change the numbers."""
    start: str | None = None
    """Begin from the meta-parameters of this run's newest checkpoint, as a further phase; none: from fresh ones."""
    seed: int = 0
    """The one seed of everything random but the tasks themselves, which have task.seed."""
    evaluate_every: int = 250
    """Outer steps between evaluations on held-out examples."""
    checkpoint_every: int = 500
    """Outer steps between checkpoints."""
    eval_tasks: int = 512
    """Tasks in an evaluation."""
    eval_sequences: int = 1
    """Sequences a task in an evaluation."""
    references: tuple[str, ...] = REFERENCES
    """Reference learners in the final table and picture."""


def _digits() -> TrainConfig:
    return TrainConfig(
        data=DataConfig("digits", pca=16),
        task=ProjectedConfig(length=50),
        learner=TransformerConfig(width=96, layers=2, heads=4, key_size=24, token="pair"),
        optimizer=OptimizerConfig(3e-3, warmup=100, schedule="cosine", clip=1.0, b2=0.99),
        steps=5500,
        steps_per_call=50,
        evaluate_every=500,
        checkpoint_every=1000,
    )


def _mnist(source: str) -> TrainConfig:
    return TrainConfig(
        # All components: a rotation that centres every pixel. The projections have no preferred direction, so the
        # tasks are those of the plain images, less the mean image that all examples would share.
        data=DataConfig(source, size=14, pca=14 * 14),
        task=ProjectedConfig(length=100),
        learner=TransformerConfig(width=128, layers=3, heads=4, key_size=32, token="pair", initial="matching"),
        optimizer=OptimizerConfig(1e-3, warmup=200, schedule="cosine", clip=1.0),
        tasks=32,
        steps=12000,
        checkpoint_every=500,
    )


def _paper() -> TrainConfig:
    return TrainConfig(
        data=DataConfig("mnist", size=14),
        task=ProjectedConfig(length=100, num_tasks=2**25),
        learner=TransformerConfig(token="paper", compute="bfloat16", attention="fused"),
        optimizer=OptimizerConfig(1e-3, eps_root=1e-8),
        tasks=16,
        sequences=32,
        steps=50_000,
        evaluate_every=1000,
        checkpoint_every=1000,
    )


def _es() -> TrainConfig:
    return TrainConfig(
        data=DataConfig("iris"),
        task=ProjectedConfig(length=20),
        learner=LSTMConfig(hidden=16, token="pair"),
        optimizer=OptimizerConfig(2e-2),
        gradient=GradientConfig("es"),
        tasks=512,
        steps=3000,
        steps_per_call=50,
        evaluate_every=500,
        checkpoint_every=1000,
        references=("1nn", "logistic"),
    )


def _regression(kind: Any, inputs: int | None, length: int) -> TrainConfig:
    return TrainConfig(
        task=RegressionConfig(kind=kind, inputs=inputs, length=length),
        learner=TransformerConfig(width=64, layers=3, heads=4, key_size=16, token="pair"),
        optimizer=OptimizerConfig(1e-3, warmup=200, schedule="cosine", clip=1.0),
        steps=3000,
    )


PRESETS: dict[str, tuple[str, TrainConfig]] = {
    "digits": ("the main job: projected 8x8 digits (PCA 16), a small Transformer, two CPU cores", _digits()),
    "mnist": ("MNIST at 14x14, 99 examples then the 100th", _mnist("mnist")),
    "fashion_mnist": ("Fashion-MNIST, as mnist", _mnist("fashion_mnist")),
    "kmnist": ("Kuzushiji-MNIST, as mnist", _mnist("kmnist")),
    "cifar10": ("CIFAR-10, as mnist", _mnist("cifar10")),
    "svhn": ("street view house numbers, cropped, as mnist", _mnist("svhn_cropped")),
    "paper": ("the paper's sizes: width 256, 4 layers, 16 tasks x 32 sequences, 50,000 steps (accelerator)", _paper()),
    "es": ("a small LSTM on projected iris, by evolution strategies alone", _es()),
    "linear": ("in-context linear regression, 8 inputs (Garg et al. 2022)", _regression("linear", 8, 24)),
    "sparse": ("in-context sparse linear regression, 8 inputs", _regression("sparse", 8, 24)),
    "sinusoid": ("in-context sinusoids (Finn et al. 2017)", _regression("sinusoid", None, 24)),
    "network": ("in-context two-layer networks, 8 inputs (Garg et al. 2022)", _regression("network", 8, 48)),
    "tree": ("in-context decision trees, 8 inputs (Garg et al. 2022)", _regression("tree", 8, 48)),
}

TASKS: dict[str, type] = {"projected": ProjectedConfig, "regression": RegressionConfig}


def to_json(config: TrainConfig) -> dict[str, Any]:
    """The configuration as JSON values; learner and task carry their names."""
    values = dataclasses.asdict(config)
    task = next(name for name, cls in TASKS.items() if type(config.task) is cls)
    values["task"] = {"name": task, **values["task"]}
    values["learner"] = {"name": learner_name(config.learner), **values["learner"]}
    if not config.curriculum.steps:
        del values["curriculum"]  # so that runs from before there were curricula can be gone on with
    return values


def from_json(values: Mapping[str, Any]) -> TrainConfig:
    """The configuration that `to_json` wrote.

    Raises:
        RunError: fields are missing or unknown, as when another version wrote it.
        UnknownNameError: an unknown learner or family of tasks.
    """
    values = dict(values)
    try:
        task, learner = dict(values.pop("task")), dict(values.pop("learner"))
        learner_class = learner_entry(learner.pop("name")).config
        return TrainConfig(
            task=TASKS[task.pop("name")](**task),
            learner=learner_class(**{k: tuple(v) if isinstance(v, list) else v for k, v in learner.items()}),
            data=DataConfig(**values.pop("data")),
            optimizer=OptimizerConfig(**values.pop("optimizer")),
            gradient=GradientConfig(**values.pop("gradient", {})),
            curriculum=CurriculumConfig(**values.pop("curriculum", {})),
            references=tuple(values.pop("references")),
            **values,
        )
    except (KeyError, TypeError) as error:
        raise RunError(f"the run's configuration was written by another version of metalearn: {error}") from error


def with_learner(config: TrainConfig, name: str) -> TrainConfig:
    """The configuration with another learner in its default size.

    Raises:
        UnknownNameError: with the nearest names.
        ValueError: for a learner in which nothing is meta-learned.
    """
    entry = learner_entry(name)
    if not entry.meta_learned:
        raise ValueError(f"{name} has nothing to meta-train: it is a reference learner, shown by `metalearn evaluate`")
    if type(config.learner) is entry.config:
        return config
    return dataclasses.replace(config, learner=entry.config())
