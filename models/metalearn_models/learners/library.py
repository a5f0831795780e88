"""Learners by name, and meta-trained learners: shipped in the package, in a file of one's own, or in a run's folder."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.tree_util import keystr, tree_flatten_with_path

from metalearn.errors import RunError, is_name_or_path, unknown_name
from metalearn.learner import Learner, Signature
from metalearn.runs.weights import load_weights, save_weights
from metalearn_models.learners.registry import LEARNERS, build_learner, learner_entry, learner_name

__all__ = ["TrainedLearner", "learner_for", "load", "make", "names", "save", "shipped"]

_SHIPPED = Path(__file__).parent / "weights"


class TrainedLearner(NamedTuple):
    """A meta-trained learner.

    Attributes:
        learner: the learner.
        theta: its meta-parameters.
        signature: the shapes that it was built for.
        config: its configuration.
        card: what is known about the weights, JSON values.
    """

    learner: Learner
    theta: Any
    signature: Signature
    config: Any
    card: dict[str, Any]


def names() -> tuple[str, ...]:
    """The names that `make` knows: in-context learners, learners that train a network online, reference learners."""
    return tuple(LEARNERS)


def make(name: str, signature: Signature, **settings: Any) -> Learner:
    """The learner with that name, not meta-trained.

    Args:
        name: one of `names()`.
        signature: the shapes that it is built for.
        settings: fields of its configuration that differ from the defaults.

    Raises:
        UnknownNameError: no such learner; names the nearest ones.
        TypeError: its configuration has no such field.
        ValueError: a setting is out of range, which is named, or the learner cannot be built for this signature.
    """
    return build_learner(signature, learner_entry(name).config(**settings))


def shipped() -> tuple[str, ...]:
    """The names of the meta-trained learners in the package."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.safetensors")))


def load(source: str | os.PathLike[str]) -> TrainedLearner:
    """Load a meta-trained learner.

    Args:
        source: one of `shipped()`, the folder of a run of `metalearn train`, or a safetensors file that `save` wrote.
            The metadata of the file, or a JSON file with the same name beside it, holds `"signature"` (the fields of
            `Signature`) and `"learner"` (its name and the fields of its configuration).

    Raises:
        UnknownNameError: no such name is shipped, and no such path exists.
        RunError: the file or folder is damaged, or does not say which learner its weights belong to.
        FileNotFoundError: a path ending in `.safetensors` that does not exist.
    """
    if not is_name_or_path(source):
        raise unknown_name("weights", source, shipped(), or_path=True)
    path = Path(source).expanduser()
    if str(source) in shipped():
        return _read(_SHIPPED / f"{source}.safetensors")
    if path.is_dir():
        weights = path / "theta.safetensors"
        if not weights.exists() and not (path / "config.json").exists():
            raise RunError(f"{path} is not the folder of a run: it has neither theta.safetensors nor config.json")
        if not weights.exists():
            raise RunError(
                f"{path} holds no theta.safetensors: it is no run of `metalearn train`, has no checkpoint yet, or was "
                f"written by version 0.1; `metalearn train --resume {path}` continues the run and writes the file"
            )
        return _read(weights)
    if path.suffix == ".safetensors" or path.is_file():
        return _read(path)
    raise unknown_name("weights", str(source), shipped(), or_path=True)


def save(
    path: str | os.PathLike[str], config: Any, signature: Signature, theta: Any, card: Mapping[str, Any] = {}
) -> None:
    """Write the meta-parameters of a learner to a file that `load` reads.

    Args:
        path: the file, ending in `.safetensors`; its folder must exist.
        config: configuration of the learner, of a class in the registry.
        signature: the shapes that it was built for.
        theta: its meta-parameters.
        card: what else is to be known about them, JSON values.

    Raises:
        RunError: theta is not that of this learner, or the file cannot be written.
        TypeError: the configuration is that of no learner in the registry.
    """
    arrays = _by_name(theta)
    _rebuild(arrays, signature, config, str(path))  # refuses what could not be loaded again
    learner = {"name": learner_name(config), **vars(config)}
    save_weights(Path(path), arrays, {**card, "signature": signature._asdict(), "learner": learner})


@functools.lru_cache(maxsize=8)
def learner_for(signature: Signature, config: Any) -> Learner:
    """The learner of a signature and a configuration: one object for equal ones, so that `jax.jit` recognises it."""
    return build_learner(signature, config)


def _read(path: Path) -> TrainedLearner:
    theta, card = load_weights(path)
    beside = path.with_suffix(".json")
    if "learner" not in card and beside.is_file():
        try:
            card = json.loads(beside.read_bytes())
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read {beside}: {error}") from error
    try:
        signature = Signature(**card["signature"])
        if [type(x) for x in signature] != [int, int, int, bool]:
            raise TypeError(f"a signature has three whole numbers and a truth value, got {tuple(signature)}")
        values = dict(card["learner"])
        entry = learner_entry(str(values.pop("name")))
        config = entry.config(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except (KeyError, TypeError, ValueError) as error:
        hint = "; it holds a learned optimizer, for metalearn_models.optimizers.load" if "optimizer" in card else ""
        raise RunError(
            f"{path} does not say which learner its weights belong to ({type(error).__name__}: {error}): its metadata, "
            f'or a .json file beside it, must hold "signature" and "learner"{hint}'
        ) from error
    try:
        theta = _rebuild(_by_name(theta), signature, config, str(path))
    except (TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{path} names a learner that cannot be built: {error}") from error
    return TrainedLearner(learner_for(signature, config), theta, signature, config, card)


def _by_name(theta: Any) -> dict[str, Any]:
    """The arrays of theta by their path in it: files can hold these, but no NamedTuple."""
    return {keystr(path, simple=True, separator="."): x for path, x in tree_flatten_with_path(theta)[0]}


def _rebuild(arrays: Mapping[str, Any], signature: Signature, config: Any, source: str) -> Any:
    """The theta that the learner wants, from its arrays by name.

    Raises:
        RunError: names, shapes or dtypes are those of another learner.
    """
    like = jax.eval_shape(learner_for(signature, config).init, jax.random.key(0))
    wanted = _by_name(like)
    forms = [{n: (tuple(x.shape), str(x.dtype)) for n, x in tree.items()} for tree in (wanted, arrays)]
    if forms[0] != forms[1]:
        differing = sorted(n for n in forms[0].keys() | forms[1].keys() if forms[0].get(n) != forms[1].get(n))
        first, none = differing[0], ("no such array",)
        raise RunError(
            f"the weights in {source} do not fit the learner {config} with {signature}: {len(differing)} arrays "
            f"differ; {first} should be {forms[0].get(first, none)} and is {forms[1].get(first, none)}"
        )
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[n] for n in wanted])
