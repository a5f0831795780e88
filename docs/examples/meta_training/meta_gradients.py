"""Meta-gradients of your own inner loop: learn the step size and the momentum of gradient descent.

Anything that depends on meta-parameters `theta` over time is an `InnerLoop`: a function that starts a trajectory and
a function that makes one step and says what the step costs. An estimator and an optax transformation make an outer loop
of it.
"""

# [loop]
import jax
import jax.numpy as jnp
import optax

from metalearn import InnerLoop, backprop, nres, outer_loop

DIMENSIONS = 10


def descent(length=50):
    """Gradient descent with momentum on random quadratics; theta holds the logarithms of its two constants."""

    def init(theta, data, key):
        key_matrix, key_start = jax.random.split(key)
        matrix = jax.random.normal(key_matrix, (DIMENSIONS, DIMENSIONS)) / jnp.sqrt(jnp.float32(DIMENSIONS))
        return {"matrix": matrix, "x": jax.random.normal(key_start, (DIMENSIONS,)), "velocity": jnp.zeros(DIMENSIONS)}

    def loss(matrix, x):
        return jnp.square(matrix @ x).mean()

    def step(theta, state, t, key, data):
        value, gradient = jax.value_and_grad(loss, argnums=1)(state["matrix"], state["x"])
        velocity = jax.nn.sigmoid(theta["momentum"]) * state["velocity"] - jnp.exp(theta["rate"]) * gradient
        return {**state, "x": state["x"] + velocity, "velocity": velocity}, value, {}

    return InnerLoop(init, step, length=length)


# [train]
def learn(estimator, steps):
    """Meta-train from a timid start; returns theta and the mean loss of the last outer step."""
    init, step = outer_loop(estimator, optax.adam(0.05), steps_per_call=steps)
    state = init({"rate": jnp.log(0.01), "momentum": jnp.zeros(())}, None, jax.random.key(0))
    state, metrics = step(state, None)
    return state.theta, float(metrics["loss"][-1])


def main(steps=200):
    """The same inner loop by backpropagation through all its steps, and by evolution strategies in windows of 10."""
    losses = {}
    for name, estimator in {
        "backprop": backprop(descent(), batch=32),
        "nres": nres(descent(), sigma=0.1, pairs=32, window=10),
    }.items():
        theta, losses[name] = learn(estimator, steps)
        print(
            f"{name:<9} rate {float(jnp.exp(theta['rate'])):.3f}  momentum "
            f"{float(jax.nn.sigmoid(theta['momentum'])):.2f}  loss {losses[name]:.4f}"
        )
    return losses


# [end]
if __name__ == "__main__":
    main()
