"""Learned optimizers by name, and meta-trained ones to take home.

import metalearn_models.optimizers as optimizers

tx = optimizers.load("small-fc")  # an optax transformation; `update` needs params
state = tx.init(params)
updates, state = tx.update(grads, state, params, value=loss)
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import keystr, tree_flatten_with_path

from metalearn.errors import RunError, unknown_name
from metalearn.runs.weights import load_weights, save_weights
from metalearn_models.optimizers.contract import LearnedOptimizer
from metalearn_models.optimizers.learned.celo import celo
from metalearn_models.optimizers.learned.component_rnn import component_rnn
from metalearn_models.optimizers.learned.dmd import dmd_lstm
from metalearn_models.optimizers.learned.lstm import log_and_sign, lstm_optimizer
from metalearn_models.optimizers.learned.mlp import mlp_optimizer
from metalearn_models.optimizers.learned.nn_adam import nn_adam
from metalearn_models.optimizers.learned.rnn_mlp import rnn_mlp
from metalearn_models.optimizers.learned.rnnprop import rnnprop
from metalearn_models.optimizers.learned.small_fc import small_fc
from metalearn_models.optimizers.learned.star import star
from metalearn_models.optimizers.learned.tuned import learnable_adam, learnable_momentum, learnable_sgd, scheduled

SHIPPED = Path(__file__).parent / "weights"


class Entry(NamedTuple):
    """A named learned optimizer: its factory, whose arguments are its settings, and a line for people."""

    make: Callable[..., LearnedOptimizer]
    description: str


def scheduled_adam(knots: int = 5, learning_rate: float = 1e-3) -> LearnedOptimizer:
    """`scheduled` around Adam's direction, with a root that has a derivative where gradients are 0."""
    return scheduled(optax.scale_by_adam(eps_root=1e-16), knots, learning_rate)


OPTIMIZERS: dict[str, Entry] = {
    "small-fc": Entry(small_fc, "39 features of a parameter into a network of 197 weights (Metz et al. 2022)"),
    "star": Entry(star, "small-fc with a nominal term and a preconditioner, for stability (Harrison et al. 2022)"),
    "mlp": Entry(mlp_optimizer, "a wider network on gradient, parameter and six momenta (Metz et al. 2022)"),
    "nn-adam": Entry(nn_adam, "an LSTM a tensor steers the hyper-parameters of Adam (Metz et al. 2022)"),
    "rnn-mlp": Entry(rnn_mlp, "an LSTM a tensor above a network a parameter (Metz et al. 2020)"),
    "lstm": Entry(lstm_optimizer, "an LSTM a parameter reads its gradient (Andrychowicz et al. 2016)"),
    "lstm-log": Entry(
        partial(lstm_optimizer, output_scale=0.01, preprocess=log_and_sign()),
        "the same, reading logarithm and sign, for networks",
    ),
    "rnnprop": Entry(rnnprop, "an LSTM a parameter reads what Adam and RMSProp would do (Lv et al. 2017)"),
    "component-rnn": Entry(component_rnn, "a GRU a parameter, made to be analysed (Maheswaranathan et al. 2020)"),
    "dmd-lstm": Entry(dmd_lstm, "lstm-log with predictions by dynamic mode decomposition (Simanek et al. 2022)"),
    "celo": Entry(celo, "a small rule under an LSTM schedule (Moudgil et al. 2025)"),
    "learnable-sgd": Entry(learnable_sgd, "SGD whose learning rate is learned"),
    "learnable-momentum": Entry(learnable_momentum, "SGD with momentum, both constants learned"),
    "learnable-adam": Entry(learnable_adam, "Adam, its four constants learned"),
    "schedule": Entry(scheduled_adam, "Adam, a schedule of its learning rate learned"),
}


class Pretrained(NamedTuple):
    """A meta-trained optimizer.

    Attributes:
        name: of the learned optimizer, one of `OPTIMIZERS`.
        optimizer: the learned optimizer.
        theta: its meta-parameters.
        card: what is known about them, JSON values.
    """

    name: str
    optimizer: LearnedOptimizer
    theta: Any
    card: dict[str, Any]


def make(name: str, **settings: Any) -> LearnedOptimizer:
    """The learned optimizer of that name.

    Args:
        name: one of `OPTIMIZERS`.
        settings: arguments of its factory.

    Returns:
        The optimizer. Its `transform` raises ValueError for the theta of another one, or of other settings.

    Raises:
        UnknownNameError: with the nearest names.
        TypeError: the factory has no such argument.
    """
    if name not in OPTIMIZERS:
        raise unknown_name("learned optimizer", name, OPTIMIZERS)
    optimizer = OPTIMIZERS[name].make(**settings)

    def transform(theta: Any, num_steps: Any = None) -> optax.GradientTransformationExtraArgs:
        wanted = jax.eval_shape(optimizer.init, jax.random.key(0))
        structures = jax.tree.structure(theta), jax.tree.structure(wanted)
        shapes = [[jnp.shape(x) for x in jax.tree.leaves(tree)] for tree in (theta, wanted)]
        if structures[0] != structures[1] or shapes[0] != shapes[1]:
            raise ValueError(
                f"{name} with these settings has a theta of the form {_form(wanted)}, got {_form(theta)}: that of "
                "another optimizer or of other settings"
            )
        return optimizer.transform(theta, num_steps)

    return LearnedOptimizer(optimizer.init, transform)


