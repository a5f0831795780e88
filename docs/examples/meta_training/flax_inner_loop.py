"""Meta-learn how to train a flax network: one learning rate per tensor, by gradients through its training.

An inner loop is two functions. `init` starts a training run, `step` makes one step of it. The network is plain flax.
"""

# [loop]
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from metalearn import InnerLoop, backprop, outer_loop
from metalearn_tasks.datasets import load


class Network(nn.Module):
    """Two dense layers."""

    width: int = 16

    @nn.compact
    def __call__(self, x):
        """Logits of the classes."""
        return nn.Dense(10)(nn.relu(nn.Dense(self.width)(x)))


def training(network, inputs, steps):
    """The training of a network as an inner loop; theta has the logarithm of the rate of each of its tensors."""

    def init(theta, data, key):
        return network.init(key, jnp.zeros((1, inputs)))["params"]

    def step(theta, params, t, key, data):
        x, y = data
        batch = jax.random.randint(key, (32,), 0, len(y))

        def loss(params):
            logits = network.apply({"params": params}, x[batch])
            return optax.softmax_cross_entropy_with_integer_labels(logits, y[batch]).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        params = jax.tree.map(lambda p, g, rate: p - jnp.exp(rate) * g, params, gradient, theta)
        return params, value, {}

    return InnerLoop(init, step, None, steps)


# [train]
def main(outer_steps=60, steps=30, width=16, batch=8):
    """Meta-learn the rates; returns the mean training loss at the first and at the last outer step."""
    digits = load("digits", pca=16)
    network = Network(width)
    loop = training(network, digits.inputs, steps)
    params = network.init(jax.random.key(0), jnp.zeros((1, digits.inputs)))["params"]
    theta = jax.tree.map(lambda p: jnp.log(0.05), params)  # a tree like the network's, with one number per tensor
    outer = outer_loop(backprop(loop, batch), optax.adam(0.1), steps_per_call=outer_steps)
    data = (jnp.asarray(digits.train.inputs), jnp.asarray(digits.train.labels))
    state, metrics = outer.step(outer.init(theta, data, jax.random.key(1)), data)
    for path, rate in jax.tree_util.tree_leaves_with_path(state.theta):
        print(f"{jax.tree_util.keystr(path):<26} {float(jnp.exp(rate)):.3f}")
    first, last = float(metrics["loss"][0]), float(metrics["loss"][-1])
    print(f"mean loss over {steps} steps: {first:.3f} -> {last:.3f}")
    return first, last


# [end]
if __name__ == "__main__":
    main()
