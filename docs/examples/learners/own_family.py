"""Meta-train on a family of tasks of one's own.

A family is three functions, which draw tasks and their examples. Here the classes of a task are the two sides of a
plane, and each task has a plane of its own.
"""

# [family]
import jax
import jax.numpy as jnp
import numpy as np
import optax

from metalearn import backprop, curve_scorer, inner_loop, outer_loop
from metalearn.learner import Family, Signature
from metalearn_models.learners.transformer import TransformerConfig, transformer


def half_planes(length=20, inputs=4):
    """Two classes, the sides of a plane through the origin that each task draws for itself."""

    def sample(data, key):
        """A task of the endless supply for meta-training; `data` is whatever the outer loop is given."""
        return jax.random.normal(key, (inputs,))

    def unseen(data, index):
        """Task number `index` of those that meta-training never meets."""
        return jax.random.normal(jax.random.fold_in(jax.random.key(0), index), (inputs,))

    def episode(data, direction, key):
        """The examples of one sequence: inputs [T, D] and classes [T]."""
        x = jax.random.normal(key, (length, inputs))
        return x, (x @ direction > 0).astype(jnp.int32)

    return Family(Signature(inputs=inputs, outputs=2, length=length), sample, None, unseen, episode)


# [train]
def main(steps=400, width=32, length=20, tasks=64):
    """Meta-train a Transformer; returns its accuracy on unseen tasks, [length]."""
    family = half_planes(length)
    config = TransformerConfig(width=width, layers=2, heads=4, key_size=width // 4, token="pair")
    learner = transformer(family.signature, config)
    loop = outer_loop(backprop(inner_loop(learner, family), batch=32), optax.adam(3e-3), steps_per_call=steps)
    state, _ = loop.step(loop.init(learner.init(jax.random.key(0)), (), jax.random.key(1)), ())
    score = curve_scorer(learner, family, family.unseen, tasks=tasks, sequences=1)
    curve = np.asarray(score(state.theta, (), jax.random.key(2))).mean(0)
    print(f"unseen tasks: {curve[0]:.2f} after 0 examples, {curve[-1]:.2f} after {length - 1}")
    return curve


# [end]
if __name__ == "__main__":
    main()
