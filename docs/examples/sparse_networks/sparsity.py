"""Sparse training of a small network on the digits: RigL, SET and static masks with a tenth of the weights."""

import jax
import jax.numpy as jnp
import optax

from metalearn_models.networks import mlp
from metalearn_models.sparsity import apply_masks, count_masks, erk, rigl, set_rule, sparse, static
from metalearn_tasks import datasets

data = datasets.load("digits")
network = mlp(data.inputs, (128, 64), data.classes)
x, y = (jnp.asarray(part) for part in data.train)


def loss(params, x, y):
    """The mean cross-entropy of the network."""
    logits = jax.vmap(network.apply, (None, 0))(params, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


# [loop]
def train(rule, sparsity, steps):
    """Parameters and optimizer state after sparse training."""
    optimizer = sparse(optax.adam(3e-3), rule, erk, sparsity)  # around any optimizer of optax
    params = network.init(jax.random.key(0))
    state = optimizer.init(params)
    params = apply_masks(params, state.masks)  # the first gradient is that of the sparse network, too

    @jax.jit
    def step(params, state, key):
        rows = jax.random.randint(key, (64,), 0, len(y))
        grads = jax.grad(loss)(params, x[rows], y[rows])  # the ordinary loss of the ordinary network
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for t in range(steps):
        params, state = step(params, state, jax.random.key(t))
    return params, state


# [compare]
def main(steps=400):
    """Train with three rules, and without masks; print and return the test accuracies."""
    rules = {
        "dense": (static(), 0.0),
        "static": (static(), 0.97),
        "SET": (set_rule(end=steps * 3 // 4, every=10), 0.97),
        "RigL": (rigl(end=steps * 3 // 4, every=10), 0.97),
    }
    found = {}
    for name, (rule, sparsity) in rules.items():
        params, state = train(rule, sparsity, steps)
        test = jax.vmap(network.apply, (None, 0))(params, jnp.asarray(data.test.inputs)).argmax(-1)
        found[name] = float((test == data.test.labels).mean())
        print(f"{name:<8} test accuracy {found[name]:.3f}, {int(count_masks(state.masks)):,} masked connections")
    return found


# [end]

if __name__ == "__main__":
    main()
