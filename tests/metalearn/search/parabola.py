"""A search whose scores are known: gradient descent on a parabola, where a candidate is a learning rate."""

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.inner import InnerLoop
from metalearn.search.population import Search


def make_parabola():
    def init(rate, data, key):
        del rate, key
        return {"x": data, "noise": jnp.zeros(())}

    def step(rate, state, t, key, data):
        del t, data
        noise = jax.random.normal(key)
        x = state["x"] - rate * (state["x"] + 0.1 * noise)
        return {"x": x, "noise": noise}, 0.5 * x * x, {}

    return Search(InnerLoop(init, step), lambda rate, state, data: 0.5 * state["x"] ** 2)


def by_hand(rates, start, key, steps):
    """The scores after each of the steps, in float64: `[steps, N]`."""
    x, scores = np.full(len(rates), start, np.float64), []
    for t in range(steps):
        noise = float(jax.random.normal(jax.random.fold_in(key, t + 1)))
        x = x - np.asarray(rates, np.float64) * (x + 0.1 * noise)
        scores.append(0.5 * x**2)
    return np.array(scores)
