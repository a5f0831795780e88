"""Deterministic functions as families of optimisation problems: random quadratics, and test functions of known minimum.

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
from metalearn_tasks.objectives.objective import Objective, exact, nothing_drawn


class Quadratic(NamedTuple):
    """|matrix theta - target|^2. The least value is 0, at the solution of the linear system."""

    matrix: Float[Array, "D D"]
    target: Float[Array, "D"]


class Moved(NamedTuple):
    """A problem seen in other coordinates."""

    problem: object
    rotation: Float[Array, "D D"]
    shift: Float[Array, "D"]


def quadratic(
    dimension: int = 10,
    entries: Callable[[PRNGKeyArray, tuple[int, ...]], Array] = jax.random.normal,
    scale: float = 0.01,
) -> Objective:
    """Minimise |W theta - y|^2, W and y drawn afresh for every run.

    Args:
        dimension: D, of theta and of y.
        entries: `(key, shape) -> array`, which draws the entries of W and y, all independent. The default, standard
            normal, is the paper's; `jax.random.uniform`, from [0, 1), is that of the authors' released code.
        scale: standard deviation of the initial theta, normal about 0.

    Returns:
        An objective over `()` without noise. Its problems are `Quadratic`, its parameters theta[D].

    Raises:
        ValueError: when the dimension is not positive.
    """
    if dimension < 1:
        raise ValueError(f"a quadratic needs at least one dimension, got dimension={dimension}")

    def draw(key: PRNGKeyArray) -> Quadratic:
        matrix_key, target_key = jax.random.split(key)
        return Quadratic(entries(matrix_key, (dimension, dimension)), entries(target_key, (dimension,)))

    def init(problem: Quadratic, key: PRNGKeyArray) -> Float[Array, "D"]:
        return scale * jax.random.normal(key, problem.target.shape, problem.target.dtype)

    def loss(problem: Quadratic, params: Float[Array, "D"], batch: tuple[()]) -> Float[Array, ""]:
        del batch
        return ((problem.matrix @ params - problem.target) ** 2).sum()

    return Objective(draw, init, loss, exact)


def descent(on: Landscape) -> Objective:
    """Descend a test function from a uniformly random point of its box.

    Args:
        on: the test function; see `landscapes.landscape`.

    Returns:
        An objective over `()` without noise, of one problem and parameters x[D]. `rotated` and `shifted` make families
        of it.
    """
    dimension = on.minimizer.shape[0]

    def init(problem: tuple[()], key: PRNGKeyArray) -> Float[Array, "D"]:
        del problem
        return jax.random.uniform(key, (dimension,), minval=on.low, maxval=on.high)

    def loss(problem: tuple[()], params: Float[Array, "D"], batch: tuple[()]) -> Float[Array, ""]:
        del problem, batch
        return on.value(params)

    return Objective(nothing_drawn, init, loss, exact)


def rosenbrock(dimension: int = 2) -> Objective:
    """Rosenbrock's curved valley, sum of 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2; least, 0, where every x_i is 1.

    Args:
        dimension: D, at least 2.

    Returns:
        `descent` of it: starts are uniform in [-2.048, 2.048]^D.

    Raises:
        ValueError: when the dimension is less than 2.
    """
    return descent(landscape("rosenbrock", dimension))


def rotated(objective: Objective) -> Objective:
    """The same problems in randomly rotated or reflected coordinates, uniform among all orthogonal matrices.

    What an optimizer that treats coordinates separately sees of a problem then depends on the draw; starts and minima
    turn with it, about the origin.

    Args:
        objective: its parameters are one vector x[D].

    Returns:
        An objective whose parameters z give x = R z; its problems are `Moved`.

    Raises:
        ValueError: when drawn, if the parameters are not one vector.
    """

    def move(key: PRNGKeyArray, dimension: int) -> tuple[Array, Array]:
        return jax.random.orthogonal(key, dimension), jnp.zeros(dimension)

    return _moved(objective, move)


def shifted(objective: Objective, scale: float = 1.0) -> Objective:
    """The same problems at another place: starts and minima moved together, by a normally distributed vector.

    Args:
        objective: its parameters are one vector x[D].
        scale: standard deviation of each coordinate of the shift.

    Returns:
        An objective whose parameters z give x = z - s; its problems are `Moved`.

    Raises:
        ValueError: when drawn, if the parameters are not one vector.
    """

    def move(key: PRNGKeyArray, dimension: int) -> tuple[Array, Array]:
        return jnp.eye(dimension), scale * jax.random.normal(key, (dimension,))

    return _moved(objective, move)


def moved_point(problem: Moved, x: Float[Array, "D"]) -> Float[Array, "D"]:
    """Where a point x of the original coordinates lies in those of `rotated` and `shifted`: a minimizer, say."""
    return jnp.matmul(problem.rotation.T, x) + problem.shift


def _moved(objective: Objective, move: Callable[[PRNGKeyArray, int], tuple[Array, Array]]) -> Objective:
    def draw(key: PRNGKeyArray) -> Moved:
        problem_key, move_key = jax.random.split(key)
        problem = objective.draw(problem_key)
        shapes = jax.eval_shape(objective.init, problem, key)
        if not isinstance(shapes, jax.ShapeDtypeStruct) or shapes.ndim != 1:
            raise ValueError(f"only objectives whose parameters are one vector [D] can be moved, got {shapes}")
        return Moved(problem, *move(move_key, shapes.shape[0]))

    def init(problem: Moved, key: PRNGKeyArray) -> Float[Array, "D"]:
        return moved_point(problem, objective.init(problem.problem, key))

    def loss(problem: Moved, params: Float[Array, "D"], batch: object) -> Float[Array, ""]:
        return objective.loss(problem.problem, problem.rotation @ (params - problem.shift), batch)

    def sample(problem: Moved, data: object, key: PRNGKeyArray) -> object:
        return objective.sample(problem.problem, data, key)

    return Objective(draw, init, loss, sample)
