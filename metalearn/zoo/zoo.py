"""A folder of checkpoints of many runs: made shard by shard, resumed where it stopped, split by run.

`zoo.json` holds the configuration and the provenance, `shard-00000.safetensors` and so on the checkpoints. A shard is
written in one step and depends on nothing but the configuration and its number, so a zoo that was interrupted and made
again has the bits of one that was not.

Shapes: R runs, S recorded steps, P parameters, L losses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.tree_util import keystr, tree_flatten_with_path
from jaxtyping import Float

from metalearn.errors import RunError
from metalearn.ranges import Count, Positive, Seed, Steps
from metalearn.runs.files import write_atomically
from metalearn.runs.json_values import as_json, check_same_config
from metalearn.runs.lock import only_writer
from metalearn.runs.progress import Progress, Silent
from metalearn.zoo.record import Training, log_spaced_steps, record_runs
from metalearn.zoo.shards import Shard, open_shard, write_shard

__all__ = ["Zoo", "ZooConfig", "fill_zoo", "open_zoo"]


@dataclass(frozen=True)
class ZooConfig:
    """How many runs are recorded, and when."""

    runs: Steps = 1024
    """Training runs, each from an initialisation of its own."""
    unseen: Count = 128
    """The last runs are held out: their initialisations are unseen by whatever is trained on the others."""
    steps: Steps = 1500
    """Steps per run."""
    snapshots: Steps = 11
    """Checkpoints per run, the first at step 0 and the last at the end, between them at logarithmic distances."""
    shard: Steps = 128
    """Runs per file, which are trained at once and read their examples in one order."""
    seed: Seed = 0
    """Of initialisations and order."""
    largest: Positive = 10.0
    """A run with a parameter beyond this, or with one or a loss that is not finite, has diverged and is dropped."""

    def __post_init__(self) -> None:
        if self.runs < 1 or self.shard < 1:
            raise ValueError(f"runs and shard must be at least 1, got {self.runs} and {self.shard}")
        if not 0 <= self.unseen < self.runs:
            raise ValueError(f"unseen must be from 0 to runs - 1 = {self.runs - 1}, got {self.unseen}")
        log_spaced_steps(self.steps, self.snapshots)


@dataclass(frozen=True, eq=False)
class Zoo:
    """Checkpoints on disk.

    Attributes:
        folder: where they are.
        config: how they were made.
        at: the steps that were recorded.
        losses: names of the losses.
        shapes: shape of each parameter by its place in the network's parameters.
        about: provenance, as given to `fill_zoo`.
        shards: memory-mapped.
        diverged: how many runs were dropped.
    """

    folder: Path
    config: ZooConfig
    at: tuple[int, ...]
    losses: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    about: dict[str, Any]
    shards: tuple[Shard, ...]
    diverged: int

    def seen(self) -> Shard:
        """The runs to train on."""
        return self._select(lambda runs: runs < self.config.runs - self.config.unseen)

    def unseen(self) -> Shard:
        """The runs that are held out, see `ZooConfig.unseen`."""
        return self._select(lambda runs: runs >= self.config.runs - self.config.unseen)

    def loss(self, shard: Shard, name: str) -> Float[np.ndarray, "R S"]:
        """One loss of a shard by its name.

        Raises:
            ValueError: no loss has this name.
        """
        if name not in self.losses:
            raise ValueError(f"this zoo has no loss {name!r}, only {', '.join(self.losses)}")
        return np.asarray(shard.losses[..., self.losses.index(name)])

    def unflatten(self, like: Any) -> Callable[[Float[Any, "P"]], Any]:
        """The function that makes parameters of a flat checkpoint.

        Args:
            like: parameters of the network, or their shapes.

        Raises:
            RunError: these checkpoints are of another network.
        """
        check_network(self.shapes, like, str(self.folder))
        return ravel_pytree(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like))[1]

    def _select(self, keep: Callable[[np.ndarray], np.ndarray]) -> Shard:
        parts = [(shard, np.flatnonzero(keep(np.asarray(shard.runs)))) for shard in self.shards]
        # A shard that is kept whole is joined from its mapping; rows are copied only where a shard is divided.
        chosen = [
            shard if len(rows) == len(shard.runs) else Shard(*(x[rows] for x in shard))
            for shard, rows in parts
            if len(rows)
        ]
        if not chosen:
            return Shard(*(x[:0] for x in self.shards[0]))
        return chosen[0] if len(chosen) == 1 else Shard(*(np.concatenate(xs) for xs in zip(*chosen, strict=True)))


def fill_zoo(
    folder: str | Path,
    training: Training,
    config: ZooConfig,
    about: Mapping[str, Any] = {},
    progress: Progress | None = None,
) -> Zoo:
    """Record what is missing of a zoo, and open it.

    Args:
        folder: made if it does not exist.
        training: what is trained.
        config: how many runs, and when they are recorded.
        about: what is trained, in JSON values. A folder with other values is refused.
        progress: counts runs.

    Returns:
        The zoo, memory-mapped; runs that diverged are missing.

    Raises:
        RunError: the folder holds a zoo with another configuration or of another network, a shard is damaged, the disk
            refused, or all runs diverged.
    """
    folder, progress = Path(folder), progress or Silent()
    folder.mkdir(parents=True, exist_ok=True)
    at = log_spaced_steps(config.steps, config.snapshots)
    root = jax.random.key(config.seed)
    state = jax.eval_shape(training.init, root)
    params = jax.eval_shape(training.params, state)
    names = sorted(jax.eval_shape(training.losses, params))
    card = {"config": config, "at": at, "losses": names, "shapes": network_shapes(params), "about": dict(about)}
    card = as_json(card)
    with only_writer(folder):
        if (folder / "zoo.json").exists():
            check_same_config(_read_card(folder), card, (), f"{folder} holds other checkpoints")
        else:
            write_atomically(folder / "zoo.json", (json.dumps(card, indent=1) + "\n").encode())
        first = range(0, config.runs, config.shard)
        progress.start(0, config.runs)
        for number, begin in enumerate(first):
            path = folder / f"shard-{number:05d}.safetensors"
            runs = np.arange(begin, min(begin + config.shard, config.runs), dtype=np.int32)
            if not path.exists():
                keys = jax.vmap(lambda run: jax.random.fold_in(jax.random.fold_in(root, 0), run))(runs)
                order = jax.random.fold_in(jax.random.fold_in(root, 1), number)
                recorded = record_runs(training, keys, order, at)
                values = np.stack([np.asarray(recorded.losses[name]) for name in names], -1)
                shard = _drop_diverged(Shard(np.asarray(recorded.params), values, runs), config.largest)
                write_shard(path, shard, {**card["about"], "shard": number, "diverged": len(runs) - len(shard.runs)})
            progress.update(int(runs[-1]) + 1, {})
        progress.close()
    return open_zoo(folder)


def open_zoo(folder: str | Path) -> Zoo:
    """Open a zoo that `fill_zoo` has made; nothing is read yet but the headers.

    Returns:
        The zoo, memory-mapped; runs that diverged are missing.

    Raises:
        RunError: there is no zoo, a shard is missing, truncated or of another zoo, or all runs diverged.
    """
    folder = Path(folder)
    card = _read_card(folder)
    try:
        config = ZooConfig(**card["config"])
        shapes = {name: tuple(shape) for name, shape in card["shapes"].items()}
        losses, at = tuple(card["losses"]), tuple(card["at"])
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{folder / 'zoo.json'} is not the card of a zoo: {error}") from error
    size = sum(int(np.prod(shape)) for shape in shapes.values())
    shards, diverged = [], 0
    for number in range(-(-config.runs // config.shard)):
        path = folder / f"shard-{number:05d}.safetensors"
        shard, about = open_shard(path)
        if shard.params.shape[1:] != (len(at), size) or shard.losses.shape[1:] != (len(at), len(losses)):
            raise RunError(
                f"{path} is of another network or has other steps: expected {len(at)} checkpoints of {size} "
                f"parameters, got {list(shard.params.shape[1:])}"
            )
        diverged += about.get("diverged", 0)
        shards.append(shard)
    if diverged == config.runs:
        raise RunError(f"all {diverged} runs of {folder} diverged: lower the learning rate")
    return Zoo(folder, config, at, losses, shapes, card.get("about", {}), tuple(shards), diverged)


def network_shapes(params: Any) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter by its place, such as `0.weight`."""
    leaves = tree_flatten_with_path(params)[0]
    return {keystr(path, simple=True, separator="."): tuple(x.shape) for path, x in leaves}


