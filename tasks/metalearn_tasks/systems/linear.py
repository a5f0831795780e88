"""A random linear system with a quadratic loss: the mean and the variance of evolution strategies, exactly.

s <- A s + B theta,  L_t = (c_t . s - y_t)^2 / 2 with s after the update. This is the linear-Gaussian setting of the
variance analyses of Vicol, Metz & Sohl-Dickstein 2021 (PES, arXiv 2112.13835), Vicol 2023 (ES-Single, arXiv 2304.11153)
and Li et al. 2023 (NRES, arXiv 2304.12180). The formulas below hold for any influence between windows.

The loss is quadratic, so the difference of an antithetic pair is linear in its noise. With W windows and noise eps_q in
window q it is delta_w = sum_q g[w, q] . eps_q, for any standard deviation of the noise. Each estimate is a quadratic
form in Gaussians. The formulas are therefore exact, not asymptotic. All are for one antithetic pair and a fixed theta.
The loss of a window is the sum over its steps. "Variance" is the trace of the covariance of the sum of the estimates of
all windows of one trajectory; n pairs divide it by n.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.inner import InnerLoop

__all__ = [
    "LinearSystem",
    "coarsen",
    "full_gradient",
    "gpes_variance",
    "influence",
    "linear",
    "linear_system",
    "nres_analytic_variance",
    "nres_second_moment",
    "nres_variance",
    "pes_analytic_variance",
    "pes_second_moment",
    "pes_variance",
]


class LinearSystem(NamedTuple):
    """The constants of a system of S state variables, P parameters and T steps; the `data` of the inner loop.

    Attributes:
        transition: A.
        control: B.
        readout: c_t.
        target: y_t.
        initial: s_0.
    """

    transition: Float[Array, "S S"]
    control: Float[Array, "S P"]
    readout: Float[Array, "T S"]
    target: Float[Array, " T"]
    initial: Float[Array, " S"]


def linear_system(
    key: PRNGKeyArray, state: int, parameters: int, length: int, spectral_radius: float = 0.9
) -> LinearSystem:
    """Draw Gaussian constants, scaled so that readouts are of order one if theta is.

    Args:
        key: names the system.
        state: S, the number of state variables.
        parameters: P, the number of parameters.
        length: T, the number of steps.
        spectral_radius: spectral radius to which A is scaled.

    Returns:
        A system in JAX's default float type, which is float64 if 64 bits are enabled.

    Raises:
        ValueError: a size that is not positive.
    """
    if min(state, parameters, length) < 1:
        raise ValueError(
            f"state, parameters and length must be at least 1, got state={state}, parameters={parameters}, "
            f"length={length}"
        )
    key_a, key_b, key_c, key_y, key_s = jax.random.split(key, 5)
    transition = jax.random.normal(key_a, (state, state))
    return LinearSystem(
        transition * (spectral_radius / jnp.abs(jnp.linalg.eigvals(transition)).max()),
        jax.random.normal(key_b, (state, parameters)) * parameters**-0.5,
        jax.random.normal(key_c, (length, state)) * state**-0.5,
        jax.random.normal(key_y, (length,)),
        jax.random.normal(key_s, (state,)),
    )


def linear(length: int) -> InnerLoop:
    """Make the inner loop: theta is an array [P], `data` is a `LinearSystem` of at least `length` steps.

    Nothing in it is random, so all variance of an estimate comes from the estimator's own noise.

    Raises:
        ValueError: the length is not positive, or the system given as data has fewer steps.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")

    def init(theta: Float[Array, "P"], data: LinearSystem, key: PRNGKeyArray) -> Float[Array, "S"]:
        del key
        steps = data.target.shape[0]
        if steps < length:
            raise ValueError(f"the linear system must have at least the {length} steps of the inner loop, got {steps}")
        return data.initial.astype(theta.dtype)

    def step(
        theta: Float[Array, "P"], state: Float[Array, "S"], t: Array, key: PRNGKeyArray, data: LinearSystem
    ) -> tuple[Float[Array, "S"], Float[Array, ""], dict[str, Array]]:
        del key
        a, b, c, y, _ = jax.tree.map(lambda leaf: leaf.astype(theta.dtype), data)
        state = a @ state + b @ theta
        return state, jnp.square(c[t] @ state - y[t]) / 2, {}

    return InnerLoop(init, step, None, length)


