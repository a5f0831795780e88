"""Agents as learners: a learner's prediction is that of the agent trained on what was observed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn.joint import chain_rule
from metalearn.learner import Signature, predictions
from metalearn_models import epistemic
from metalearn_models.learners.registry import build_learner

KEY = jax.random.key(0)
SIGNATURE = Signature(2, 3, 6)


def test_predictions_are_those_of_an_agent_trained_on_what_came_before():
    config = epistemic.EpistemicConfig("prior-ensemble", steps=4, members=2)
    learner = build_learner(SIGNATURE, config)
    xs, ys = jax.random.normal(KEY, (4, 2)), jnp.array([0, 2, 1, 1])
    agent = epistemic.make_agent("prior-ensemble", SIGNATURE, steps=4, members=2)
    with jax.numpy_dtype_promotion("standard"):  # optax relies on it

        @jax.jit
        def program(xs, ys):
            told = epistemic.Knowledge(jnp.float32(3), jnp.float32(config.temperature))
            own = jax.random.split(KEY, 1)[0]  # the key of the first of one sequences
            params = epistemic.train(agent, xs[:3], ys[:3], told, own)
            wanted = epistemic.marginal_log_probs(agent, params, xs[3:], own)[0]
            joint = chain_rule(learner, ())(KEY, xs[:2], ys[:2], xs[2:], ys[2:])
            return predictions(learner, (), xs, ys, KEY), wanted, joint

        logits, wanted, joint = program(xs, ys)
    np.testing.assert_allclose(np.exp(logits).sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(logits[3], wanted, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(joint, logits[2, ys[2]] + logits[3, ys[3]], rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"agent": "epinett"}, "epinet"),
        ({"members": 1}, "members"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_what_is_no_agent_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        build_learner(SIGNATURE, epistemic.EpistemicConfig(**values))
    with pytest.raises(ValueError, match="regression"):
        build_learner(SIGNATURE._replace(outputs=1, regression=True), epistemic.EpistemicConfig())
