"""Optimizers that read the inputs and output gradients of every layer, in a flax training loop.

`value_grad_and_statistics` takes the place of `jax.value_and_grad`, and `update` gets what it found.
"""

# [loop]
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from metalearn_models.optimizers import curvature
from metalearn_tasks.datasets import load


def train(tx, differentiate, steps=150, batch=100, seed=0):
    """Train a small network on digits; returns the mean loss of the last ten batches."""
    digits = load("digits")
    inputs, labels = (jnp.asarray(x) for x in digits.train)
    rngs = nnx.Rngs(seed)
    model = nnx.Sequential(nnx.Linear(64, 64, rngs=rngs), nnx.relu, nnx.Linear(64, 10, rngs=rngs))
    graph, params = nnx.split(model)

    def loss_fn(params, x, y):
        logits = curvature.mark_logits(nnx.merge(graph, params)(x))  # where the Fisher matrix is of the model's labels
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @jax.jit
    def step(params, state, key):
        rows = jax.random.randint(key, (batch,), 0, len(inputs))
        loss, grads, extra = differentiate(lambda params: loss_fn(params, inputs[rows], labels[rows]))(params, key)
        updates, state = tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state, loss

    state, losses = tx.init(params), []
    for key in jax.random.split(jax.random.key(seed), steps):
        params, state, loss = step(params, state, key)
        losses.append(float(loss))
    return sum(losses[-10:]) / 10


# [compare]
def main(steps=150, names=("sgd", "adam", "foof", "kfac", "newton-muon")):
    """SGD, Adam, FOOF, KFAC and Newton-Muon, each with one setting; biases are updated by the fallback."""
    plain, sampled = curvature.loss_and_statistics, curvature.loss_and_sampled_statistics
    adam = optax.scale_by_adam()
    contenders = {
        "sgd": (optax.sgd(0.1, momentum=0.9), plain),
        "adam": (optax.adam(3e-3), plain),
        "foof": (curvature.foof(1.0, damping=0.1), plain),
        "kfac": (curvature.kfac(0.03, damping=1e-3, period=5), sampled),
        "newton-muon": (
            optax.chain(curvature.scale_by_foof(0.1, period=5, fallback=adam), optax.contrib.muon(0.02)),
            plain,
        ),
    }
    final = {}
    for name in names:
        tx, differentiate = contenders[name]
        final[name] = train(optax.with_extra_args_support(tx), differentiate, steps)
        print(f"{name:<12} {final[name]:.4f}")
    return final


# [end]
if __name__ == "__main__":
    main()
