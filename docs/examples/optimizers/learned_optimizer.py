"""A meta-trained optimizer in a flax training loop, where `optax.adam` stood.

`metalearn_models.optimizers.load` gives an optax transformation with its weights inside. Learned optimizers read the
parameters and the loss, so both are passed to `update`.
"""

# [loop]
import jax
import jax.numpy as jnp
import optax
from flax import nnx

import metalearn_models.optimizers as optimizers
from metalearn_tasks.datasets import load


def train(tx, steps=300, batch=64, seed=0):
    """Train a small network on digits; returns the losses of the training batches."""
    digits = load("digits")
    inputs, labels = (jnp.asarray(x) for x in digits.train)
    model = nnx.Sequential(
        nnx.Linear(64, 32, rngs=nnx.Rngs(seed)), nnx.relu, nnx.Linear(32, 10, rngs=nnx.Rngs(seed + 1))
    )
    graph, params = nnx.split(model)
    tx = optax.with_extra_args_support(tx)

    @jax.jit
    def step(params, state, key):
        rows = jax.random.randint(key, (batch,), 0, len(inputs))

        def loss_fn(params):
            logits = nnx.merge(graph, params)(inputs[rows])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()

        loss, gradient = jax.value_and_grad(loss_fn)(params)
        updates, state = tx.update(gradient, state, params, value=loss)
        return optax.apply_updates(params, updates), state, loss

    state, losses = tx.init(params), []
    for key in jax.random.split(jax.random.key(seed), steps):
        params, state, loss = step(params, state, key)
        losses.append(float(loss))
    return losses


# [compare]
def main(steps=300):
    """The learned optimizers beside orthogonal Adam, and Adam with three learning rates."""
    contenders = {"small-fc, learned": optimizers.load("small-fc-digits-500", num_steps=steps)}
    contenders["compass, learned"] = optimizers.load("compass", num_steps=steps, learning_rate=1e-2)
    contenders["orthogonal adam"] = optimizers.orthogonal_adam(optax.cosine_decay_schedule(1e-2, steps))
    contenders |= {f"adam {rate}": optax.adam(rate) for rate in (1e-3, 3e-3, 1e-2)}
    final = {}
    for name, tx in contenders.items():
        final[name] = sum(train(tx, steps)[-10:]) / 10
        print(f"{name:<18} {final[name]:.4f}")
    return final


# [end]
if __name__ == "__main__":
    main()
