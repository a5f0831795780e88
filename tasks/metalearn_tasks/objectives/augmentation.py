"""Make a new family of an objective: parameters in other units, an added convex term, or a mixture of objectives.

An optimizer meta-trained on one problem learns the scales of that problem. Reparametrisation, by one factor per run or
one per tensor, is the task augmentation of Metz et al. 2022, "VeLO" (arXiv 2211.09760), and of Moudgil, Knyazev, Lajoie
and Belilovsky 2025, "Celo" (arXiv 2501.12670). One factor per parameter, and the convex term, are those of Lv, Jiang
and Li 2017, "Learning gradient descent: better generalization and longer horizons" (arXiv 1703.03633).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn_tasks.objectives.objective import Objective

__all__ = [
    "MixtureProblem",
    "ProblemWithConvex",
    "ScaledProblem",
    "add_convex",
    "mixture_of_objectives",
    "reparametrise",
    "reparametrise_by_tensor",
    "scale_randomly",
]


class ScaledProblem(NamedTuple):
    """A problem in other units: its own parameters are `scale` times the optimizer's parameters.

    Attributes:
        problem: a problem of the original objective.
        scale: a pytree like the parameters; each leaf is a scalar or has the shape of its parameter.
    """

    problem: Any
    scale: Any


class ProblemWithConvex(NamedTuple):
    """A problem, and the minimizer of the convex term that is added to it."""

    problem: Any
    centre: Float[Array, "N"]


class MixtureProblem(NamedTuple):
    """A problem of each objective, and the index of the one that counts."""

    choice: Int[Array, ""]
    problems: tuple[Any, ...]


def reparametrise(objective: Objective, low: float = 1e-3, high: float = 1e3) -> Objective:
    """Express all parameters in another unit, drawn per run.

    A run draws c log-uniformly. Its parameters are those of the objective divided by c, and the objective gets them
    times c. Losses at the start stay the same, gradients are c times as large, distances 1 / c times as large.

    Args:
        objective: any objective.
        low: the least c.
        high: the largest c.

    Returns:
        An objective whose problems are `ScaledProblem`.

    Raises:
        ValueError: unless 0 < low <= high.
    """
    draw = _log_uniform(low, high)

    def scales(key: PRNGKeyArray, shapes: Any) -> Any:
        scale = draw(key, ())
        return jax.tree.map(lambda leaf: scale.astype(leaf.dtype), shapes)

    return _scale(objective, scales)


def reparametrise_by_tensor(objective: Objective, low: float = 1e-3, high: float = 1e3) -> Objective:
    """Express every tensor of the parameters in a unit of its own: `reparametrise` with one factor per tensor.

    Args:
        objective: any objective.
        low: the least factor.
        high: the largest factor.

    Returns:
        An objective whose problems are `ScaledProblem`.

    Raises:
        ValueError: unless 0 < low <= high.
    """
    draw = _log_uniform(low, high)

    def scales(key: PRNGKeyArray, shapes: Any) -> Any:
        return _draw_by_leaf(lambda k, leaf: draw(k, ()).astype(leaf.dtype), key, shapes)

    return _scale(objective, scales)


def scale_randomly(objective: Objective, spread: float = 3.0) -> Objective:
    """Express every single parameter in a unit of its own: `reparametrise` with one factor exp(u) per parameter.

    Args:
        objective: any objective.
        spread: u is uniform in [-spread, spread].

    Returns:
        An objective whose problems are `ScaledProblem`.

    Raises:
        ValueError: the spread is negative.
    """
    if spread < 0:
        raise ValueError(f"spread must be at least 0, got {spread}")
    draw = _log_uniform(math.exp(-spread), math.exp(spread))

    def scales(key: PRNGKeyArray, shapes: Any) -> Any:
        return _draw_by_leaf(lambda k, leaf: draw(k, leaf.shape).astype(leaf.dtype), key, shapes)

    return _scale(objective, scales)


def add_convex(objective: Objective, dimension: int = 20) -> Objective:
    """Add the mean of (x_i - v_i)^2 over further parameters x to the loss.

    Part of every problem is then easy, even where the objective is flat or chaotic. The initial x and the minimizer v
    are uniform in [-1, 1]^N. Apply `scale_randomly` to the result to scale x as well.

    Args:
        objective: any objective.
        dimension: N, the size of x. The default is our choice.

    Returns:
        An objective whose parameters are `(params, x)` and whose problems are `ProblemWithConvex`.

    Raises:
        ValueError: the dimension is not positive.
    """
    if dimension < 1:
        raise ValueError(f"dimension must be at least 1, got {dimension}")

    def draw(key: PRNGKeyArray) -> ProblemWithConvex:
        problem_key, centre_key = jax.random.split(key)
        return ProblemWithConvex(objective.draw(problem_key), jax.random.uniform(centre_key, (dimension,), minval=-1.0))

    def init(problem: ProblemWithConvex, key: PRNGKeyArray) -> tuple[Any, Float[Array, "N"]]:
        params_key, x_key = jax.random.split(key)
        return objective.init(problem.problem, params_key), jax.random.uniform(x_key, (dimension,), minval=-1.0)

    def loss(problem: ProblemWithConvex, params: tuple[Any, Float[Array, "N"]], batch: Any) -> Float[Array, ""]:
        return objective.loss(problem.problem, params[0], batch) + ((params[1] - problem.centre) ** 2).mean()

    def sample(problem: ProblemWithConvex, data: Any, key: PRNGKeyArray) -> Any:
        return objective.sample(problem.problem, data, key)

    return Objective(draw, init, loss, sample)


def mixture_of_objectives(objectives: Sequence[Objective]) -> Objective:
    """Mix objectives: every run draws one of them, each with the same probability.

    Under `vmap` all of them are computed and one is kept, so a step costs as much as one step of each.

    Args:
        objectives: objectives whose parameters have the same structure, shapes and dtypes.

    Returns:
        An objective over the tuple of their data; its problems are `MixtureProblem`, its batches tuples of theirs.

    Raises:
        ValueError: no objective; or, at the first draw, parameters that differ.
    """
    members = tuple(objectives)
    if not members:
        raise ValueError("objectives must have at least one objective, got none")

    def draw(key: PRNGKeyArray) -> MixtureProblem:
        choice_key, *keys = jax.random.split(key, 1 + len(members))
        problems = tuple(member.draw(k) for member, k in zip(members, keys, strict=True))
        shapes = [jax.eval_shape(m.init, problem, key) for m, problem in zip(members, problems, strict=True)]
        for number, shape in enumerate(shapes):
            if _describe(shape) != _describe(shapes[0]):
                raise ValueError(
                    f"all objectives of a mixture must have the same parameters, got {shapes[0]} from objective 0 and "
                    f"{shape} from objective {number}"
                )
        return MixtureProblem(jax.random.randint(choice_key, (), 0, len(members)), problems)

    def init(problem: MixtureProblem, key: PRNGKeyArray) -> Any:
        cases = [lambda m=m, p=p: m.init(p, key) for m, p in zip(members, problem.problems, strict=True)]
        return jax.lax.switch(problem.choice, cases)

    def loss(problem: MixtureProblem, params: Any, batch: tuple[Any, ...]) -> Float[Array, ""]:
        cases = [
            lambda params, m=m, p=p, b=b: m.loss(p, params, b)
            for m, p, b in zip(members, problem.problems, batch, strict=True)
        ]
        return jax.lax.switch(problem.choice, cases, params)

    def sample(problem: MixtureProblem, data: tuple[Any, ...], key: PRNGKeyArray) -> tuple[Any, ...]:
        if not isinstance(data, tuple) or len(data) != len(members):
            raise ValueError(f"data must be a tuple of {len(members)}, one per objective, got {type(data)}")
        keys = jax.random.split(key, len(members))
        return tuple(m.sample(*rest) for m, *rest in zip(members, problem.problems, data, keys, strict=True))

    return Objective(draw, init, loss, sample)


def _scale(objective: Objective, scales: Callable[[PRNGKeyArray, Any], Any]) -> Objective:
    """The objective in other units; `scales(key, shapes)` draws the factors for parameters of those shapes."""

    def draw(key: PRNGKeyArray) -> ScaledProblem:
        problem_key, scale_key = jax.random.split(key)
        problem = objective.draw(problem_key)
        return ScaledProblem(problem, scales(scale_key, jax.eval_shape(objective.init, problem, key)))

    def init(problem: ScaledProblem, key: PRNGKeyArray) -> Any:
        return jax.tree.map(lambda scale, leaf: leaf / scale, problem.scale, objective.init(problem.problem, key))

    def loss(problem: ScaledProblem, params: Any, batch: Any) -> Float[Array, ""]:
        return objective.loss(problem.problem, jax.tree.map(jnp.multiply, problem.scale, params), batch)

    def sample(problem: ScaledProblem, data: Any, key: PRNGKeyArray) -> Any:
        return objective.sample(problem.problem, data, key)

    return Objective(draw, init, loss, sample)


def _log_uniform(low: float, high: float) -> Callable[[PRNGKeyArray, tuple[int, ...]], Array]:
    if not 0 < low <= high < math.inf:
        raise ValueError(f"factors need 0 < low <= high < infinity, got low={low} and high={high}")
    start, width = math.log(low), math.log(high / low)
    return lambda key, shape: jnp.exp(start + width * jax.random.uniform(key, shape))


def _draw_by_leaf(draw: Callable[[PRNGKeyArray, Any], Array], key: PRNGKeyArray, shapes: Any) -> Any:
    leaves, structure = jax.tree.flatten(shapes)
    keys = jax.random.split(key, len(leaves))
    return structure.unflatten([draw(k, leaf) for k, leaf in zip(keys, leaves, strict=True)])


def _describe(shapes: Any) -> tuple[Any, ...]:
    leaves, structure = jax.tree.flatten(shapes)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]
