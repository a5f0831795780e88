"""Meta-trained optimizers: those shipped in the package, those in files, and those in runs.

import metalearn_models.optimizers as optimizers

tx = optimizers.load("compass", num_steps=1000, learning_rate=3e-3)  # an optax transformation; `update` needs params
state = tx.init(params)
updates, state = tx.update(grads, state, params, value=loss)
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.core import Tracer
from jax.tree_util import keystr, tree_flatten_with_path

from metalearn.errors import RunError, UnknownNameError, is_name_or_path, unknown_name
from metalearn.runs.weights import load_weights, save_weights
from metalearn_models.optimizers.contract import LearnedOptimizer
from metalearn_models.optimizers.horizon import LoadedOptimizer, watch_horizon
from metalearn_models.optimizers.registry import make, names, setting_defaults

__all__ = [
    "LoadedOptimizer",
    "TrainedOptimizer",
    "load",
    "make",
    "names",
    "read",
    "save",
    "shipped",
    "theta_from_arrays",
    "theta_to_arrays",
]

SHIPPED = Path(__file__).parent / "weights"


class TrainedOptimizer(NamedTuple):
    """A meta-trained optimizer and what is known about it.

    Attributes:
        name: of the learned optimizer, one of `names()`.
        optimizer: the learned optimizer, made with the settings it was trained with.
        theta: its meta-parameters.
        card: how it was trained, as JSON values.
    """

    name: str
    optimizer: LearnedOptimizer
    theta: Any
    card: dict[str, Any]

    @property
    def horizon(self) -> int | None:
        """Number of steps of the training runs that it was meta-trained on, or of longer ones that it was measured on.

        None: the card does not say.
        """
        meta_trained = self.card.get("config", {}).get("length")  # where runs of version 0.1 have it
        return self.card.get("measured_to", self.card.get("horizon", meta_trained))

    def describe(self) -> str:
        """One line: what it was meta-trained on and for how many steps."""
        objective = self.card.get("objective", "an unknown objective")
        if "measured_to" in self.card:
            steps = f"for {self.card.get('horizon')} steps, and measured on unseen tasks up to {self.horizon} steps"
            return f"meta-trained on {objective}, {steps}"
        horizon = "an unknown number of" if self.horizon is None else self.horizon
        return f"meta-trained on {objective}, for {horizon} steps and not beyond"


def shipped() -> tuple[str, ...]:
    """The names of the meta-trained optimizers in the package."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.safetensors")))


def load(source: str | os.PathLike[str], num_steps: int | None = None, **settings: Any) -> LoadedOptimizer:
    """A meta-trained optimizer as an optax transformation.

    A meta-trained optimizer has a horizon, the number of steps that it is known to be of use for:
    `load(source).horizon`. "compass" goes where Adam stood: `load("compass", num_steps, learning_rate=...)`. Its
    learning rate is tuned as Adam's and falls along a cosine, or is a schedule of optax. On twelve tasks that it was
    not meta-trained on it was measured up to 5000 steps, on six of them to 20,000, with one seed. The others are for
    study, and their names say what they are good for: "small-fc-digits-500" and "star-digits-500" were meta-trained on
    small networks on 8x8 digits for 500 steps, "lstm-log-digits-100" for 100. Past these, and on other data, a tuned
    Adam is better, and long runs may undo what was reached. A warning says so once, at the first step past the horizon;
    if `num_steps` is given, at once.

    A parameter whose gradient is exactly 0 from the start holds still. One whose gradient becomes exactly 0 later, such
    as a unit that dies, moves on, with `compass` for thousands of steps: use `optax.masked` for what is to stay.

    Args:
        source: as in `read`.
        num_steps: number of training steps to come. Some optimizers need it, such as `celo` and `schedule`. With it, no
            step is watched, so that the compiled program has no callback to the host; see `watch_horizon`.
        **settings: settings to change after training, where theta still fits, such as `prompt` and `jumps` of `gpt`
            or `learning_rate` of `compass`; see `setting_descriptions`.

    Returns:
        The transformation. Its `update` needs `params` and, for some optimizers, `value=loss`.

    Raises:
        UnknownNameError, FileNotFoundError, RunError: as in `read`.
        ValueError: the optimizer needs `num_steps`, or it is no whole number from 1; the learning rate is negative or
            no number; or theta does not fit the settings.
        TypeError: the optimizer has no such setting.
    """
    _check_numbers(num_steps, settings.get("learning_rate"))
    trained = read(source)
    optimizer = trained.optimizer
    if settings:
        if wrong := _name_unknown(trained.name, settings):
            raise TypeError(f"{wrong}: chain others, such as the decay of weights, with optax")
        optimizer = make(trained.name, **(_lists_to_tuples(trained.card["optimizer"]["settings"]) | settings))
    transform = optimizer.transform(trained.theta, num_steps)
    return watch_horizon(transform, os.fspath(source), trained.horizon, num_steps)


