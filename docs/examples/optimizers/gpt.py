"""A generator of parameters, learned from the checkpoints of many training runs, in the place of an optimizer.

Given the present parameters of a network, their loss and a wished loss, it proposes parameters that have it.
"""

# [train]
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

import metalearn_models.optimizers as optimizers
from metalearn.recipes.gpt.config import PRESETS
from metalearn.recipes.gpt.run import train_gpt
from metalearn_models.networks.mlp import mlp
from metalearn_tasks.datasets import load


def train(folder, **changes):
    """Record training runs of softmax regression on digits, and train a generator on them."""
    return train_gpt(dataclasses.replace(PRESETS["softmax"][0], **changes), Path(folder))


# [jump]
def jump(folder, wishes=(1.6, 0.8, 0.4)):
    """One jump of a fresh network to each wished loss; returns the losses it had and got."""
    digits = load("digits")
    count = len(digits.train.labels) * 4 // 5  # what the checkpoints were trained on
    inputs, labels = jnp.asarray(digits.train.inputs[:count]), jnp.asarray(digits.train.labels[:count])
    network = mlp(64, (), 10)

    @jax.jit
    @jax.value_and_grad
    def loss_of(params):
        logits = jax.vmap(network.apply, (None, 0))(params, inputs)
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    params = network.init(jax.random.key(1234))  # in no training run
    loss, gradient = loss_of(params)
    print(f"{'':<14} {float(loss):.3f}")
    got = {}
    for wish in wishes:
        tx = optimizers.load(folder, prompt=wish)
        updates, _ = tx.update(gradient, tx.init(params), params, value=loss)
        got[wish] = float(loss_of(optax.apply_updates(params, updates))[0])
        print(f"wished {wish:<7} {got[wish]:.3f}")
    return float(loss), got


# [end]
def main(folder="runs/gpt-softmax", **changes):
    """Train, then jump."""
    if not (Path(folder) / "result.json").exists():
        print(f"alignment on unseen runs: {train(folder, **changes)['alignment_unseen']:.3f}")
    return jump(folder)


if __name__ == "__main__":
    main()
