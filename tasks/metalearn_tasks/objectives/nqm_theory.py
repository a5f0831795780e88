"""Stability of optimizers on the noisy quadratic model: the transition, bounds on its eigenvalues, expected losses.

Harrison, Metz and Sohl-Dickstein 2022, "A closer look at learned optimization: stability, robustness, and inductive
biases" (arXiv 2209.11208). An update by a nominal step size alpha and a learned matrix P,

    phi' = phi - (alpha I + P) H (phi - xi) = A phi + (I - A) xi,    A = I - (alpha I + P) H,

diverges from almost every start when the spectral radius of A exceeds 1. The paper bounds the eigenvalues of P. What
holds for symmetric P and positive definite H, and is tested, is in each docstring; the paper's "if and only if" is
narrower than it reads.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from metalearn_tasks.objectives.nqm import NoisyQuadratic

Matrix = Float[np.ndarray, "D D"] | Float[Array, "D D"]


class Bounds(NamedTuple):
    """An interval for all eigenvalues of a symmetric matrix."""

    low: float
    high: float

    def hold(self, matrix: Matrix) -> bool:
        """Whether all eigenvalues of the symmetric matrix lie between them, both included."""
        values = np.linalg.eigvalsh(np.asarray(matrix, np.float64))
        return bool(self.low <= values[0] and values[-1] <= self.high)


def transition(hessian: Matrix, alpha: float, preconditioner: Matrix) -> Float[np.ndarray, "D D"]:
    """A = I - (alpha I + P) H, the matrix that takes phi to its expectation after one update."""
    h, p = np.asarray(hessian, np.float64), np.asarray(preconditioner, np.float64)
    return np.eye(len(h)) - (alpha * np.eye(len(h)) + p) @ h


def spectral_radius(matrix: Matrix) -> float:
    """The largest absolute value of an eigenvalue."""
    return float(np.abs(np.linalg.eigvals(np.asarray(matrix, np.float64))).max())


def stable_bounds(hessian: Matrix, alpha: float) -> Bounds:
    """Theorem 1: -alpha <= lambda_min(P) and lambda_max(P) <= 2 / lambda_max(H) - alpha.

    For symmetric P:
    - together they suffice for a spectral radius of A of at most 1, whatever the eigenvectors of P;
    - the lower one is necessary: the eigenvalues of A are those of I - H^1/2 (alpha I + P) H^1/2, a congruence
      of alpha I + P, which keeps signs, so an eigenvalue of P below -alpha makes one of A larger than 1;
    - the upper one is necessary when P and H share the eigenvector of their largest eigenvalues. It is therefore the
      best bound that knows only lambda_max(H). Where they commute but pair differently it is not necessary: with
      H = diag(1, 0.1), P = diag(0, 10) and alpha = 0 the radius is 1. For P and H that commute, the exact condition
      is 0 <= (alpha + p_i) h_i <= 2 for every shared eigenvector.

    Args:
        hessian: H.
        alpha: the nominal step size.

    Returns:
        Bounds for the eigenvalues of P.

    Raises:
        ValueError: when H is not symmetric and positive definite.
    """
    return Bounds(-alpha, 2.0 / _spectrum(hessian)[-1] - alpha)


def stable_bounds_preconditioned(hessian: Matrix, alpha: float) -> Bounds:
    """Lemma 2: the bounds when the whole update is multiplied by H^-1/2, roughly what dividing by Adam's v does.

    A = I - (alpha I + P) H^-1/2 H is that of Theorem 1 with H^1/2 for H: -alpha <= lambda_min(P) and
    lambda_max(P) <= 2 / sqrt(lambda_max(H)) - alpha, in the same senses. Looser where lambda_max(H) > 1.

    Args:
        hessian: H.
        alpha: the nominal step size, of the preconditioned update.

    Returns:
        Bounds for the eigenvalues of P.

    Raises:
        ValueError: when H is not symmetric and positive definite.
    """
    return Bounds(-alpha, 2.0 / _spectrum(hessian)[-1] ** 0.5 - alpha)


def stable_bounds_multiplied(hessian: Matrix, alpha: float, largest: float) -> Bounds:
    """Lemma 3: the bounds of Theorem 1 when what is applied is P times an error d_i, 0 < d_i <= largest.

    Both shrink by 1 / largest: the more of the nominal term P is to cancel, the less error it bears. With D = diag(d),
    they suffice for D^1/2 P D^1/2, and for D P where D commutes with P or with H, in which case A has the same
    eigenvalues. For other products D P they do not suffice.

    Args:
        hessian: H.
        alpha: the nominal step size, which must be stable alone: at most 2 / lambda_max(H).
        largest: the largest d_i.

    Returns:
        Bounds for the eigenvalues of P, before the error.

    Raises:
        ValueError: when H is not symmetric and positive definite, alpha not stable alone, or `largest` not positive.
    """
    low, high = stable_bounds(hessian, alpha)
    if alpha < 0 or high < 0:
        raise ValueError(f"alpha must be stable alone, between 0 and 2 / lambda_max(H) = {high + alpha}, got {alpha}")
    if not largest > 0:
        raise ValueError(f"the largest error factor must be positive, got {largest}")
    return Bounds(low / largest, high / largest)


def inverse_root(hessian: Matrix) -> Float[np.ndarray, "D D"]:
    """H^-1/2, symmetric.

    Raises:
        ValueError: when H is not symmetric and positive definite.
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
    """The exact expectation of the losses that a training run reports, over noise and initial parameters.

    Mean and covariance of phi obey m' = A m and C' = A C A' + (I - A) Sigma (I - A)'; the loss on a fresh xi, before
    the update that it causes, is 1/2 tr(H (C + m m' + Sigma)) on average. Differentiable with respect to A.

    Args:
        problem: H and the noise.
        matrix: A, of any linear update that does not remember.
        mean: of the initial parameters.
        covariance: of the initial parameters; zero where they are given.
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
        raise ValueError(f"a Hessian is a symmetric matrix, got one of shape {h.shape} that is not")
    values = np.linalg.eigvalsh(h)
    if not values[0] > 0:
        raise ValueError(f"the Hessian must be positive definite, its least eigenvalue is {values[0]}")
    return values
