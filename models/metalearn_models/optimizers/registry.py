"""Every learned optimizer by name: the function that makes it, one line that describes it, and its settings.

Optimizers made by hand (`handmade/table.py`) are among them: their meta-parameters are their constants.

A setting is an argument of that function. `setting_descriptions` reads what each means from the function's docstring,
which is where the help of `metalearn train-optimizer NAME --settings.*` comes from.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import keystr, tree_flatten_with_path

from metalearn.errors import unknown_name
from metalearn_models.optimizers.contract import LearnedOptimizer
from metalearn_models.optimizers.gpt.jumping import gpt_optimizer
from metalearn_models.optimizers.handmade.table import HANDMADE
from metalearn_models.optimizers.learned.celo import celo
from metalearn_models.optimizers.learned.compass import compass
from metalearn_models.optimizers.learned.component_rnn import component_rnn
from metalearn_models.optimizers.learned.dmd import dmd_lstm
from metalearn_models.optimizers.learned.learnable import learnable_adam, learnable_momentum, learnable_sgd
from metalearn_models.optimizers.learned.lstm import log_and_sign, lstm_optimizer
from metalearn_models.optimizers.learned.mlp import mlp_optimizer
from metalearn_models.optimizers.learned.nn_adam import nn_adam
from metalearn_models.optimizers.learned.rnn_mlp import rnn_mlp
from metalearn_models.optimizers.learned.rnnprop import rnnprop
from metalearn_models.optimizers.learned.schedule import learnable_adam_schedule
from metalearn_models.optimizers.learned.small_fc import small_fc
from metalearn_models.optimizers.learned.star import star

__all__ = ["GENERATORS", "OPTIMIZERS", "OptimizerEntry", "make", "names", "setting_defaults", "setting_descriptions"]


class OptimizerEntry(NamedTuple):
    """One row of the table of learned optimizers.

    Attributes:
        make: makes the optimizer; its arguments are the optimizer's settings.
        description: one line for `metalearn list`.
    """

    make: Callable[..., LearnedOptimizer]
    description: str


OPTIMIZERS: dict[str, OptimizerEntry] = {
    "small-fc": OptimizerEntry(small_fc, "39 features per parameter, a network of 197 weights (Metz et al. 2022)"),
    "star": OptimizerEntry(
        star, "small-fc with a nominal term and a preconditioner, for stability (Harrison et al. 2022)"
    ),
    "mlp": OptimizerEntry(mlp_optimizer, "a wider network on gradient, parameter and six momenta (Metz et al. 2022)"),
    "nn-adam": OptimizerEntry(nn_adam, "one LSTM per tensor steers the hyper-parameters of Adam (Metz et al. 2022)"),
    "rnn-mlp": OptimizerEntry(rnn_mlp, "one LSTM per tensor above one network per parameter (Metz et al. 2020)"),
    "lstm": OptimizerEntry(lstm_optimizer, "one LSTM per parameter reads its gradient (Andrychowicz et al. 2016)"),
    "lstm-log": OptimizerEntry(
        partial(lstm_optimizer, output_scale=0.01, preprocess=log_and_sign()),
        "lstm that reads the logarithm and the sign of the gradient, for training networks",
    ),
    "rnnprop": OptimizerEntry(rnnprop, "one LSTM per parameter reads the steps of Adam and RMSProp (Lv et al. 2017)"),
    "component-rnn": OptimizerEntry(
        component_rnn, "one GRU per parameter, made to be analysed (Maheswaranathan et al. 2020)"
    ),
    "dmd-lstm": OptimizerEntry(
        dmd_lstm, "lstm-log with predictions by dynamic mode decomposition (Simanek et al. 2022)"
    ),
    "celo": OptimizerEntry(celo, "a small rule under an LSTM schedule (Moudgil et al. 2025)"),
    "compass": OptimizerEntry(compass, "125 weights give the direction of a step, you its length (after Celo2, 2026)"),
    "learnable-sgd": OptimizerEntry(learnable_sgd, "SGD with a learned learning rate"),
    "learnable-momentum": OptimizerEntry(learnable_momentum, "SGD with momentum; both constants are learned"),
    "learnable-adam": OptimizerEntry(learnable_adam, "Adam; its four constants are learned"),
    "schedule": OptimizerEntry(learnable_adam_schedule, "Adam with a learned learning-rate schedule"),
    **{
        name: OptimizerEntry(entry.learnable, f"{entry.description} ({entry.paper})")
        for name, entry in HANDMADE.items()
    },
}
"""All learned optimizers by name; those made by hand, whose constants are learned, come last."""


GENERATORS: dict[str, OptimizerEntry] = {
    "gpt": OptimizerEntry(
        gpt_optimizer, "jumps to parameters of a wished loss, learned from checkpoints (Peebles et al. 2022)"
    ),
}
"""Optimizers for one network each, learned from its checkpoints by `metalearn train-gpt`; `make` knows them too."""


def names() -> tuple[str, ...]:
    """The names of the learned optimizers that take any parameters, in the order of the table."""
    return tuple(OPTIMIZERS)


def make(name: str, **settings: Any) -> LearnedOptimizer:
    """A learned optimizer by name, with fresh meta-parameters to train.

    Args:
        name: one of `names()`, or of `GENERATORS`.
        **settings: arguments of the optimizer's factory; `setting_descriptions(name)` lists the plain ones.

    Returns:
        The optimizer. Its `transform` raises ValueError if theta belongs to another optimizer or to other settings.

    Raises:
        UnknownNameError: no optimizer has this name; the message lists the nearest names.
        TypeError: the optimizer has no such setting.
    """
    optimizer = _entry(name).make(**settings)

    def transform(theta: Any, num_steps: Any = None) -> optax.GradientTransformationExtraArgs:
        wanted = jax.eval_shape(optimizer.init, jax.random.key(0))
        structures = jax.tree.structure(theta), jax.tree.structure(wanted)
        shapes = [[jnp.shape(x) for x in jax.tree.leaves(tree)] for tree in (theta, wanted)]
        if structures[0] != structures[1] or shapes[0] != shapes[1]:
            raise ValueError(
                f"{name} with these settings has a theta of the form {_format(wanted)}, got {_format(theta)}, which "
                "belongs to another optimizer or to other settings"
            )
        return optimizer.transform(jax.tree.map(jnp.asarray, theta), num_steps)  # weights of a file are NumPy arrays

    return optimizer._replace(transform=transform)


def setting_defaults(name: str) -> dict[str, Any]:
    """The arguments of an optimizer's factory and their defaults; None for those without.

    Raises:
        UnknownNameError: no optimizer has this name.
    """
    parameters = inspect.signature(_entry(name).make).parameters.values()
    return {p.name: None if p.default is p.empty else p.default for p in parameters}


def setting_descriptions(name: str) -> dict[str, str]:
    """What each argument of an optimizer's factory means, from the "Args" section of its docstring.

    Args:
        name: one of `names()`.

    Returns:
        One line per documented argument, by the argument's name.

    Raises:
        UnknownNameError: no optimizer has this name.
    """
    factory = _entry(name).make
    doc = inspect.getdoc(factory.func if isinstance(factory, partial) else factory) or ""
    section = re.search(r"^Args:\n((?:    .*\n?|\n)*)", doc, re.MULTILINE)
    # An argument starts at four spaces; its further lines are indented deeper.
    entries = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", section[1] if section else "", re.MULTILINE)
    return {argument: " ".join((text[:1].upper() + text[1:]).split()) for argument, text in entries}


def _entry(name: str) -> OptimizerEntry:
    entries = OPTIMIZERS | GENERATORS
    if not isinstance(name, str) or name not in entries:
        raise unknown_name("learned optimizer", name, entries)
    return entries[name]


def _format(theta: Any) -> str:
    leaves = tree_flatten_with_path(theta)[0]
    shapes = (f"{keystr(path, simple=True, separator='.')} {list(jnp.shape(x))}" for path, x in leaves)
    return f"{type(theta).__name__}({', '.join(shapes)})"
