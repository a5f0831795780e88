"""Meta-trained Transformers for tables: those of the package, and those in files or folders of runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.tree_util import keystr, tree_flatten_with_path

from metalearn.errors import RunError, is_name_or_path, unknown_name
from metalearn.runs.weights import load_weights, save_weights
from metalearn_models.tabular.transformer.config import TableTransformerConfig
from metalearn_models.tabular.transformer.learner import network

__all__ = ["TrainedTables", "load", "save", "shipped"]

_SHIPPED = Path(__file__).parent / "weights"


class TrainedTables(NamedTuple):
    """A meta-trained Transformer for tables.

    Attributes:
        theta: its meta-parameters.
        config: its sizes.
        card: what is known about the weights, JSON values.
    """

    theta: Any
    config: TableTransformerConfig
    card: dict[str, Any]


def shipped() -> tuple[str, ...]:
    """The names of those in the package."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.safetensors")))


def load(source: str | os.PathLike[str]) -> TrainedTables:
    """Load one.

    Args:
        source: one of `shipped()`, the folder of a run of `metalearn train tables`, or a file that `save` wrote.

    Raises:
        UnknownNameError: no such name is shipped, and no such path exists.
        RunError: the file or folder is damaged, or holds something else.
    """
    if not is_name_or_path(source):
        raise unknown_name("weights", source, shipped(), or_path=True)
    path = Path(source).expanduser()
    if str(source) in shipped():
        path = _SHIPPED / f"{source}.safetensors"
    elif path.is_dir():
        path = path / "theta.safetensors"
        if not path.exists():
            raise RunError(f"{path.parent} holds no theta.safetensors: it is no run, or has no checkpoint yet")
    elif not path.is_file():
        raise unknown_name("weights", str(source), shipped(), or_path=True)
    arrays, card = load_weights(path)
    try:
        config = TableTransformerConfig(**card["table_transformer"])
    except (KeyError, TypeError) as error:
        raise RunError(
            f"{path} holds no Transformer for tables: its metadata must have the sizes under table_transformer"
        ) from error
    try:
        theta = _rebuild(arrays, config, str(path))
    except (TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{path} names sizes of which no Transformer can be built: {error}") from error
    return TrainedTables(theta, config, card)


def save(
    path: str | os.PathLike[str], config: TableTransformerConfig, theta: Any, card: Mapping[str, Any] = {}
) -> None:
    """Write meta-parameters to a file that `load` reads.

    Args:
        path: the file, ending in `.safetensors`; its folder must exist.
        config: the sizes.
        theta: the meta-parameters.
        card: what else is to be known about them, JSON values.

    Raises:
        RunError: theta does not fit the sizes, or the file cannot be written.
    """
    arrays = _by_name(theta)
    _rebuild(arrays, config, str(path))
    save_weights(Path(path), arrays, {**card, "table_transformer": asdict(config)})


def _by_name(theta: Any) -> dict[str, Any]:
    return {keystr(path, simple=True, separator="."): x for path, x in tree_flatten_with_path(theta)[0]}


def _rebuild(arrays: Mapping[str, Any], config: TableTransformerConfig, source: str) -> Any:
    like = jax.eval_shape(network(config).init, jax.random.key(0))
    wanted = _by_name(like)
    forms = [{n: (tuple(x.shape), str(x.dtype)) for n, x in tree.items()} for tree in (wanted, arrays)]
    if forms[0] != forms[1]:
        differing = sorted(n for n in forms[0].keys() | forms[1].keys() if forms[0].get(n) != forms[1].get(n))
        raise RunError(
            f"the weights in {source} do not fit {config}: {len(differing)} arrays differ, first {differing[0]}: "
            f"{forms[0].get(differing[0])} would be right, got {forms[1].get(differing[0])}"
        )
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[n] for n in wanted])
