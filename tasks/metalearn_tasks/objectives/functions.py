"""Deterministic functions as families of optimisation problems: random quadratics, test functions of known minimum.

The quadratics are those of Andrychowicz, Denil, Gomez Colmenarejo, Hoffman, Pfau, Schaul, Shillingford and de Freitas
2016, "Learning to learn by gradient descent by gradient descent" (arXiv 1606.04474), section 3.1; Rosenbrock's function
is a meta-training task of Maheswaranathan, Sussillo, Metz, Sun and Sohl-Dickstein 2020 (arXiv 2011.02159).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn_tasks.objectives.landscapes import Landscape, landscape
from metalearn_tasks.objectives.objective import Objective, draw_nothing, sample_nothing

__all__ = ["MovedProblem", "Quadratic", "descent", "move_point", "quadratic", "rosenbrock", "rotate", "shift"]


class Quadratic(NamedTuple):
    """The function |matrix theta - target|^2; its least value is 0, at the solution of the linear system."""

    matrix: Float[Array, "D D"]
    target: Float[Array, "D"]


class MovedProblem(NamedTuple):
    """A problem in other coordinates z, where x = rotation (z - shift)."""

    problem: object
    rotation: Float[Array, "D D"]
    shift: Float[Array, "D"]


def quadratic(
    dimension: int = 10,
    entries: Callable[[PRNGKeyArray, tuple[int, ...]], Array] = jax.random.normal,
    scale: float = 0.01,
) -> Objective:
    """Minimise |W theta - y|^2; every run draws a new W and y.

    Args:
        dimension: D, of theta and of y.
        entries: `(key, shape) -> array`, draws the entries of W and y independently. The default, standard normal, is
            the paper's; the authors' released code has `jax.random.uniform` on [0, 1).
        scale: standard deviation of the initial theta, normal about 0.

    Returns:
        An objective over `()` without noise. Its problems are `Quadratic`, its parameters theta[D].

    Raises:
        ValueError: the dimension is not positive.
    """
    if dimension < 1:
        raise ValueError(f"dimension must be at least 1, got {dimension}")

    def draw(key: PRNGKeyArray) -> Quadratic:
        matrix_key, target_key = jax.random.split(key)
        return Quadratic(entries(matrix_key, (dimension, dimension)), entries(target_key, (dimension,)))

    def init(problem: Quadratic, key: PRNGKeyArray) -> Float[Array, "D"]:
        return scale * jax.random.normal(key, problem.target.shape, problem.target.dtype)

    def loss(problem: Quadratic, params: Float[Array, "D"], batch: tuple[()]) -> Float[Array, ""]:
        del batch
        return ((problem.matrix @ params - problem.target) ** 2).sum()

    return Objective(draw, init, loss, sample_nothing)


def descent(on: Landscape) -> Objective:
    """Minimise a test function from a uniformly random point of its box.

    Args:
        on: the test function; see `landscapes.landscape`.

    Returns:
        An objective over `()` without noise, with one problem and parameters x[D]. `rotate` and `shift` make families
        of it.
    """
    dimension = on.minimizer.shape[0]

    def init(problem: tuple[()], key: PRNGKeyArray) -> Float[Array, "D"]:
        del problem
        return jax.random.uniform(key, (dimension,), minval=on.low, maxval=on.high)

    def loss(problem: tuple[()], params: Float[Array, "D"], batch: tuple[()]) -> Float[Array, ""]:
        del problem, batch
        return on.value(params)

    return Objective(draw_nothing, init, loss, sample_nothing)


def rosenbrock(dimension: int = 2) -> Objective:
    """Minimise Rosenbrock's curved valley, sum_i 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2; its minimum 0 is at x_i = 1.

    Args:
        dimension: D, at least 2.

    Returns:
        `descent` of it: starts are uniform in [-2.048, 2.048]^D.

    Raises:
        ValueError: the dimension is less than 2.
    """
    return descent(landscape("rosenbrock", dimension))


def rotate(objective: Objective) -> Objective:
    """Rotate or reflect the coordinates of every problem by a uniformly drawn orthogonal matrix.

    Starts and minima turn with the coordinates, about the origin. For an optimizer that treats coordinates separately,
    the difficulty of a problem then depends on the draw.

    Args:
        objective: an objective whose parameters are one vector x[D].

    Returns:
        An objective whose parameters z give x = R z; its problems are `MovedProblem`.

    Raises:
        ValueError: at the first draw, the parameters are not one vector.
    """

    def move(key: PRNGKeyArray, dimension: int) -> tuple[Array, Array]:
        return jax.random.orthogonal(key, dimension), jnp.zeros(dimension)

    return _move(objective, move)


def shift(objective: Objective, scale: float = 1.0) -> Objective:
    """Shift the start and the minimum of every problem by the same normally distributed vector.

    Args:
        objective: an objective whose parameters are one vector x[D].
        scale: standard deviation of each coordinate of the shift.

    Returns:
        An objective whose parameters z give x = z - s; its problems are `MovedProblem`.

    Raises:
        ValueError: at the first draw, the parameters are not one vector.
    """

    def move(key: PRNGKeyArray, dimension: int) -> tuple[Array, Array]:
        return jnp.eye(dimension), scale * jax.random.normal(key, (dimension,))

    return _move(objective, move)


def move_point(problem: MovedProblem, x: Float[Array, "D"]) -> Float[Array, "D"]:
    """Compute the coordinates z of a point x, such as a minimizer, after `rotate` or `shift`."""
    return jnp.matmul(problem.rotation.T, x) + problem.shift


def _move(objective: Objective, move: Callable[[PRNGKeyArray, int], tuple[Array, Array]]) -> Objective:
    def draw(key: PRNGKeyArray) -> MovedProblem:
        problem_key, move_key = jax.random.split(key)
        problem = objective.draw(problem_key)
        shapes = jax.eval_shape(objective.init, problem, key)
        if not isinstance(shapes, jax.ShapeDtypeStruct) or shapes.ndim != 1:
            raise ValueError(f"the parameters must be one vector [D] to be rotated or shifted, got {shapes}")
        return MovedProblem(problem, *move(move_key, shapes.shape[0]))

    def init(problem: MovedProblem, key: PRNGKeyArray) -> Float[Array, "D"]:
        return move_point(problem, objective.init(problem.problem, key))

    def loss(problem: MovedProblem, params: Float[Array, "D"], batch: object) -> Float[Array, ""]:
        return objective.loss(problem.problem, problem.rotation @ (params - problem.shift), batch)

    def sample(problem: MovedProblem, data: object, key: PRNGKeyArray) -> object:
        return objective.sample(problem.problem, data, key)

    return Objective(draw, init, loss, sample)
