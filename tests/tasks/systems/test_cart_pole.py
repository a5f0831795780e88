"""The pole on a cart against its equations in NumPy, and the policy gradient against what it must do."""

import jax
import jax.numpy as jnp
import numpy as np

from metalearn_tasks.systems.cart_pole import advance, balanced, mean_return, policy_loss, roll_out


def follow(state, action):
    """Newton's equations of cart and pole as a linear system in the two accelerations, solved densely in float64."""
    _, speed, angle, turn = state
    s, c, m, half, force = np.sin(angle), np.cos(angle), 0.1, 0.5, 10.0 if action else -10.0
    # A uniform rod of mass m and half length l: horizontal balance of the whole, and torque about the hinge.
    matrix = np.array([[1.0 + m, m * half * c], [m * half * c, 4 / 3 * m * half**2]])
    moving, turning = np.linalg.solve(matrix, [force + m * half * turn**2 * s, m * 9.8 * half * s])
    return state + 0.02 * np.array([speed, moving, turn, turning])


def test_steps_solve_the_equations_of_motion():
    states = np.random.default_rng(0).uniform(-1, 1, (50, 4)) * [2.4, 2.0, 0.2, 2.0]
    actions = np.arange(50) % 2
    ours = jax.vmap(advance)(jnp.asarray(states), jnp.asarray(actions))
    exact = np.stack([follow(state, action) for state, action in zip(states, actions, strict=True)])
    np.testing.assert_allclose(ours, exact, atol=1e-12)


def test_episodes_end_where_the_pole_falls():
    def linear(params, state):
        return jnp.stack([-(params @ state), params @ state]) * 1e3

    keys = jax.random.split(jax.random.key(0), 6)
    feedback = jnp.array([0.1, 0.3, 3.0, 1.0])  # pushes towards where the pole leans

    @jax.jit
    def both(good):
        states, _, alive = jax.vmap(lambda key: roll_out(linear, -good, key, 60))(keys)
        return mean_return(linear, good, keys, 60), mean_return(linear, -good, keys, 60), states, alive

    up, down, states, alive = both(feedback)
    assert up == 60 and 5 < down < 15
    # An action is counted if the state it leads to is still balanced; the next state is where it led.
    after = np.asarray(jax.vmap(jax.vmap(balanced))(states))[:, 1:]
    np.testing.assert_array_equal(after & alive[:, :-1], alive[:, :-1])
    assert not alive[:, -1].any() and (np.diff(alive.astype(int), axis=1) <= 0).all()


def test_the_gradient_points_to_longer_episodes():
    """Along the gradient from an unskilled linear policy, episodes last longer; against it, shorter."""

    def linear(params, state):
        return jnp.stack([-(params @ state), params @ state])

    keys, fresh = (jax.random.split(jax.random.key(i), 256) for i in (1, 2))

    @jax.jit
    def returns(params):
        gradient = jax.grad(lambda p: policy_loss(linear, p, keys, 60))(params)
        step = 4.0 * gradient / jnp.linalg.norm(gradient)
        return jnp.stack([mean_return(linear, params + a * step, fresh, 60) for a in (-1, 0, 1)])

    along, here, against = returns(jnp.zeros(4))
    assert along > here + 5 > against + 5
