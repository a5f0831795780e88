"""Truly sparse layers in a flax training loop: three changed lines, and a topology that changes without recompiling.

`SparseDense` stands where `nnx.Linear` stood. It stores and computes only the connections that are there.
"""

# [loop]
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from metalearn_models.sparsity.layers import SparseDense, all_relu, forget, to_linear
from metalearn_tasks.datasets import load


class Classifier(nnx.Module):
    """Two hidden layers, of which every unit reads `fan_in` others."""

    def __init__(self, inputs, hidden, classes, fan_in, rngs):
        self.first = SparseDense(inputs, hidden, fan_in, rngs=rngs)  # 1: nnx.Linear(inputs, hidden, rngs=rngs)
        self.second = SparseDense(hidden, hidden, fan_in, rngs=rngs)  # 2
        self.last = nnx.Linear(hidden, classes, rngs=rngs)

    def __call__(self, x):
        """Logits of a batch."""
        x = all_relu(self.first(x), 1)
        return self.last(all_relu(self.second(x), 2))


def train(epochs=8, hidden=256, fan_in=8, rate=0.03, seed=0):
    """Train on digits, changing the topology after each epoch; returns the model and its data."""
    digits = load("digits")
    model = Classifier(64, hidden, 10, fan_in, nnx.Rngs(seed))
    inputs, labels = jnp.asarray(digits.train.inputs), jnp.asarray(digits.train.labels)
    tx = optax.sgd(rate, momentum=0.9)
    graph, params, topology = nnx.split(model, nnx.Param, ...)
    state = tx.init(params)

    @jax.jit
    def epoch(params, state, topology, key):
        def step(carry, rows):
            params, state = carry

            def loss(params):
                logits = nnx.merge(graph, params, topology)(inputs[rows])
                return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()

            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        rows = jax.random.permutation(key, len(labels))[: len(labels) // 64 * 64].reshape(-1, 64)
        return jax.lax.scan(step, (params, state), rows)[0]

    @jax.jit
    def change(params, state, topology, key):  # 3: SET
        model = nnx.merge(graph, params, topology)
        moved = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, bool), params)
        for number, name in enumerate(("first", "second")):
            moved[name]["values"][...] = getattr(model, name).evolve(jax.random.fold_in(key, number))
        _, params, topology = nnx.split(model, nnx.Param, ...)
        return params, forget(tx, state, moved), topology

    for number in range(epochs):
        order, growth = jax.random.split(jax.random.fold_in(jax.random.key(seed), number))
        params, state = epoch(params, state, topology, order)
        if number + 1 < epochs:
            params, state, topology = change(params, state, topology, growth)
    return nnx.merge(graph, params, topology), digits


# [compare]
def main(epochs=8, hidden=256):
    """Accuracy on held-out digits, and the largest difference to the same network with dense layers."""
    model, digits = train(epochs, hidden)
    x = jnp.asarray(digits.test.inputs)
    accuracy = float((model(x).argmax(-1) == jnp.asarray(digits.test.labels)).mean())
    first = to_linear(model.first)
    difference = float(jnp.abs(first(x) - model.first(x)).max())
    print(f"{model.first.values.size + model.second.values.size} connections of {64 * hidden + hidden**2}")
    print(f"accuracy {accuracy:.3f}, difference to a dense layer {difference:.1e}")
    return accuracy, difference


# [end]
if __name__ == "__main__":
    main()
