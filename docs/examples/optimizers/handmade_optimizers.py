"""Optimizers made by hand: tuned side by side, and their constants learned.

`metalearn list` names all of them with their papers.
"""

# [compare]
import jax
import numpy as np
import optax

from metalearn.gradients import nres
from metalearn.outer import outer_loop
from metalearn_models import optimizers
from metalearn_models.optimizers.handmade.constants import decode_constants
from metalearn_tasks.objectives import baseline, cap_losses, training_loop, tune_learning_rate, two_moons

OBJECTIVE = two_moons(8, batch=32)


def tune(name, rates, length=50):
    """The final training loss of an optimizer at the best of some learning rates."""
    keys = jax.random.split(jax.random.key(0), 4)
    tuned = tune_learning_rate(OBJECTIVE, baseline(name), rates, (), keys, length)
    return float(np.mean(tuned.final[tuned.best])), tuned.rate


# [learn]
def learn(name, outer_steps, length=50):
    """The constants of an optimizer before and after evolution strategies have learned them."""
    optimizer = optimizers.make(name)
    loop = cap_losses(training_loop(OBJECTIVE, optimizer, length), 20.0)
    outer = outer_loop(nres(loop, sigma=0.1, pairs=4, window=10), optax.adam(0.1), outer_steps)
    start = outer.init(optimizer.init(jax.random.key(0)), (), jax.random.key(1))
    state, _ = outer.step(start, ())
    return decode_constants(optimizer.init(jax.random.key(0))), decode_constants(state.theta)


# [main]
def main(names=("adam", "muon", "foof"), rates=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3), outer_steps=100):
    """Optimizers, each at its best learning rate, then FOOF with learned constants."""
    final = {}
    for name in names:
        final[name], rate = tune(name, rates)
        print(f"{name:<14} {final[name]:.4f} at {rate}")
    before, after = learn("foof", outer_steps)
    for name in before:
        print(f"{name:<14} {float(before[name]):.3g} -> {float(after[name]):.3g}")
    return final, before, after


# [end]
if __name__ == "__main__":
    main()
