"""Linear regression as a family of optimisation problems, with full or mini-batch gradients and a known optimum.

Random linear regression is a meta-training task of Maheswaranathan, Sussillo, Metz, Sun and Sohl-Dickstein 2020,
"Reverse engineering learned optimizers reveals known and novel mechanisms" (arXiv 2011.02159). The default sizes, noise
and start are our choice.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn_tasks.objectives.objective import Objective

__all__ = ["Examples", "least_squares", "linear_regression"]


class Examples(NamedTuple):
    """A regression data set or a batch of one; a problem of `linear_regression` is its whole data set."""

    inputs: Float[Array, "N D"]
    targets: Float[Array, " N"]


def linear_regression(
    inputs: int = 32, examples: int = 128, noise: float = 0.1, batch: int | None = None, scale: float = 1.0
) -> Objective:
    """Fit y = X w + noise by a linear model; every run draws new data.

    The entries of X are standard normal. Those of w are normal with variance 1 / D, so that targets without noise have
    unit variance. The loss is half the mean squared error. Its Hessian is X'X / N; for large D and N its eigenvalues
    lie between (1 - sqrt(D / N))^2 and (1 + sqrt(D / N))^2.

    Args:
        inputs: D, the width of an example.
        examples: N, the size of a run's data set.
        noise: standard deviation of the noise on each target.
        batch: examples per batch, drawn with replacement. None: every loss and gradient is exact, over all examples.
        scale: standard deviation of each initial parameter, normal about 0.

    Returns:
        An objective over `()`. Its problems and batches are `Examples`, its parameters theta[D].

    Raises:
        ValueError: a size that is not positive, or negative noise.
    """
    rows = examples if batch is None else batch
    for name, size in (("inputs", inputs), ("examples", examples), ("batch", rows)):
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    if noise < 0:
        raise ValueError(f"noise must be at least 0, got {noise}")

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

    def take_all(problem: Examples, data: Any, key: PRNGKeyArray) -> Examples:
        del data, key
        return problem

    def take_some(problem: Examples, data: Any, key: PRNGKeyArray) -> Examples:
        del data
        taken = jax.random.randint(key, (rows,), 0, examples)
        return Examples(problem.inputs[taken], problem.targets[taken])

    return Objective(draw, init, loss, take_all if batch is None else take_some)


def least_squares(problem: Examples) -> tuple[Float[Array, "D"], Float[Array, ""]]:
    """Compute the parameters of least loss on all examples, of least norm if there are several, and that loss.

    Args:
        problem: a problem of `linear_regression`.

    Returns:
        theta[D], and half its mean squared error, which is 0 up to rounding if there are no more examples than inputs.
    """
    theta = jnp.linalg.lstsq(problem.inputs, problem.targets)[0]
    return theta, 0.5 * ((problem.inputs @ theta - problem.targets) ** 2).mean()
