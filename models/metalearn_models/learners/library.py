"""Meta-trained learners to take home: the weights shipped in the package, a file of one's own, or a run's folder."""

from __future__ import annotations

import functools
import json
import os
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_flatten_with_path

from metalearn.errors import RunError, unknown_name
from metalearn.learner import Learner, Signature
from metalearn.runs.checkpoints import checkpoint_steps, restore_checkpoint
from metalearn.runs.folder import Run, open_run
from metalearn.runs.weights import load_weights
from metalearn_models.learners.registry import build_learner, learner_entry

SHIPPED = Path(__file__).parent / "weights"


class Pretrained(NamedTuple):
    """A meta-trained learner.

    Attributes:
        signature: the shapes it was built for.
        config: the configuration of the learner.
        theta: its meta-parameters.
        card: what is known about the weights, JSON values; `{}` where nothing is.
    """

    signature: Signature
    config: Any
    theta: Any
    card: dict[str, Any]


def shipped() -> tuple[str, ...]:
    """The names of the weights in the package."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.safetensors")))


def load_pretrained(source: str | os.PathLike[str]) -> Pretrained:
    """Load a meta-trained learner.

    Args:
        source: one of `shipped()`; or a safetensors file whose metadata, or else a JSON file of the same name beside
            it, holds `"signature"` (fields of `Signature`) and `"learner"` (its name and the fields of its
            configuration); or the folder of a run of `metalearn train` with a Transformer.

    Raises:
        UnknownNameError: no such name is shipped, and no such path exists.
        RunError: the file or folder is damaged, or does not say what its weights belong to.
        FileNotFoundError: a path ending in `.safetensors` that does not exist.
    """
    path = Path(source)
    if str(source) in shipped():
        return _from_file(SHIPPED / f"{source}.safetensors")
    if path.is_dir():
        return _from_run(path)
    if path.suffix == ".safetensors" or path.is_file():
        return _from_file(path)
    raise unknown_name("weights (and no such path exists)", str(source), shipped())


@functools.lru_cache(maxsize=8)
def learner_for(signature: Signature, config: Any) -> Learner:
    """The learner of a signature and a configuration, one object for equal ones, so that `jax.jit` knows it again."""
    return build_learner(signature, config)


def _from_file(path: Path) -> Pretrained:
    theta, card = load_weights(path)
    beside = path.with_suffix(".json")
    if "learner" not in card and beside.is_file():
        try:
            card = json.loads(beside.read_bytes())
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read {beside}: {error}") from error
    try:
        signature = Signature(**card["signature"])
        values = dict(card["learner"])
        config = _config(values.pop("name"), values)
    except (KeyError, TypeError) as error:
        raise RunError(
            f"{path} does not say which learner its weights belong to ({type(error).__name__}: {error}): its metadata, "
            'or a .json file beside it, must hold "signature" and "learner"'
        ) from error
    return Pretrained(signature, config, _fitted(theta, signature, config, path), card)


def _from_run(folder: Path) -> Pretrained:
    run = open_run(folder)
    steps = checkpoint_steps(run)
    if not steps:
        raise RunError(f"{folder} holds no checkpoint yet: train it first")
    state = restore_checkpoint(run, _template(run, steps))
    arrays = {name.removeprefix("theta/"): x for name, x in state.items() if name.startswith("theta/")}
    try:
        values = dict(run.config["learner"])
        name = values.pop("name", "transformer")
        config = _config(name, values)
        if name != "transformer":
            raise RunError(
                f"{folder} is a run of the learner {name}; only of a Transformer can the shapes be read off its "
                'weights: save them with metalearn.runs.weights.save_weights, "signature" and "learner" in the metadata'
            )
        (length, _), (_, outputs) = arrays["positions"].shape, arrays["head/kernel"].shape
        inputs = (arrays["embed/kernel"].shape[0] - outputs) // (2 if config.token == "pair" else 1)
    except (KeyError, TypeError) as error:
        raise RunError(f"{folder} is no run of an in-context learner that this version knows: {error}") from error
    signature = Signature(inputs, outputs, length)
    like = jax.eval_shape(learner_for(signature, config).init, jax.random.key(0))
    leaves, structure = tree_flatten_with_path(like)
    missing = [n for n in (keystr(p, simple=True, separator="/") for p, _ in leaves) if n not in arrays]
    if missing:
        raise RunError(f"the newest checkpoint of {folder} lacks the weights {', '.join(missing[:3])}")
    theta = jax.tree.unflatten(structure, [arrays[keystr(p, simple=True, separator="/")] for p, _ in leaves])
    card = {"run": str(folder), "steps": int(state["step"]), "config": run.config}
    return Pretrained(signature, config, _fitted(theta, signature, config, folder), card)


def _template(run: Run, steps: list[int]) -> OrderedDict[str, jax.Array]:
    """A state with the leaves that a checkpoint's manifest lists, in that order; theta is picked out by name."""
    for step in reversed(steps):
        try:
            manifest = json.loads((run.checkpoints / f"{step:08d}" / "manifest.json").read_bytes())
            parts = [re.fullmatch(r"(.+) (\w+)\[([\d, ]*)\]", leaf) for leaf in manifest["leaves"]]
            return OrderedDict(
                (p[1], jnp.zeros([int(n) for n in p[3].split(",") if n.strip()], p[2])) for p in parts if p
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue  # restore_checkpoint passes a damaged checkpoint over as well
    raise RunError(f"no readable checkpoint in {run.checkpoints}, tried steps {steps}")


def _config(name: str, values: dict[str, Any]) -> Any:
    return learner_entry(name).config(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _fitted(theta: Any, signature: Signature, config: Any, path: Path) -> Any:
    """`theta`, if it has the shapes that the learner wants."""
    if signature.regression:
        raise RunError(f"{path} was meta-trained on regression: a classifier needs classes")
    wanted = jax.eval_shape(learner_for(signature, config).init, jax.random.key(0))
    have = jax.tree.map(lambda x: (x.shape, str(x.dtype)), theta)
    want = jax.tree.map(lambda x: (x.shape, str(x.dtype)), wanted)
    if have != want:
        raise RunError(f"the weights in {path} do not fit the learner {config} with {signature}")
    return theta