def _check_numbers(num_steps: Any, rate: Any) -> None:
    if num_steps is not None and not isinstance(num_steps, Tracer) and not (num_steps >= 1 and num_steps % 1 == 0):
        raise ValueError(f"num_steps must be a whole number from 1, got {num_steps!r}")
    if isinstance(rate, str) or (isinstance(rate, int | float) and not 0 <= rate < math.inf):
        raise ValueError(f"learning_rate must be a finite number from 0 or a schedule of optax, got {rate!r}")


def read(source: str | os.PathLike[str]) -> TrainedOptimizer:
    """A meta-trained optimizer with its meta-parameters and what is known about it.

    Args:
        source: one of `shipped()`, a file written by `save`, or the folder of a finished run of
            `metalearn train-optimizer` or `metalearn train-gpt`.

    Raises:
        UnknownNameError: the source is neither a shipped name nor an existing path.
        FileNotFoundError: the source ends in `.safetensors` and does not exist.
        RunError: the file is damaged or holds something else, or the run has not finished.
    """
    if not is_name_or_path(source):
        raise unknown_name("meta-trained optimizer", source, shipped(), or_path=True)
    path = Path(source).expanduser()
    if str(source) in shipped():
        path = SHIPPED / f"{source}.safetensors"
    elif path.is_dir():
        path = path / "theta.safetensors"
        if not path.exists():
            if not (path.parent / "config.json").exists():
                raise RunError(f"{source} is not the folder of a run: it has no config.json")
            raise RunError(f"{source} has no theta.safetensors: its run has not finished, resume it first")
    elif path.suffix != ".safetensors" and not path.is_file():
        if str(source) in names():
            kin = [name for name in shipped() if read(name).name == str(source)]
            instead = f"but {', '.join(kin)} is" if kin else f"only {', '.join(shipped())}"
            raise UnknownNameError(
                f"nothing meta-trained is shipped as {source}, {instead}: `optimizers.make({str(source)!r})` "
                f"makes it as it is before any meta-training, and `metalearn train-optimizer {source}` meta-trains it"
            )
        raise unknown_name("meta-trained optimizer", str(source), shipped(), or_path=True)
    arrays, card = load_weights(path)
    try:
        name, settings = card["optimizer"]["name"], _lists_to_tuples(card["optimizer"]["settings"])
    except (KeyError, TypeError, AttributeError) as error:
        other = {
            "learner": "; it holds a learner, for metalearn_models.learners.load",
            "table_transformer": "; it holds a Transformer for tables, for InContextClassifier(weights=...)",
        }
        found = "".join(text for key, text in other.items() if key in card)
        raise RunError(f"{path} has no learned optimizer: its metadata lacks a name or settings{found}") from error
    _check_card(path, name, settings, card)
    try:
        optimizer = make(name, **settings)
        theta = theta_from_arrays(optimizer, arrays, f"{path} ({name})")
    except ValueError as error:
        raise RunError(f"{path} holds no {name} that can be made: {error}") from error
    return TrainedOptimizer(name, optimizer, theta, card)


