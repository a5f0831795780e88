"""Influence balancing: a linear system whose parameter first acts in the wrong direction, and for a long time.

Tallec & Ollivier 2017 (UORO, arXiv 1702.05043), with the constants of Vicol, Metz & Sohl-Dickstein 2021 (PES, arXiv
2112.13835). One parameter enters each of n variables, the first p with a plus sign and the others with a minus sign.
Each variable passes half of its value on to the one before it:

    s <- (s + shift(s)) / 2 + theta v,   shift(s)_i = s_{i+1},   v = (1, .. 1, -1, .. -1),   s_0 = (1, .. 1)

The loss is L_t = (s_1 - 1)^2 / 2 with the state after step t. Raising theta raises s_1 for the next 40 steps and lowers
it from then on: ds_1/dtheta after t steps is H_t, with H_1 = 1, H_10 = 10, H_20 = 16.48, H_t -> 2 (p - (n - p)) = -6.
The best theta is -1/6. Estimators that do not see far into the past move theta up instead of down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.inner import InnerLoop, scan_steps, start

__all__ = ["START", "InfluenceConfig", "final_loss", "influence_balancing", "influence_of"]

START = 0.5
"""The initial theta of the papers. Once the state has settled, the loss there is 8 and its gradient +24."""


@dataclass(frozen=True)
class InfluenceConfig:
    """The size of influence balancing."""

    size: int = 23
    """n, the number of state variables."""
    positive: int = 10
    """p, the number of variables that theta enters with a plus sign."""


def influence_balancing(config: InfluenceConfig = InfluenceConfig()) -> InnerLoop:
    """Make the inner loop: theta is a scalar array, `data` is not used, trajectories never end.

    Nothing in it is random.

    Raises:
        ValueError: no variable, or more plus signs than variables.
    """
    if not 0 <= config.positive <= config.size or config.size < 1:
        raise ValueError(
            f"need 0 <= positive <= size and size >= 1, got positive={config.positive}, size={config.size}"
        )

    def init(theta: Float[Array, ""], data: object, key: PRNGKeyArray) -> Float[Array, "n"]:
        del data, key
        return jnp.ones(config.size, theta.dtype)

    def step(
        theta: Float[Array, ""], state: Float[Array, "n"], t: Array, key: PRNGKeyArray, data: object
    ) -> tuple[Float[Array, "n"], Float[Array, ""], dict[str, Array]]:
        del t, key, data
        passed_on = jnp.concatenate([state[1:], jnp.zeros(1, state.dtype)])
        push = jnp.where(jnp.arange(config.size) < config.positive, theta, -theta)
        state = (state + passed_on) / 2 + push
        return state, jnp.square(state[0] - 1) / 2, {}

    return InnerLoop(init, step, None, None)


def influence_of(t: int, config: InfluenceConfig = InfluenceConfig()) -> float:
    """Compute H_t, the derivative of s_1 after t steps by a theta that is the same in all of them.

    H_t = sum_{k < t} h_k with the impulse response h_k = 2^-k sum_j C(k, j) v_j. The gradient of L_t is (s_1 - 1) H_t.
    """
    total = 0.0
    for k in range(t):
        impulse = sum(math.comb(k, j) * (1 if j < config.positive else -1) for j in range(min(k + 1, config.size)))
        total += impulse / 2**k
    return total


def final_loss(
    theta: Float[Array, ""], steps: int = 500, config: InfluenceConfig = InfluenceConfig()
) -> Float[Array, ""]:
    """Compute the loss after `steps` steps with a fixed theta, by which the papers judge theta."""
    loop, key = influence_balancing(config), jax.random.key(0)
    return scan_steps(loop, theta, start(loop, theta, (), key), jnp.int32(0), steps, key, ())[1][-1]
