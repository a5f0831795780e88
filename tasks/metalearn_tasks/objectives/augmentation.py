"""Families made of an objective: its parameters in other units, a convex term beside it, or several objectives mixed.

An optimizer meta-trained on one problem learns that problem's scales. Reparametrisation, by one factor a run or one a
tensor, is the task augmentation of Metz et al. 2022, "VeLO" (arXiv 2211.09760) and of Moudgil, Knyazev, Lajoie and
Belilovsky 2025, "Celo" (arXiv 2501.12670); one factor a parameter, and the convex term, are those of Lv, Jiang and Li
2017, "Learning gradient descent: better generalization and longer horizons" (arXiv 1703.03633).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn_tasks.objectives.objective import Objective


class Scaled(NamedTuple):
    """A problem in other units: its own parameters are `scale` times those that the optimizer sees.

    Attributes:
        problem: of the objective that was reparametrised.
        scale: the parameters' structure, each leaf a scalar or of the parameter's shape.
    """

    problem: Any
    scale: Any


class WithConvex(NamedTuple):
    """A problem, and the minimum of the convex term beside it."""

    problem: Any
    centre: Float[Array, "N"]


class Chosen(NamedTuple):
    """One of several problems, all of them drawn."""

    choice: Int[Array, ""]
    problems: tuple[Any, ...]


def reparametrised(objective: Objective, low: float = 1e-3, high: float = 1e3) -> Objective:
    """The same problems with all parameters in another unit, drawn for every run.

    A run draws c log-uniformly; its parameters are those of the objective divided by c, and the objective gets them
    times c. Losses at the start are the same; gradients are c times as large, and the distances to go 1 / c times.

    Args:
        objective: anything.
        low: the least c.
        high: the largest c.

    Returns:
        An objective whose problems are `Scaled`.

    Raises:
        ValueError: unless 0 < low <= high.
    """
    draw = _log_uniform(low, high)

    def scales(key: PRNGKeyArray, shapes: Any) -> Any:
        scale = draw(key, ())
        return jax.tree.map(lambda leaf: scale.astype(leaf.dtype), shapes)

    return _scaled(objective, scales)


def reparametrised_by_tensor(objective: Objective, low: float = 1e-3, high: float = 1e3) -> Objective:
    """`reparametrised` with an independent factor for every tensor of the parameters.

    Args:
        objective: anything.
        low: the least factor.
        high: the largest factor.

    Returns:
        An objective whose problems are `Scaled`.

    Raises:
        ValueError: unless 0 < low <= high.
    """
    draw = _log_uniform(low, high)
    return _scaled(objective, lambda key, shapes: _by_leaf(lambda k, leaf: draw(k, ()).astype(leaf.dtype), key, shapes))


def randomly_scaled(objective: Objective, spread: float = 3.0) -> Objective:
    """`reparametrised` with an independent factor exp(u) for every single parameter, u uniform in [-spread, spread].

    Args:
        objective: anything.
        spread: the largest logarithm of a factor.

    Returns:
        An objective whose problems are `Scaled`.

    Raises:
        ValueError: when the spread is negative.
    """
    if spread < 0:
        raise ValueError(f"the spread of the logarithms is at least 0, got spread={spread}")
    draw = _log_uniform(math.exp(-spread), math.exp(spread))
    return _scaled(
        objective, lambda key, shapes: _by_leaf(lambda k, leaf: draw(k, leaf.shape).astype(leaf.dtype), key, shapes)
    )


def with_convex(objective: Objective, dimension: int = 20) -> Objective:
    """The same problems plus the mean of (x_i - v_i)^2 over further parameters x.

    An optimizer that does badly where the objective is flat or chaotic still gets something of the kind that is easy.
    x starts and v lies uniformly in [-1, 1]^N. Put `randomly_scaled` around it to scale x as well.

    Args:
        objective: anything.
        dimension: N, of x. Our choice.

    Returns:
        An objective whose parameters are `(params, x)` and whose problems are `WithConvex`.

    Raises:
        ValueError: when the dimension is not positive.
    """
    if dimension < 1:
        raise ValueError(f"the convex term needs at least one dimension, got dimension={dimension}")

    def draw(key: PRNGKeyArray) -> WithConvex:
        problem_key, centre_key = jax.random.split(key)
        return WithConvex(objective.draw(problem_key), jax.random.uniform(centre_key, (dimension,), minval=-1.0))

    def init(problem: WithConvex, key: PRNGKeyArray) -> tuple[Any, Float[Array, "N"]]:
        params_key, x_key = jax.random.split(key)
        return objective.init(problem.problem, params_key), jax.random.uniform(x_key, (dimension,), minval=-1.0)

    def loss(problem: WithConvex, params: tuple[Any, Float[Array, "N"]], batch: Any) -> Float[Array, ""]:
        return objective.loss(problem.problem, params[0], batch) + ((params[1] - problem.centre) ** 2).mean()

    def sample(problem: WithConvex, data: Any, key: PRNGKeyArray) -> Any:
        return objective.sample(problem.problem, data, key)

    return Objective(draw, init, loss, sample)


def mixture(objectives: Sequence[Objective]) -> Objective:
    """One of several objectives, each as likely, drawn for every run.

    Under `vmap` all of them are computed and one is kept, so a step costs as much as one of each.

    Args:
        objectives: with parameters of the same structure, shapes and dtypes.

    Returns:
        An objective over a tuple of their data; its problems are `Chosen`, its batches tuples of theirs.

    Raises:
        ValueError: when there is none, or, when drawn, if the parameters differ.
    """
    members = tuple(objectives)
    if not members:
        raise ValueError("a mixture needs at least one objective, got none")

    def draw(key: PRNGKeyArray) -> Chosen:
        choice_key, *keys = jax.random.split(key, 1 + len(members))
        problems = tuple(member.draw(k) for member, k in zip(members, keys, strict=True))
        shapes = [jax.eval_shape(m.init, problem, key) for m, problem in zip(members, problems, strict=True)]
        for number, shape in enumerate(shapes):
            if _described(shape) != _described(shapes[0]):
                raise ValueError(
                    f"the parameters of a mixture must be alike, got {shapes[0]} from objective 0 and {shape} from "
                    f"objective {number}"
                )
        return Chosen(jax.random.randint(choice_key, (), 0, len(members)), problems)

    def init(problem: Chosen, key: PRNGKeyArray) -> Any:
        cases = [lambda m=m, p=p: m.init(p, key) for m, p in zip(members, problem.problems, strict=True)]
        return jax.lax.switch(problem.choice, cases)

    def loss(problem: Chosen, params: Any, batch: tuple[Any, ...]) -> Float[Array, ""]:
        cases = [
            lambda params, m=m, p=p, b=b: m.loss(p, params, b)
            for m, p, b in zip(members, problem.problems, batch, strict=True)
        ]
        return jax.lax.switch(problem.choice, cases, params)

    def sample(problem: Chosen, data: tuple[Any, ...], key: PRNGKeyArray) -> tuple[Any, ...]:
        if not isinstance(data, tuple) or len(data) != len(members):
            raise ValueError(f"the data of a mixture are a tuple of {len(members)}, one an objective, got {type(data)}")
        keys = jax.random.split(key, len(members))
        return tuple(m.sample(*rest) for m, *rest in zip(members, problem.problems, data, keys, strict=True))

    return Objective(draw, init, loss, sample)


def _scaled(objective: Objective, scales: Callable[[PRNGKeyArray, Any], Any]) -> Objective:
    """`scales(key, shapes)` draws the factors for parameters of those shapes."""

    def draw(key: PRNGKeyArray) -> Scaled:
        problem_key, scale_key = jax.random.split(key)
        problem = objective.draw(problem_key)
        return Scaled(problem, scales(scale_key, jax.eval_shape(objective.init, problem, key)))

    def init(problem: Scaled, key: PRNGKeyArray) -> Any:
        return jax.tree.map(lambda scale, leaf: leaf / scale, problem.scale, objective.init(problem.problem, key))

    def loss(problem: Scaled, params: Any, batch: Any) -> Float[Array, ""]:
        return objective.loss(problem.problem, jax.tree.map(jnp.multiply, problem.scale, params), batch)

    def sample(problem: Scaled, data: Any, key: PRNGKeyArray) -> Any:
        return objective.sample(problem.problem, data, key)

    return Objective(draw, init, loss, sample)


def _log_uniform(low: float, high: float) -> Callable[[PRNGKeyArray, tuple[int, ...]], Array]:
    if not 0 < low <= high < math.inf:
        raise ValueError(f"factors lie between 0 < low <= high, got low={low} and high={high}")
    start, width = math.log(low), math.log(high / low)
    return lambda key, shape: jnp.exp(start + width * jax.random.uniform(key, shape))


def _by_leaf(draw: Callable[[PRNGKeyArray, Any], Array], key: PRNGKeyArray, shapes: Any) -> Any:
    leaves, structure = jax.tree.flatten(shapes)
    keys = jax.random.split(key, len(leaves))
    return structure.unflatten([draw(k, leaf) for k, leaf in zip(keys, leaves, strict=True)])


def _described(shapes: Any) -> tuple[Any, ...]:
    leaves, structure = jax.tree.flatten(shapes)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]
