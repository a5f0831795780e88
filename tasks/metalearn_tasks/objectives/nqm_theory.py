"""Stability of optimizers on the noisy quadratic model: transition matrix, bounds on eigenvalues, expected losses.

Harrison, Metz and Sohl-Dickstein 2022, "A closer look at learned optimization: stability, robustness, and inductive
biases" (arXiv 2209.11208). An update by a nominal step size alpha and a learned matrix P,

    phi' = phi - (alpha I + P) H (phi - xi) = A phi + (I - A) xi,    A = I - (alpha I + P) H,

diverges from almost every start if the spectral radius of A exceeds 1. The paper bounds the eigenvalues of P. Its "if
and only if" does not hold in general: each docstring states what holds, and is tested, for symmetric P and positive
definite H.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from metalearn_tasks.objectives.nqm import NoisyQuadratic

__all__ = [
    "Bounds",
    "expected_losses",
    "inverse_root",
    "spectral_radius",
    "stable_bounds",
    "stable_bounds_multiplied",
    "stable_bounds_preconditioned",
    "transition",
]

Matrix = Float[np.ndarray, "D D"] | Float[Array, "D D"]


class Bounds(NamedTuple):
    """An interval for all eigenvalues of a symmetric matrix.

    Attributes:
        low: the least eigenvalue allowed.
        high: the largest eigenvalue allowed.
    """

    low: float
    high: float

    def hold(self, matrix: Matrix) -> bool:
        """Whether all eigenvalues of the symmetric matrix lie in the interval, its ends included."""
        values = np.linalg.eigvalsh(np.asarray(matrix, np.float64))
        return bool(self.low <= values[0] and values[-1] <= self.high)


def transition(hessian: Matrix, alpha: float, preconditioner: Matrix) -> Float[np.ndarray, "D D"]:
    """Compute A = I - (alpha I + P) H, which maps phi to its expectation after one update."""
    h, p = np.asarray(hessian, np.float64), np.asarray(preconditioner, np.float64)
    return np.eye(len(h)) - (alpha * np.eye(len(h)) + p) @ h


def spectral_radius(matrix: Matrix) -> float:
    """Compute the largest absolute value of an eigenvalue."""
    return float(np.abs(np.linalg.eigvals(np.asarray(matrix, np.float64))).max())


def stable_bounds(hessian: Matrix, alpha: float) -> Bounds:
    """Theorem 1: -alpha <= lambda_min(P) and lambda_max(P) <= 2 / lambda_max(H) - alpha.

    For symmetric P:

    - Both bounds together suffice for a spectral radius of A of at most 1, whatever the eigenvectors of P.
    - The lower bound is necessary. The eigenvalues of A are those of I - H^1/2 (alpha I + P) H^1/2, where the second
      term is a congruence of alpha I + P and keeps its signs. An eigenvalue of P below -alpha therefore gives A an
      eigenvalue above 1.
    - The upper bound is necessary if P and H share the eigenvector of their largest eigenvalues. It is therefore the
      best bound that uses lambda_max(H) alone. If P and H commute but pair differently, it is not necessary: with
      H = diag(1, 0.1), P = diag(0, 10) and alpha = 0 the radius is 1. If P and H commute, the exact condition is
      0 <= (alpha + p_i) h_i <= 2 for every shared eigenvector.

    Args:
        hessian: H.
        alpha: the nominal step size.

    Returns:
        Bounds for the eigenvalues of P.

    Raises:
        ValueError: H is not symmetric and positive definite.
    """
    return Bounds(-alpha, 2.0 / _spectrum(hessian)[-1] - alpha)


def stable_bounds_preconditioned(hessian: Matrix, alpha: float) -> Bounds:
    """Lemma 2: the bounds if the whole update is multiplied by H^-1/2, which is roughly what Adam's division does.

    A = I - (alpha I + P) H^-1/2 H is the A of Theorem 1 with H^1/2 in place of H. So -alpha <= lambda_min(P) and
    lambda_max(P) <= 2 / sqrt(lambda_max(H)) - alpha, in the same senses. This is looser if lambda_max(H) > 1.

    Args:
        hessian: H.
        alpha: the nominal step size, of the preconditioned update.

    Returns:
        Bounds for the eigenvalues of P.

    Raises:
        ValueError: H is not symmetric and positive definite.
    """
    return Bounds(-alpha, 2.0 / _spectrum(hessian)[-1] ** 0.5 - alpha)


def stable_bounds_multiplied(hessian: Matrix, alpha: float, largest: float) -> Bounds:
    """Lemma 3: the bounds of Theorem 1 if P is applied with multiplicative errors d_i, 0 < d_i <= largest.

    Both bounds are divided by `largest`. With D = diag(d), they suffice for D^1/2 P D^1/2. They also suffice for D P if
    D commutes with P or with H, because A then has the same eigenvalues. For other products D P they do not suffice.

    Args:
        hessian: H.
        alpha: the nominal step size, between 0 and 2 / lambda_max(H), so that it is stable without P.
        largest: the largest d_i.

    Returns:
        Bounds for the eigenvalues of P, before the error.

    Raises:
        ValueError: H is not symmetric and positive definite, alpha is not stable without P, or `largest` not positive.
    """
    low, high = stable_bounds(hessian, alpha)
    if alpha < 0 or high < 0:
        raise ValueError(f"alpha must be between 0 and 2 / lambda_max(H) = {high + alpha}, got {alpha}")
    if not largest > 0:
        raise ValueError(f"largest must be positive, got {largest}")
    return Bounds(low / largest, high / largest)


def inverse_root(hessian: Matrix) -> Float[np.ndarray, "D D"]:
    """Compute the symmetric matrix H^-1/2.

    Raises:
        ValueError: H is not symmetric and positive definite.
    """
    _spectrum(hessian)
    values, vectors = np.linalg.eigh(np.asarray(hessian, np.float64))
    return vectors / np.sqrt(values) @ vectors.T


def expected_losses(
    problem: NoisyQuadratic,
    matrix: Float[Array, "D D"],
    mean: Float[Array, "D"],
    covariance: Float[Array, "D D"],
    length: int,
) -> Float[Array, " T"]:
    """Compute the exact expectation of the losses that a training run reports, over noise and initial parameters.

    Mean and covariance of phi obey m' = A m and C' = A C A' + (I - A) Sigma (I - A)'. The expected loss on a fresh xi,
    before the update made with it, is 1/2 tr(H (C + m m' + Sigma)). The result is differentiable with respect to A.

    Args:
        problem: H and the noise.
        matrix: A of any linear update without memory.
        mean: mean of the initial parameters.
        covariance: covariance of the initial parameters; zero if they are fixed.
        length: T, the number of steps.

    Returns:
        The expected loss at steps 0 to T - 1.
    """
    sigma = problem.factor @ problem.factor.T
    rest = jnp.eye(mean.shape[0], dtype=matrix.dtype) - matrix
    noise = rest @ sigma @ rest.T

    def step(moments: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        m, c = moments
        second = c + m[:, None] * m[None, :] + sigma
        return (matrix @ m, matrix @ c @ matrix.T + noise), 0.5 * (problem.hessian * second).sum()

    return jax.lax.scan(step, (mean, covariance), None, length)[1]


def _spectrum(hessian: Matrix) -> Float[np.ndarray, "D"]:
    h = np.asarray(hessian, np.float64)
    if h.ndim != 2 or h.shape[0] != h.shape[1] or not np.allclose(h, h.T):
        raise ValueError(f"the Hessian must be a symmetric matrix, got one of shape {h.shape} that is not symmetric")
    values = np.linalg.eigvalsh(h)
    if not values[0] > 0:
        raise ValueError(f"the Hessian must be positive definite, got one whose least eigenvalue is {values[0]}")
    return values
