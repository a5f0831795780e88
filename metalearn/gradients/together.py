"""One estimator from several: theta learns from inner loops of different shapes in the same outer step.

Networks of other shapes cannot stand side by side in one `vmap`. Here each inner loop has an estimator of its own, and
the meta-gradient is the mean of theirs: that of a mixture in which every inner loop has the same share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from metalearn.gradients.estimator import Estimator
from metalearn.inner import typed_key

__all__ = ["together"]


def together(estimators: Mapping[str, Estimator]) -> Estimator:
    """The mean of the meta-gradients of several estimators of one theta.

    All of them take a step in each outer step, which costs the sum of their steps. An estimator without any finite
    trajectory adds a gradient of 0.

    Args:
        estimators: by a name for the metrics; all with the same number of trajectories.

    Returns:
        An estimator over a mapping from the same names to the data of each. Its metric `loss` is the mean of theirs,
        `loss/NAME` is that of one; other metrics have names of the same form.

    Raises:
        ValueError: no estimator, or numbers of trajectories that differ.
    """
    members = dict(estimators)
    if not members:
        raise ValueError("together needs at least one estimator, got an empty mapping")
    batches = {name: member.batch for name, member in members.items()}
    if len(set(batches.values())) > 1:
        raise ValueError(f"all estimators need the same number of trajectories, got {batches}")

    def keys(key: Any) -> dict[str, Array]:
        return {name: jax.random.fold_in(typed_key(key), number) for number, name in enumerate(members)}

    def init(theta: Any, data: Any, key: Any) -> Any:
        if not isinstance(data, Mapping) or set(data) != set(members):
            got = sorted(data) if isinstance(data, Mapping) else type(data).__name__
            raise ValueError(f"data must be a mapping from {sorted(members)} to the data of each, got {got}")
        own = keys(key)
        return {name: member.init(theta, data[name], own[name]) for name, member in members.items()}

    def grad(theta: Any, state: Any, data: Any, key: Any, outer_step: Array) -> tuple[Any, Any, dict[str, Array]]:
        own, gradients, states, metrics = keys(key), {}, {}, {}
        for name, member in members.items():
            gradients[name], states[name], new = member.grad(theta, state[name], data[name], own[name], outer_step)
            metrics |= {f"{metric}/{name}": value for metric, value in new.items()}
        return gradients, states, metrics

    def finish(gradients: Any, metrics: dict[str, Array]) -> tuple[Any, dict[str, Array]]:
        finished, found = [], {}
        for name, member in members.items():
            own = {m.removesuffix(f"/{name}"): value for m, value in metrics.items() if m.endswith(f"/{name}")}
            gradient, own = member.finish(gradients[name], own)
            finished.append(gradient)
            found |= {f"{metric}/{name}": value for metric, value in own.items()}
        mean = jax.tree.map(lambda *gs: sum(gs[1:], gs[0]) / len(gs), *finished)
        return mean, {"loss": jnp.stack([found[f"loss/{name}"] for name in members]).mean(), **found}

    small = all(member.small_operations for member in members.values())
    return Estimator(init, grad, next(iter(batches.values())), finish, small)
