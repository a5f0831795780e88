"""Meta-train an in-context learner and watch it leave chance.

A Transformer reads (x, y) pairs of one task and predicts the next label. No loss, optimizer or model is defined inside:
what it learns is how to learn from the pairs. Every task is a random projection of 8x8 digits with permuted labels.
"""

# [parts]
import jax
import numpy as np
import optax

from metalearn import backprop, curve_scorer, inner_loop, outer_loop
from metalearn_models.learners.transformer import TransformerConfig, transformer
from metalearn_tasks.datasets import load
from metalearn_tasks.families.projected import ProjectedConfig, projected, projected_data


def build(width=64, length=30):
    """A family of tasks over digits, and a learner that fits its shapes."""
    digits = load("digits", pca=16)
    family = projected(digits.inputs, digits.classes, ProjectedConfig(length=length))
    config = TransformerConfig(width=width, layers=2, heads=4, key_size=width // 4, token="pair")
    return digits, family, transformer(family.signature, config)


# [train]
def main(steps=600, batch=32, width=64, length=30, tasks=64):
    """Meta-train; returns the accuracies on unseen tasks, [evaluations, length]."""
    digits, family, learner = build(width, length)
    per_call = min(100, steps)
    loop = outer_loop(backprop(inner_loop(learner, family), batch), optax.adam(3e-3), steps_per_call=per_call)
    train, test = projected_data(*digits.train), projected_data(*digits.test)
    score = curve_scorer(learner, family, family.unseen, tasks=tasks, sequences=1)

    state = loop.init(learner.init(jax.random.key(0)), train, jax.random.key(1))
    curves = []
    for _ in range(steps // per_call):
        state, metrics = loop.step(state, train)  # one dispatch of `steps_per_call` outer steps
        curves.append(np.asarray(score(state.theta, test, jax.random.key(2))).mean(0))
        print(
            f"step {int(state.step):>5}  loss {float(metrics['loss'][-1]):.3f}  "
            f"unseen tasks: {curves[-1][0]:.2f} after 0 examples, {curves[-1][-1]:.2f} after {length - 1}"
        )
    return np.stack(curves)


# [end]
if __name__ == "__main__":
    main()
