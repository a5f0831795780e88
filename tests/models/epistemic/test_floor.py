"""No agent is below Bayes' rule with the prior that drew the tasks, beyond its standard error."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.joint import mean_over_indices
from metalearn.learner import Signature
from metalearn_models.epistemic import Knowledge, joint, make_agent, train
from metalearn_tasks.families.conjugate import coins, exact_coin

COINS, SEEN, ASKED = 400, 5, 10
SIGNATURE = Signature(1, 2, SEEN + ASKED)
SMALL: dict[str, Any] = {"hidden": (4,), "steps": 60, "learning_rate": 0.02}
AGENTS = {
    "prior-ensemble": {**SMALL, "members": 8},
    "dropout": {**SMALL, "rate": 0.3},
    "bbb": {**SMALL, "draws": 2},
    "epinet": {**SMALL, "index": 2},
}


def test_no_agent_is_below_the_exact_floor_of_coins_and_one_that_was_told_the_bias_is():
    family, exact = coins(SEEN + ASKED), exact_coin()
    agents = {name: make_agent(name, SIGNATURE, **values) for name, values in AGENTS.items()}
    told = Knowledge(jnp.float32(SEEN), jnp.float32(0.5))

    def of_coin(index):
        key = jax.random.fold_in(jax.random.key(1), index)
        bias = family.unseen((), index)
        xs, ys = family.episode((), bias, key)
        parts = (xs[:SEEN], ys[:SEEN], xs[SEEN:], ys[SEEN:])
        found = {
            name: joint(agent, train(agent, *parts[:2], told, key), 100)(key, *parts) for name, agent in agents.items()
        }
        logits = jnp.log(jnp.stack([1 - bias, bias]))
        cheat = mean_over_indices(lambda z, xs: jnp.tile(logits, (len(xs), 1)), lambda key: jnp.arange(2))
        return exact(key, *parts), {**found, "told the bias": cheat(key, *parts)}

    with jax.numpy_dtype_promotion("standard"):  # optax relies on it
        floor, found = jax.jit(jax.vmap(of_coin))(jnp.arange(COINS))
    for name, log_prob in found.items():
        above = np.asarray(floor - log_prob, np.float64)
        error = above.std(ddof=1) / COINS**0.5
        assert (above.mean() < -2 * error) == (name == "told the bias"), (name, above.mean(), error)
