"""Prune a trained network, fine-tune what is left in the ordinary loop, and measure what that saves."""

# [train]
import jax
import jax.numpy as jnp
import optax

from metalearn_models.networks import mlp
from metalearn_models.sparsity import apply_masks, report, sparse_with_masks, static
from metalearn_models.sparsity.pruning import keep_by_layer, keep_globally, magnitude, random, share_to_keep
from metalearn_models.sparsity.tradeoffs import format_tradeoffs, outcome
from metalearn_tasks.datasets import load

digits = load("digits")
inputs, labels = jnp.asarray(digits.train.inputs), jnp.asarray(digits.train.labels)
network = mlp(digits.inputs, (64, 64), digits.classes)
apply = jax.vmap(network.apply, (None, 0))  # of a batch


@jax.jit
def train(params, masks, keys, rate):
    """The ordinary loop around a wrapped optimizer; what is off stays 0. Masks are data: nothing is compiled again."""
    optimizer = sparse_with_masks(optax.adam(rate), static(), masks)

    def loss(params, x, y):
        return optax.losses.softmax_cross_entropy_with_integer_labels(apply(params, x), y).mean()

    def step(carry, key):
        params, state = carry
        rows = jax.random.randint(key, (64,), 0, len(labels))
        updates, state = optimizer.update(jax.grad(loss)(params, inputs[rows], labels[rows]), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]


# [prune]
def main(steps=800, compressions=(2, 4, 8, 16, 32), seeds=2):
    """Top-1 against compression of three methods, each fine-tuned for as many steps as the network was trained."""
    outcomes, control, layers = {}, [], ""
    for seed in range(seeds):
        key_init, key_train, key_tune, key_random = jax.random.split(jax.random.key(seed), 4)
        keys_train, keys_tune = jax.random.split(key_train, steps), jax.random.split(key_tune, steps)
        start = network.init(key_init)
        dense = jax.tree.map(lambda leaf: None, start)  # a mask is None where a leaf is dense
        params = train(start, dense, keys_train, 2e-3)

        def measure(masks, params=params, keys=keys_tune):
            tuned = train(apply_masks(params, masks), masks, keys, 1e-3)
            return report(tuned, masks, apply, digits.test.inputs, labels=digits.test.labels)

        control.append(outcome(measure(dense)))  # fine-tuned as the pruned ones are
        scores = magnitude(params)
        methods = {
            "global magnitude": (keep_globally, scores),
            "layer-wise magnitude": (keep_by_layer, scores),
            "random": (keep_globally, random(key_random, params)),
        }
        for name, (keep, score) in methods.items():
            for place, compression in enumerate(compressions):
                measured = measure(keep(score, share_to_keep(params, score, compression)))
                outcomes.setdefault(name, [[] for _ in compressions])[place].append(outcome(measured))
                layers = measured.format()
    print(format_tradeoffs(outcomes, control))
    print(layers)  # of the last network
    return outcomes, control


# [end]
if __name__ == "__main__":
    main()
