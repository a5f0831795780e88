"""The family of learned rules contains SET, SNFS and RigL, to the bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn_models.sparsity import rigl, set_rule, snfs
from metalearn_models.sparsity.rules import (
    Topology,
    learned_rule,
    learned_topology,
    rigl_theta,
    set_theta,
    snfs_theta,
)
from tests.models.sparsity import cases

pytestmark = pytest.mark.newer_loops


@pytest.fixture(scope="module")
def program():
    """Any member of the family on one program, with changes every three steps."""

    def build(pauses):
        def run(theta, grads):
            rule = learned_rule(theta._replace(every=jnp.log2(jnp.float32(0.03))), cases.STEPS, pauses)
            return cases.train(cases.sparse(cases.INNER, rule, sparsity=0.6), cases.params(), grads)[1]

        return jax.jit(run)

    return {pauses: build(pauses) for pauses in (False, True)}


@pytest.mark.parametrize(
    ("known", "theta", "pauses"),
    [(rigl, rigl_theta, True), (set_rule, set_theta, False), (snfs, snfs_theta, False)],
)
def test_a_rule_by_hand_is_a_point_of_the_family_to_the_bit(program, known, theta, pauses):
    found = program[pauses](theta(alpha=0.6, end=1.0), cases.grads())
    _, (params, states, updates) = cases.run(known(end=12, every=3, alpha=0.6))
    for ours, others in ((found[0], params), (found[2], updates)):
        jax.tree.map(np.testing.assert_array_equal, ours, others)
    for ours, others in zip(found[1][:5] + found[1][6:], states[:5] + states[6:], strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, others)
    assert int(states.changes[-1]) == 3
    assert (np.asarray(states.masks["a"][0]) != np.asarray(states.masks["a"][-1])).any()


def test_scores_add_up_their_features(program):
    """Two changes against NumPy; at the second one, connections and gaps differ in age."""
    rng = np.random.default_rng(3)
    keep, grow = (jnp.asarray(rng.normal(size=5), jnp.float32).at[4].set(0.0) for _ in range(2))
    theta = Topology(keep, grow, jnp.float32(1.0), jnp.float32(0.0), jnp.float32(1.0))
    params, states, _ = program[True](theta, cases.grads())
    given, weights = np.asarray(cases.grads()["a"]), np.stack([np.asarray(keep)[:4], np.asarray(grow)[:4]])
    power = lambda x: 2.0 ** np.floor(np.log2(x))  # noqa: E731
    mean, age = np.zeros((6, 9)), np.zeros((6, 9))
    for t in range(7):
        mean, age = 0.9 * mean + 0.1 * given[t], age + 1
        if t not in (3, 6):
            continue
        mask, weight = np.asarray(states.masks["a"][t - 1]), np.abs(np.asarray(params["a"][t - 1]))
        features = [
            weight / power(weight[mask].mean()),
            np.abs(given[t]) / power(np.abs(given[t]).mean()),
            np.abs(mean) / power(np.abs(mean).mean()),
            age / 3,
        ]
        keeping, growing = np.einsum("sf,fio->sio", weights, np.stack(features)).reshape(2, 54)
        count = int((1 + np.cos(np.pi * t / 12)) / 2 * mask.sum())
        on = sorted(np.flatnonzero(mask), key=lambda i: keeping[i])
        off = sorted(set(range(54)) - set(on[count:]), key=lambda i: -growing[i])
        assert set(np.flatnonzero(states.masks["a"][t])) == set(on[count:]) | set(off[:count])
        age.ravel()[off[:count] + on[:count]] = 0
        np.testing.assert_array_equal(states.rule["learned-topology"]["a"].age[t], age)
    assert len(set(age[np.asarray(states.masks["a"][6])])) > 1


def test_a_learned_topology_needs_the_number_of_steps():
    optimizer = learned_topology(lambda num_steps: cases.INNER, lambda tx, rule: cases.sparse(tx, rule))
    with pytest.raises(ValueError, match="give transform the number of steps, got None"):
        optimizer.transform(optimizer.init(jax.random.key(0)))
