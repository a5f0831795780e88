"""Which parameters are layers, which statistics are theirs, and who updates the others."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import jax
import optax
from jaxtyping import Array

from metalearn_models.optimizers.curvature.layers import KernelLayout, LayerStatistics, standard_layout

__all__ = ["Matching"]


class Matching:
    """The layers of an optimizer, and the fallback that updates all other parameters.

    Args:
        name: of the optimizer, for messages.
        fallback: what updates parameters without statistics. None: their gradients are passed on unchanged.
        layers: path and layout of the kernels. None: every parameter of two or more axes is one, and its last axis
            gives the outputs.
    """

    def __init__(
        self,
        name: str,
        fallback: optax.GradientTransformation | None,
        layers: Mapping[str, KernelLayout] | None,
    ):
        self.name, self.layers = name, layers
        self.said: set[str] = set()
        self.fallback = optax.with_extra_args_support(optax.identity() if fallback is None else fallback)

    def layout(self, path: Any, leaf: Array) -> KernelLayout | None:
        """The layout of a parameter; None if it is no kernel."""
        if self.layers is None:
            return standard_layout(leaf.shape) if leaf.ndim > 1 else None
        layout = self.layers.get(jax.tree_util.keystr(path))
        if layout is not None and layout.shape != leaf.shape:
            raise self._wrong_layer(path, f"layers says shape {layout.shape}", leaf.shape)
        return layout

    def init_fallback(self, params: Any) -> Any:
        """The fallback's state; with `layers`, it has nothing of kernels, and the matrices it gets are named here."""
        if self.layers is not None:
            jax.tree_util.tree_map_with_path(self.layout, params)  # refuses layers of another shape
            self._say_fallback(params, self.layers)
        return self.fallback.init(self._others(params))

    def update_fallback(self, updates: Any, state: Any, params: Any, extra: dict[str, Any]) -> tuple[Any, Any]:
        """The updates with those of the fallback in place of the parameters that it knows, and its state."""
        held = None if params is None else self._others(params)
        passed, state = self.fallback.update(self._others(updates), state, held, **extra)
        found = {jax.tree_util.keystr(path): u for path, u in jax.tree_util.tree_leaves_with_path(passed)}
        return jax.tree_util.tree_map_with_path(lambda p, g: found.get(jax.tree_util.keystr(p), g), updates), state

    def match(self, updates: Any, statistics: Any) -> dict[str, LayerStatistics]:
        """The statistics of the layers among the updates, by path.

        Raises:
            ValueError: the statistics are missing, or of another model.
        """
        leaves = jax.tree_util.tree_leaves_with_path(updates)
        wanted = {jax.tree_util.keystr(p): (p, layout) for p, x in leaves if (layout := self.layout(p, x)) is not None}
        if not wanted:
            return {}
        if statistics is None:
            raise ValueError(
                f"{self.name} reads layer statistics: call update(grads, state, params, statistics=statistics) with "
                "what value_grad_and_statistics(loss_fn) returns, got statistics=None"
            )
        known = {at: statistics[at] for at in wanted if at in statistics}
        if statistics and not known:
            raise ValueError(
                f"{self.name} got the statistics of another model: they are of {', '.join(sorted(statistics))}, and "
                f"the parameters are {', '.join(wanted)}"
            )
        for at, layer in known.items():
            path, layout = wanted[at]
            if layer.layout != layout:
                advice = "; pass layers=find_layers(loss_fn, params, ...)" if self.layers is None else ""
                raise self._wrong_layer(path, f"its statistics are of {layer.layout}", layout, advice)
        if self.layers is None:
            self._say_fallback(updates, known)
        elif missing := [at for at in wanted if at not in known]:
            raise ValueError(f"{self.name} got no statistics of the layers {', '.join(missing)}, which layers names")
        return known

    def _others(self, tree: Any) -> Any:
        layers = self.layers
        if layers is None:
            return tree
        return jax.tree_util.tree_map_with_path(lambda p, x: None if jax.tree_util.keystr(p) in layers else x, tree)

    def _say_fallback(self, params: Any, known: Mapping[str, Any]) -> None:
        """Name the matrices that are updated by the fallback, once per optimizer.

        Python's own memory of warnings does not do: it is cleared whenever somebody filters warnings, as JAX does.
        """
        missed = [
            f"params{jax.tree_util.keystr(path)} {list(leaf.shape)}"
            for path, leaf in jax.tree_util.tree_leaves_with_path(params)
            if leaf.ndim > 1 and jax.tree_util.keystr(path) not in known
        ]
        if missed:
            message = f"{self.name} updates these by its fallback, having no statistics: {', '.join(missed)}"
            if message not in self.said:
                warnings.warn(message, stacklevel=2)
                self.said.add(message)

    def _wrong_layer(self, path: Any, got: str, right: Any, advice: str = "") -> ValueError:
        at = jax.tree_util.keystr(path)
        return ValueError(
            f"{self.name} cannot read the layer at params{at}: {got}, and the parameter has {right}{advice}"
        )
