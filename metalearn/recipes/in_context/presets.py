"""Presets: configurations of meta-training by name."""

from __future__ import annotations

from typing import Any

from metalearn.recipes.gradient import GradientConfig
from metalearn.recipes.in_context.config import (
    DataConfig,
    TrainConfig,
)
from metalearn.recipes.outer_optimizer import OptimizerConfig
from metalearn_models.learners.lstm import LSTMConfig
from metalearn_models.learners.outer_lstm import OuterLSTMConfig
from metalearn_models.learners.transformer import TransformerConfig
from metalearn_tasks.families.projected import ProjectedConfig
from metalearn_tasks.families.regression import RegressionConfig
from metalearn_tasks.families.testbed import TestbedConfig

__all__ = []


def _digits() -> TrainConfig:
    return TrainConfig(
        data=DataConfig("digits", pca=16),
        family=ProjectedConfig(length=50),
        learner=TransformerConfig(width=96, layers=2, heads=4, key_size=24, token="pair", initial="matching"),
        outer_optimizer=OptimizerConfig(3e-3, warmup=100, schedule="linear", clip=1.0, b2=0.99, matrices="muon"),
        steps=1600,
        steps_per_call=50,
        evaluate_every=400,
        checkpoint_every=800,
    )


def _recurrent(learner: LSTMConfig | OuterLSTMConfig) -> TrainConfig:
    return TrainConfig(
        data=DataConfig("digits", pca=16),
        family=ProjectedConfig(length=50),
        learner=learner,
        # Adam: with Muon at the rates of the preset digits the outer-product LSTM was at chance after 100 steps.
        outer_optimizer=OptimizerConfig(3e-3, warmup=100, schedule="linear", clip=1.0, b2=0.99),
        steps=1500,
        steps_per_call=50,
        evaluate_every=500,
        checkpoint_every=500,
    )


def _mnist(source: str) -> TrainConfig:
    return TrainConfig(
        # All components: a rotation that centres every pixel. The projections have no preferred direction, so the
        # tasks are those of the plain images, less the mean image that all examples would share.
        data=DataConfig(source, size=14, pca=14 * 14),
        family=ProjectedConfig(length=100),
        learner=TransformerConfig(width=128, layers=3, heads=4, key_size=32, token="pair", initial="matching"),
        outer_optimizer=OptimizerConfig(3e-3, warmup=200, schedule="linear", clip=1.0, b2=0.99, matrices="muon"),
        batch=32,
        steps=6000,
        checkpoint_every=500,
    )


def _paper() -> TrainConfig:
    return TrainConfig(
        data=DataConfig("mnist", size=14),
        family=ProjectedConfig(length=100, num_tasks=2**25),
        learner=TransformerConfig(token="paper", compute="bfloat16", attention="fused"),
        outer_optimizer=OptimizerConfig(1e-3, eps_root=1e-8),
        batch=16,
        sequences=32,
        steps=50_000,
        evaluate_every=1000,
        checkpoint_every=1000,
    )


def _es() -> TrainConfig:
    return TrainConfig(
        data=DataConfig("iris"),
        family=ProjectedConfig(length=20),
        learner=LSTMConfig(hidden=16, token="pair"),
        outer_optimizer=OptimizerConfig(2e-2),
        gradient=GradientConfig("es"),
        batch=512,
        steps=3000,
        steps_per_call=50,
        evaluate_every=500,
        checkpoint_every=1000,
        references=("1nn", "logistic"),
    )


def _regression(kind: Any, inputs: int | None, length: int) -> TrainConfig:
    return TrainConfig(
        family=RegressionConfig(kind=kind, inputs=inputs, length=length),
        learner=TransformerConfig(width=64, layers=3, heads=4, key_size=16, token="pair"),
        outer_optimizer=OptimizerConfig(1e-3, warmup=200, schedule="cosine", clip=1.0),
        steps=3000,
    )


def _testbed() -> TrainConfig:
    return TrainConfig(
        family=TestbedConfig(length=210, repeats=0.5),
        learner=TransformerConfig(width=64, layers=3, heads=4, key_size=16, token="pair", initial="matching"),
        outer_optimizer=OptimizerConfig(2e-3, warmup=100, schedule="cosine", clip=1.0, b2=0.99),
        batch=16,
        steps=2000,
        checkpoint_every=250,
        eval_tasks=128,
        references=("1nn",),
    )


PRESETS: dict[str, tuple[str, TrainConfig]] = {
    "digits": ("the main job: projected 8x8 digits (PCA 16), a small Transformer, two CPU cores", _digits()),
    "lstm": (
        "projected digits, an LSTM of 320 units that starts by matching sums of classes",
        _recurrent(LSTMConfig(320, "pair", "matching")),
    ),
    "outer-lstm": (
        "projected digits, an outer-product LSTM of 96 x 96 that starts so, too",
        _recurrent(OuterLSTMConfig(96, 1, "pair", "matching")),
    ),
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
    "testbed": ("tasks of the neural testbed, 2 inputs, for joint predictions (Osband et al. 2022)", _testbed()),
    "tree": ("in-context decision trees, 8 inputs (Garg et al. 2022)", _regression("tree", 8, 48)),
}
