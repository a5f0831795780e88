"""A pole on a cart, as a compiled environment, and the policy gradient that teaches a network to balance it.

Barto, Sutton and Anderson 1983, "Neuronlike adaptive elements that can solve difficult learning control problems". The
constants are those of the widely used Gym environment, from memory: gravity 9.8, cart 1 kg, pole .1 kg and of half
length .5 m, force 10 N, Euler steps of .02 s; an episode ends at 2.4 m or 12 degrees. The policy gradient is REINFORCE
(Williams 1992) with the mean over episodes as baseline at each time.

Shapes: E episodes, T steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

__all__ = ["advance", "balanced", "mean_return", "policy_loss", "roll_out"]

GRAVITY, CART, POLE, HALF_LENGTH, FORCE, SECONDS = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
FARTHEST, STEEPEST = 2.4, 12 * 2 * jnp.pi / 360

Policy = Callable[[Any, Float[Array, "4"]], Float[Array, "2"]]
"""`(params, state) -> logits` of pushing left and right."""


def advance(state: Float[Array, "4"], action: Int[Array, ""]) -> Float[Array, "4"]:
    """One Euler step.

    Args:
        state: place in m, speed, angle in radians, angular speed.
        action: 0 pushes left, 1 right.
    """
    _, speed, angle, turn = state
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    push = (jnp.where(action == 1, FORCE, -FORCE) + POLE * HALF_LENGTH * turn**2 * sine) / (CART + POLE)
    bend = GRAVITY * sine - cosine * push
    turning = bend / (HALF_LENGTH * (4 / 3 - POLE * cosine**2 / (CART + POLE)))
    moving = push - POLE * HALF_LENGTH * turning * cosine / (CART + POLE)
    return state + SECONDS * jnp.stack([speed, moving, turn, turning])


def balanced(state: Float[Array, "4"]) -> Bool[Array, ""]:
    """Whether the episode goes on."""
    return (jnp.abs(state[0]) <= FARTHEST) & (jnp.abs(state[2]) <= STEEPEST)


def roll_out(
    policy: Policy, params: Any, key: PRNGKeyArray, steps: int
) -> tuple[Float[Array, "T 4"], Int[Array, "T"], Bool[Array, "T"]]:
    """One episode, with actions drawn from the policy.

    Args:
        policy: see `Policy`.
        params: its parameters.
        key: random key, of the start and the actions.
        steps: T, after which it ends in any case.

    Returns:
        The states in which it acted, the actions, and whether the episode still went on after each.
    """
    first, key = jax.random.split(key)

    def step(carry: tuple[Array, Array], t: Array) -> tuple[tuple[Array, Array], tuple[Array, Array, Array]]:
        state, alive = carry
        action = jax.random.categorical(jax.random.fold_in(key, t), policy(params, state))
        new = jnp.where(alive, advance(state, action), state)
        alive = alive & balanced(new)
        return (new, alive), (state, action, alive)

    start = jax.random.uniform(first, (4,), minval=-0.05, maxval=0.05)
    return jax.lax.scan(step, (start, jnp.bool_(True)), jnp.arange(steps))[1]


def mean_return(policy: Policy, params: Any, keys: Key[Array, "E"], steps: int) -> Float[Array, ""]:
    """The mean number of steps for which the pole stays up.

    Args:
        policy: see `Policy`.
        params: its parameters.
        keys: [E], one per episode.
        steps: the most there can be.
    """
    alive = jax.vmap(lambda key: roll_out(policy, params, key, steps)[2])(keys)
    return alive.sum(1).astype(jnp.float32).mean()


def policy_loss(policy: Policy, params: Any, keys: Key[Array, "E"], steps: int) -> Float[Array, ""]:
    """A number whose gradient is the policy gradient, with a minus: to be minimised.

    Args:
        policy: see `Policy`.
        params: its parameters.
        keys: [E], one per episode; at least two, for the baseline.
        steps: T.
    """
    still = jax.lax.stop_gradient(params)
    states, actions, alive = jax.vmap(lambda key: roll_out(policy, still, key, steps))(keys)
    to_go = jnp.cumsum(alive[:, ::-1].astype(states.dtype), 1)[:, ::-1]
    advantage = (to_go - to_go.mean(0, keepdims=True)) / (to_go.std() + 1e-6)
    logits = jax.vmap(jax.vmap(policy, (None, 0)), (None, 0))(params, states)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), actions[..., None], -1)[..., 0]
    # The action that let the pole fall was a choice, too.
    acted = jnp.concatenate([jnp.ones_like(alive[:, :1]), alive[:, :-1]], 1).astype(states.dtype)
    return -(chosen * advantage * acted).sum() / acted.sum()
