"""Linear regression as a family of optimisation problems, with full or mini-batch gradients and a known optimum.

Random linear regression is a meta-training task of Maheswaranathan, Sussillo, Metz, Sun and Sohl-Dickstein 2020,
"Reverse engineering learned optimizers reveals known and novel mechanisms" (arXiv 2011.02159). The sizes, the noise
and the start are our choice: every one of them is an argument.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn_tasks.objectives.objective import Objective


class Examples(NamedTuple):
    """A regression data set or a batch of one; a problem of `linear_regression` is its whole data set."""

    inputs: Float[Array, "N D"]
    targets: Float[Array, " N"]


def linear_regression(
    inputs: int = 32, examples: int = 128, noise: float = 0.1, batch: int | None = None, scale: float = 1.0
) -> Objective:
    """Fit y = X w + noise by a linear model, the data drawn afresh for every run.

    The entries of X are standard normal, those of w normal of variance 1 / D, so that targets without noise have unit
    variance. The loss is half the mean squared error; its Hessian is X'X / N, whose eigenvalues lie, for many inputs
    and examples, between (1 - sqrt(D / N))^2 and (1 + sqrt(D / N))^2.

    Args:
        inputs: D.
        examples: N, in the data set of a run.
        noise: standard deviation of the noise on each target.
        batch: examples a batch, drawn with replacement; None: every loss and gradient is of all examples, exact.
        scale: standard deviation of each initial parameter, normal about 0.

    Returns:
        An objective over `()`. Its problems and batches are `Examples`, its parameters theta[D].

    Raises:
        ValueError: when a size is not positive or the noise negative.
    """
    rows_a_batch = examples if batch is None else batch
    for name, size in (("inputs", inputs), ("examples", examples), ("batch", rows_a_batch)):
        if size < 1:
            raise ValueError(f"linear regression needs at least one of {name}, got {name}={size}")
    if noise < 0:
        raise ValueError(f"a standard deviation is at least 0, got noise={noise}")

    def draw(key: PRNGKeyArray) -> Examples:
        x_key, w_key, noise_key = jax.random.split(key, 3)
        x = jax.random.normal(x_key, (examples, inputs))
        w = jax.random.normal(w_key, (inputs,)) / inputs**0.5
        return Examples(x, x @ w + noise * jax.random.normal(noise_key, (examples,)))

    def init(problem: Examples, key: PRNGKeyArray) -> Float[Array, "D"]:
        del problem
        return scale * jax.random.normal(key, (inputs,))

    def loss(problem: Examples, params: Float[Array, "D"], batch: Examples) -> Float[Array, ""]:
        del problem
        return 0.5 * ((batch.inputs @ params - batch.targets) ** 2).mean()

    def everything(problem: Examples, data: Any, key: PRNGKeyArray) -> Examples:
        del data, key
        return problem

    def some(problem: Examples, data: Any, key: PRNGKeyArray) -> Examples:
        del data
        rows = jax.random.randint(key, (rows_a_batch,), 0, examples)
        return Examples(problem.inputs[rows], problem.targets[rows])

    return Objective(draw, init, loss, everything if batch is None else some)


def least_squares(problem: Examples) -> tuple[Float[Array, "D"], Float[Array, ""]]:
    """The parameters of least norm among those of least loss on all examples, and that loss.

    Args:
        problem: a problem of `linear_regression`.

    Returns:
        theta[D], and half the mean squared error there: 0 up to rounding when there are no more examples than inputs.
    """
    theta = jnp.linalg.lstsq(problem.inputs, problem.targets)[0]
    return theta, 0.5 * ((problem.inputs @ theta - problem.targets) ** 2).mean()