def influence(system: LinearSystem, theta: Float[Array, "P"], window: int) -> Float[Array, "W W P"]:
    """Compute how the theta of each window moves the loss of each window.

    The derivative of L_t by the theta used in step r <= t is (c_t . s - y_t) B^T (A^T)^(t-r) c_t. It is summed over the
    steps t of window w and the steps r of window q.

    Args:
        system: the constants, T steps.
        theta: the point of the gradient.
        window: steps per window. If it does not divide T, the last window is shorter.

    Returns:
        g[w, q], the gradient of the summed loss of window w with respect to the theta used in window q; zero for q > w.

    Raises:
        ValueError: the window is not positive.
    """
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    a, b, c, y, s = system
    length = y.shape[0]

    def advance(carry: tuple[Array, Array], _: Any) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        power, free = carry
        return (a @ power, a @ free), (power, a @ free)

    powers, free = jax.lax.scan(advance, (b, s), length=length)[1]  # A^k B [T, S, P], A^(k+1) s_0 [T, S]
    response = jnp.einsum("ts,ksp->tkp", c, powers)  # of readout t to the theta used k steps earlier
    steps = jnp.arange(length)
    lag = steps[:, None] - steps[None, :]
    by_step = jnp.where(lag[..., None] >= 0, jnp.take_along_axis(response, jnp.maximum(lag, 0)[..., None], 1), 0.0)
    residual = jnp.einsum("ts,ts->t", c, free) + jnp.einsum("trp,p->t", by_step, theta) - y
    member = jax.nn.one_hot(steps // window, -(-length // window), dtype=theta.dtype)  # [T, W]
    return jnp.einsum("t,trp,tw,rq->wqp", residual, by_step, member, member)


def full_gradient(g: Float[Array, "W W P"]) -> Float[Array, "P"]:
    """Compute the gradient of the whole trajectory's loss, which is the mean of every unbiased estimator."""
    return g.sum((0, 1))


def coarsen(g: Float[Array, "W W P"], windows: int) -> Float[Array, "V V P"]:
    """Sum the influence over groups of `windows` consecutive windows; the last group can be smaller.

    Raises:
        ValueError: `windows` is not positive.
    """
    if windows < 1:
        raise ValueError(f"windows must be at least 1, got {windows}")
    member = jax.nn.one_hot(jnp.arange(len(g)) // windows, -(-len(g) // windows), dtype=g.dtype)
    return jnp.einsum("wqp,wv,qu->vup", g, member, member)


def pes_variance(g: Float[Array, "W W P"]) -> Float[Array, ""]:
    """Compute the variance of PES, with new noise in every window.

    It is P sum_{s, q} |G_sq|^2 + sum_{s, q} G_sq . G_qs with G_sq = sum_{w >= max(s, q)} g_wq.
    """
    return _accumulated_variance(_tail_sums(g))


def gpes_variance(g: Float[Array, "W W P"], windows: int) -> Float[Array, ""]:
    """Compute the variance of GPES, whose noise lasts `windows` windows: 1 gives PES, W or more gives NRES.

    The accumulator changes only with the noise, so the windows of one noise segment count as one window.

    Raises:
        ValueError: `windows` is not positive.
    """
    return pes_variance(coarsen(g, windows))


def nres_variance(g: Float[Array, "W W P"]) -> Float[Array, ""]:
    """Compute the variance (P + 1) |g|^2 of NRES, ES-Single and ES on whole trajectories: one noise per trajectory."""
    return (g.shape[-1] + 1) * jnp.square(full_gradient(g)).sum()


def pes_analytic_variance(g: Float[Array, "W W P"]) -> Float[Array, ""]:
    """Compute the variance of PES with exact in-window gradients g[w, w]: that of PES, summed over w > max(s, q)."""
    return _accumulated_variance(_tail_sums(g[1:]))


def nres_analytic_variance(g: Float[Array, "W W P"]) -> Float[Array, ""]:
    """Compute the variance of NRES with in-window gradients as control variate: (P + 1) |g - sum_w g[w, w]|^2."""
    local = jnp.einsum("wwp->p", g)
    return (g.shape[-1] + 1) * jnp.square(full_gradient(g) - local).sum()


def pes_second_moment(g: Float[Array, "W W P"]) -> Float[Array, " W"]:
    """Compute E|estimate|^2 of PES for each window w = 1 .. W: P w sum_q |g_wq|^2 + 2 |sum_q g_wq|^2."""
    number = jnp.arange(1, len(g) + 1).astype(g.dtype)
    return g.shape[-1] * number * jnp.square(g).sum((1, 2)) + 2 * jnp.square(g.sum(1)).sum(-1)


def nres_second_moment(g: Float[Array, "W W P"]) -> Float[Array, " W"]:
    """Compute E|estimate|^2 of NRES for each window: (P + 2) |sum_q g_wq|^2, which is at most that of PES."""
    return (g.shape[-1] + 2) * jnp.square(g.sum(1)).sum(-1)


def _tail_sums(g: Float[Array, "V W P"]) -> Float[Array, "V V P"]:
    """G[s, q] = sum_{w >= max(s, q)} g[w, q], for as many segments as there are rows."""
    tail = jnp.flip(jnp.cumsum(jnp.flip(g, 0), 0), 0)[:, : len(g)]  # [s, q], over w >= s
    first = jnp.arange(len(g))
    return tail[jnp.maximum(first[:, None], first[None, :]), first[None, :]]


def _accumulated_variance(sums: Float[Array, "V V P"]) -> Float[Array, ""]:
    """Trace of the covariance of sum_{s, q} eps_s (G_sq . eps_q), eps standard normal."""
    return sums.shape[-1] * jnp.square(sums).sum() + jnp.einsum("sqp,qsp->", sums, sums)