def save(
    path: str | os.PathLike[str], name: str, theta: Any, settings: Mapping[str, Any] = {}, card: Mapping[str, Any] = {}
) -> None:
    """Write meta-parameters to a file that `load` and `read` take.

    Args:
        path: the file, ending in `.safetensors`; its folder must exist.
        name: of the learned optimizer, one of `names()`.
        theta: its meta-parameters.
        settings: those it was made with; JSON values.
        card: anything worth knowing about theta; JSON values. `horizon` is the number of steps of the training runs
            that it was meta-trained on, see `load`; `objective` what these were.

    Raises:
        UnknownNameError: no optimizer has this name.
        RunError: theta belongs to another optimizer or to other settings, or the disk refused.
    """
    arrays = theta_to_arrays(theta)
    theta_from_arrays(make(name, **_lists_to_tuples(settings)), arrays)  # checks names and shapes
    save_weights(Path(path), arrays, {**card, "optimizer": {"name": name, "settings": dict(settings)}})


def theta_to_arrays(theta: Any) -> dict[str, Any]:
    """The arrays of theta by their place in it, such as `layers.0.weight`: the form in which files hold them."""
    return {keystr(path, simple=True, separator="."): x for path, x in tree_flatten_with_path(theta)[0]}


def theta_from_arrays(optimizer: LearnedOptimizer, arrays: Mapping[str, Any], source: str = "these weights") -> Any:
    """The theta that `theta_to_arrays` took apart.

    Args:
        optimizer: whose theta it is.
        arrays: by name.
        source: where the arrays are from, for the error message.

    Raises:
        RunError: names or shapes are not those of the optimizer's theta.
    """
    like = jax.eval_shape(optimizer.init, jax.random.key(0))
    wanted = theta_to_arrays(like)
    shapes = [{n: tuple(x.shape) for n, x in tree.items()} for tree in (wanted, arrays)]
    if shapes[0] != shapes[1]:
        differ = sorted(n for n in shapes[0].keys() | shapes[1].keys() if shapes[0].get(n) != shapes[1].get(n))
        first = differ[0]
        raise RunError(
            f"{source}: theta of another optimizer or of other settings; {len(differ)} arrays differ, the first is "
            f"{first}: expected {shapes[0].get(first, 'no such array')}, got {shapes[1].get(first, 'no such array')}"
        )
    return jax.tree.structure(like).unflatten([arrays[n] for n in wanted])


def _check_card(path: Path, name: str, settings: Mapping[str, Any], card: Mapping[str, Any]) -> None:
    """Refuse names that are none, settings of another optimizer or another type, and horizons that are none."""
    if not isinstance(name, str):
        raise RunError(f"{path}: the name of a learned optimizer must be a text, got {name!r}")
    defaults = setting_defaults(name)
    if wrong := _name_unknown(name, settings):
        raise RunError(f"{path}: {wrong}")
    for setting, value in settings.items():
        if not _is_like(defaults[setting], value):
            raise RunError(f"{path}: the setting {setting} of {name} is like {defaults[setting]!r}, got {value!r}")
    config = card.get("config", {})
    if not isinstance(config, dict):
        raise RunError(f"{path}: config must be a mapping, got {config!r}")
    for key, steps in (*((key, card.get(key)) for key in ("horizon", "measured_to")), ("length", config.get("length"))):
        if steps is not None and (not isinstance(steps, int) or isinstance(steps, bool) or steps < 1):
            raise RunError(f"{path}: {key} must be a whole number of steps from 1, got {steps!r}")


def _name_unknown(name: str, settings: Mapping[str, Any]) -> str:
    """Which settings an optimizer does not have, and those that it has; empty if it has all."""
    defaults = setting_defaults(name)
    unknown = sorted(settings.keys() - defaults.keys())
    return f"{name} has no setting {', '.join(unknown)}, only {', '.join(defaults)}" if unknown else ""


def _is_like(default: Any, value: Any) -> bool:
    """Whether a setting has the type of its default; one whose default is None has any."""
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(_is_like(default[0] if default else None, x) for x in value)
    if isinstance(default, bool | int | str):
        return type(value) is type(default)
    if isinstance(default, float):
        return type(value) in (int, float) and math.isfinite(value)
    return True


def _lists_to_tuples(settings: Mapping[str, Any]) -> dict[str, Any]:
    settings = json.loads(json.dumps(settings))
    return {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