def shipped() -> tuple[str, ...]:
    """The names of the meta-trained optimizers in the package."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.safetensors")))


def load(source: str | os.PathLike[str], num_steps: int | None = None) -> optax.GradientTransformationExtraArgs:
    """A meta-trained optimizer as an optax transformation.

    Args:
        source: see `pretrained`.
        num_steps: length of the training to come, for the optimizers that plan by it.

    Returns:
        Its `update` needs `params` and, with some optimizers, `value=loss`.

    Raises:
        UnknownNameError, FileNotFoundError, RunError: see `pretrained`.
        ValueError: the optimizer needs `num_steps`.
    """
    found = pretrained(source)
    return found.optimizer.transform(found.theta, num_steps)


def pretrained(source: str | os.PathLike[str]) -> Pretrained:
    """A meta-trained optimizer with all that is known about it.

    Args:
        source: one of `shipped()`, a file that `save` wrote, or the folder of a run of `metalearn train-optimizer` that
            has ended.

    Raises:
        UnknownNameError: no such name is shipped, and no such path exists.
        FileNotFoundError: a path ending in `.safetensors` that does not exist.
        RunError: the file is damaged or holds something else; or the run has not ended.
    """
    path = Path(source)
    if str(source) in shipped():
        path = SHIPPED / f"{source}.safetensors"
    elif path.is_dir():
        path = path / "theta.safetensors"
        if not path.exists():
            raise RunError(f"{source} holds no theta.safetensors: its run has not ended, resume it first")
    elif path.suffix != ".safetensors" and not path.is_file():
        raise unknown_name("meta-trained optimizer (and no such path exists)", str(source), shipped())
    arrays, card = load_weights(path)
    try:
        name, settings = card["optimizer"]["name"], _tuples(card["optimizer"]["settings"])
    except (KeyError, TypeError) as error:
        raise RunError(f"{path} holds no learned optimizer: its metadata has no name and settings of one") from error
    optimizer = make(name, **settings)
    return Pretrained(name, optimizer, unnamed(optimizer, arrays, f"{path} ({name})"), card)


def save(
    path: str | os.PathLike[str], name: str, theta: Any, settings: Mapping[str, Any] = {}, card: Mapping[str, Any] = {}
) -> None:
    """Write meta-parameters to a file that `load` reads.

    Args:
        path: the file, ending in `.safetensors`; its folder must exist.
        name: of the learned optimizer, one of `OPTIMIZERS`.
        theta: its meta-parameters.
        settings: arguments its factory was given, JSON values.
        card: what else is to be known about them, JSON values.

    Raises:
        RunError: theta is not that optimizer's, or the disk refused.
    """
    optimizer = make(name, **settings)
    arrays = named(theta)
    unnamed(optimizer, arrays, name)  # refuses what could not be loaded again
    save_weights(Path(path), arrays, {**card, "optimizer": {"name": name, "settings": dict(settings)}})


def named(theta: Any) -> dict[str, Any]:
    """The arrays of theta by their place in it: a form for files, in which a NamedTuple has no place."""
    return {keystr(path, simple=True, separator="."): x for path, x in tree_flatten_with_path(theta)[0]}


def unnamed(optimizer: LearnedOptimizer, arrays: Mapping[str, Any], source: str = "these weights") -> Any:
    """The theta of `optimizer` from its arrays by name.

    Raises:
        RunError: names or shapes are those of another optimizer.
    """
    like = jax.eval_shape(optimizer.init, jax.random.key(0))
    wanted, have = named(like), dict(arrays)
    shapes = [{n: tuple(x.shape) for n, x in tree.items()} for tree in (wanted, have)]
    if shapes[0] != shapes[1]:
        differ = sorted(n for n in shapes[0].keys() | shapes[1].keys() if shapes[0].get(n) != shapes[1].get(n))
        first = differ[0]
        raise RunError(
            f"{source}: theta of another optimizer or of other settings, {len(differ)} arrays differ; {first} should "
            f"have the shape {shapes[0].get(first, 'of none')} and has {shapes[1].get(first, 'none')}"
        )
    return jax.tree.structure(like).unflatten([have[n] for n in wanted])


def _form(theta: Any) -> str:
    shapes = {n: list(jnp.shape(x)) for n, x in named(theta).items()}
    return f"{type(theta).__name__}({', '.join(f'{n} {shape}' for n, shape in shapes.items())})"


def _tuples(settings: Mapping[str, Any]) -> dict[str, Any]:
    settings = json.loads(json.dumps(settings))
    return {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
