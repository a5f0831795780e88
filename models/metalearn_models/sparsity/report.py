"""What a sparse network saves and what it costs, measured as ShrinkBench asks.

Blalock, Gonzalez Ortiz, Frankle, Guttag 2020, "What is the State of Neural Network Pruning?" (arXiv 2003.03033). The
paper asks for compression and theoretical speed-up, for top-1 and top-5, and for absolute accuracies beside the
unpruned control. `tradeoffs` makes its table and its two pictures of many reports.

    result = report(params, masks, apply, inputs, labels=labels)
    print(result.format())

Its own harness averages accuracies of batches, so a short last batch counts too much. Here examples are counted, and no
batch size changes the accuracy.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Int, Shaped

from metalearn.costs.products import count_products
from metalearn_models.sparsity.contract import Masks
from metalearn_models.sparsity.masks import apply_masks
from metalearn_models.sparsity.pruning.trees import paired_leaves

__all__ = ["Layer", "Report", "report"]

REPEATS = 5
"""How often each program is timed; the median counts."""


@dataclass(frozen=True)
class Layer:
    """One array of parameters in a report.

    Attributes:
        size: its entries.
        kept: those that the mask keeps; a kept weight that is zero counts.
        multiply_adds: per example, in the dense network.
    """

    size: int
    kept: int
    multiply_adds: int


@dataclass(frozen=True)
class Report:
    """What `report` measured.

    Attributes:
        layers: by path, such as "0/weight".
        multiply_adds: per example, of all products of the dense network.
        kept_multiply_adds: the same without those of pruned weights. A product of two activations counts in full.
        top1: share of the examples whose label has the largest output; None without labels.
        top5: share of the examples whose label is among the five largest outputs, or among all if there are fewer.
        seconds: of one compiled call on one batch of inputs with the pruned parameters, median.
        dense_seconds: the same with the parameters as they were given, timed in turn.
    """

    layers: Mapping[str, Layer]
    multiply_adds: int
    kept_multiply_adds: float
    top1: float | None
    top5: float | None
    seconds: float
    dense_seconds: float

    @property
    def parameters(self) -> int:
        """Entries of all parameters, biases included."""
        return sum(layer.size for layer in self.layers.values())

    @property
    def kept(self) -> int:
        """Entries that the masks keep."""
        return sum(layer.kept for layer in self.layers.values())

    @property
    def compression(self) -> float:
        """`parameters / kept`; infinite if nothing is kept."""
        return _ratio(self.parameters, self.kept)

    @property
    def speed_up(self) -> float:
        """Theoretical: `multiply_adds / kept_multiply_adds`; 1 for a network without products."""
        return _ratio(self.multiply_adds, self.kept_multiply_adds)

    @property
    def empty(self) -> tuple[str, ...]:
        """Paths of the parameters of which nothing is kept: nothing passes through such a layer."""
        return tuple(path for path, layer in self.layers.items() if layer.size and not layer.kept)

    def format(self) -> str:
        """The report as a text: a line per array of parameters, and the totals."""
        width = max(len("parameters"), *map(len, self.layers))
        lines = [f"{'parameters':<{width}}  {'size':>12}  {'kept':>12}  {'density':>8}  {'multiply-adds':>14}"]
        for path, layer in self.layers.items():
            density = layer.kept / max(layer.size, 1)
            lines.append(
                f"{path:<{width}}  {layer.size:>12,}  {layer.kept:>12,}  {density:>8.4f}  {layer.multiply_adds:>14,}"
            )
        scores = "" if self.top1 is None or self.top5 is None else f"top-1 {self.top1:.4f}, top-5 {self.top5:.4f}, "
        lines.append(
            f"{scores}compression {self.compression:.2f}, theoretical speed-up {self.speed_up:.2f}, "
            f"measured {1e3 * self.seconds:.3g} ms, dense {1e3 * self.dense_seconds:.3g} ms"
        )
        if self.empty:
            lines.append(f"nothing is kept of {', '.join(self.empty)}")
        return "\n".join(lines)


def report(
    params: Any,
    masks: Masks,
    apply: Callable[[Any, Any], Any],
    inputs: Shaped[Array | np.ndarray, "N ..."],
    *,
    labels: Int[Array | np.ndarray, " N"] | None = None,
    batch: int = 1024,
    timed: Callable[[Any], Any] | None = None,
) -> Report:
    """Measure a pruned network.

    Args:
        params: its parameters. What the masks leave out counts as zero, whatever it holds.
        masks: what is kept, such as `state.masks` of a sparse optimizer. None alone: the unpruned control.
        apply: `(params, inputs[N, ...]) -> outputs[N, C]`. A `Network.apply` takes one example: give
            `jax.vmap(network.apply, (None, 0))`.
        inputs: the examples.
        labels: their classes. None: nothing is said about accuracy.
        batch: examples per call at most, which bounds the memory. It changes the measured time and nothing else.
        timed: `(inputs) -> outputs` of one batch, what is timed in the place of `apply` with pruned parameters, such as
            the same network with truly sparse layers. A mask alone makes no program faster.

    Raises:
        ValueError: the masks do not fit the parameters, there are no examples, the labels are not those of the
            examples or no classes, or `apply` does not return one row of outputs per example.
        TypeError: a mask is not boolean.
    """
    if not len(inputs) or batch < 1:
        raise ValueError(
            f"a report needs at least one example and a batch of at least 1, got {len(inputs)} and {batch}"
        )
    pairs = paired_leaves(params, masks)
    inputs = jnp.asarray(inputs)
    shape = jax.eval_shape(apply, params, inputs).shape
    if len(shape) != 2 or shape[0] != len(inputs):
        raise ValueError(
            f"apply must map {len(inputs)} examples to outputs of shape ({len(inputs)}, classes), got {shape}: wrap an "
            "apply of one example in jax.vmap(apply, (None, 0))"
        )
    products = count_products(apply, params, inputs[:1])
    sizes = {path: int(leaf.size) for path, leaf, _ in pairs}
    kept = {path: int(leaf.size if mask is None else mask.sum()) for path, leaf, mask in pairs}
    spent, remaining = dict.fromkeys(sizes, 0), 0.0
    for leaves, count in products:
        size = sum(sizes[path] for path in leaves)
        remaining += count * sum(kept[path] for path in leaves) / size if size else count
        for path in leaves:  # the kernels that were joined for one product share it by their sizes
            spent[path] += count * sizes[path] // size
    pruned = params if masks is None else apply_masks(params, masks)
    top1, top5 = (None, None)
    if labels is not None:
        labels = np.asarray(labels)
        if labels.shape != (len(inputs),) or labels.min() < 0 or labels.max() >= shape[1]:
            raise ValueError(
                f"labels must be one class of 0 to {shape[1] - 1} for each of {len(inputs)} examples, got labels of "
                f"shape {labels.shape} from {labels.min()} to {labels.max()}"
            )
        top1, top5 = _accuracy(apply, pruned, inputs, jnp.asarray(labels), batch)
    compiled, few = jax.jit(apply), inputs[:batch]
    run = (lambda: compiled(pruned, few)) if timed is None else (lambda: timed(few))
    seconds, dense_seconds = _time_in_turn(run, lambda: compiled(params, few))
    return Report(
        layers={path: Layer(sizes[path], kept[path], spent[path]) for path in sizes},
        multiply_adds=sum(product.multiply_adds for product in products),
        kept_multiply_adds=remaining,
        top1=top1,
        top5=top5,
        seconds=seconds,
        dense_seconds=dense_seconds,
    )


def _ratio(whole: float, part: float) -> float:
    return whole / part if part else (float("inf") if whole else 1.0)


def _accuracy(
    apply: Callable[[Any, Any], Any], params: Any, inputs: Array, labels: Array, batch: int
) -> tuple[float, float]:
    """Top-1 and top-5: right examples over all examples. Outputs that are not finite are wrong."""
    batch = min(batch, len(inputs))
    surplus = -len(inputs) % batch  # the last batch is filled up with examples that do not count
    xs, ys = (jnp.concatenate([a, jnp.repeat(a[:1], surplus, 0)]) for a in (inputs, labels))
    counts = jnp.arange(len(ys)) < len(inputs)

    parts = tuple(rearrange(a, "(part b) ... -> part b ...", b=batch) for a in (xs, ys, counts))
    first, five = _count_right(apply, params, parts)
    return int(first) / len(inputs), int(five) / len(inputs)


@partial(jax.jit, static_argnums=0)
def _count_right(
    apply: Callable[[Any, Any], Any], params: Any, parts: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    """Right examples of all parts, by the largest output and by the five largest ones."""

    def right(part: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        x, y, count = part
        outputs = apply(params, x)
        _, best = jax.lax.top_k(outputs, min(5, outputs.shape[-1]))
        hits = (best == y[:, None]) & (jnp.isfinite(outputs).all(-1) & count)[:, None]
        return hits[:, 0].sum(), hits.any(-1).sum()

    first, five = jax.lax.map(right, parts)
    return first.sum(), five.sum()


def _time_in_turn(*programs: Callable[[], Any]) -> list[float]:
    """The median seconds of each program; they are run in turn, so that other load meets all of them."""
    times: list[list[float]] = [[] for _ in programs]
    for repeat in range(REPEATS + 1):
        for run, seconds in zip(programs, times, strict=True):
            began = time.perf_counter()
            jax.block_until_ready(run())
            if repeat:  # the first call compiles
                seconds.append(time.perf_counter() - began)
    return [statistics.median(seconds) for seconds in times]