def check_network(shapes: Mapping[str, tuple[int, ...]], like: Any, source: str) -> None:
    """Check that parameters are of the network that a zoo or a generator was made for.

    Args:
        shapes: by place.
        like: parameters or their shapes.
        source: what has these shapes, for the message.

    Raises:
        RunError: a parameter is missing, added or of another shape.
    """
    got = network_shapes(like)
    if got == dict(shapes):
        return
    name = sorted(n for n in got.keys() | shapes.keys() if got.get(n) != shapes.get(n))[0]
    sizes = [sum(int(np.prod(shape)) for shape in tree.values()) for tree in (shapes, got)]
    raise RunError(
        f"{source} is for a network of {sizes[0]} parameters, got one of {sizes[1]}; the first difference is {name}: "
        f"expected {shapes.get(name, 'no such array')}, got {got.get(name, 'no such array')}"
    )


def _drop_diverged(shard: Shard, largest: float) -> Shard:
    with np.errstate(invalid="ignore"):
        fine = (np.abs(shard.params) <= largest).all((1, 2)) & np.isfinite(shard.losses).all((1, 2))
    return Shard(*(x[fine] for x in shard))


def _read_card(folder: Path) -> dict[str, Any]:
    path = folder / "zoo.json"
    try:
        card = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise RunError(f"{folder} has no zoo.json: it is not a zoo of checkpoints") from error
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from error
    if not isinstance(card, dict):
        raise RunError(f"{path} is not the card of a zoo")
    return card
