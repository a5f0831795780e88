"""The other experiments on epistemic networks: their rules, their measures, toy runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.epistemic import bandit, compute, shipped, tuning
from experiments.epistemic._shipped_learners import FLOOR, FOLDS, Model, agent_model, as_it_is, best_of, folds
from metalearn.learner import Signature
from metalearn_models.epistemic import Agent, Params


def stub(table):
    """An agent without parameters: the logit of the reward of action a under index z is table[z, a]."""
    logits = jnp.asarray(table)

    def apply(params, xs, z):
        return jnp.stack([jnp.zeros(len(xs)), logits[z]], -1)

    def draw(key, count):
        return jax.random.randint(key, (count,), 0, len(logits))

    return Agent(
        lambda key, told: Params((), ()), apply, draw, lambda *args: 0.0, lambda *args: None, 1, Signature(1, 2, 1)
    )


def test_joint_draws_keep_what_actions_have_in_common_and_marginal_draws_do_not():
    """Under each index two of four actions are good. Joint draws take either pair's first; marginal draws mix."""
    agent = stub([[3.0, 2.0, -3.0, -3.0], [-3.0, -3.0, 2.0, 3.0]])
    actions, keys = jnp.zeros((4, 1)), jax.random.split(jax.random.key(0), 400)

    def taken(rule):
        chosen = jax.jit(jax.vmap(lambda key: bandit.choose(rule, agent, Params((), ()), actions, key, 64)))(keys)
        return np.bincount(np.asarray(chosen), minlength=4) / 400

    np.testing.assert_allclose(taken("joint"), [0.5, 0, 0, 0.5], atol=0.1)
    # On their own: 0 is best with 1/2 unless 3 is as good (a tie goes to the first); 1 needs 0 and 3 to be bad.
    np.testing.assert_allclose(taken("marginal"), [0.5 + 1 / 32, 0.125, 0.0625, 0.25], atol=0.1)


def test_the_rules_of_the_verdicts():
    def found(joint, greedy, gap):
        means = {"joint": joint, "marginal": 9.0, "greedy": greedy, "single network, greedy": 8.0}
        return {"regret": {rule: [m, m, m] for rule, m in means.items()}, "less than": {"marginal": gap}}

    assert bandit.judge(found(5.0, 6.0, [1.0, 0.5, 2.0])) == "reproduced"
    assert bandit.judge(found(5.0, 4.0, [1.0, 0.5, 2.0])) == "open"
    assert bandit.judge(found(5.0, 6.0, [-1.0, -2.0, -0.5])) == "not reproduced"

    def row(agent, size, kl, flops):
        return {"agent": agent, "size": size, "kl": [kl, kl, kl], "flops": flops}

    rows = [row("ensemble", 1, 3.0, 1.0), row("ensemble", 100, 2.0, 100.0), row("epinet", 0, 1.0, 4.0)]
    rows += [row("prior-ensemble", 3, 2.0, 6.0), row("prior-ensemble", 10, 0.9, 20.0)]
    judged = compute.judge(rows)
    assert judged["verdict"] == "reproduced" and judged["ratios"]["ensemble"]["reached"] is False
    assert judged["ratios"]["prior-ensemble"] == {"size": 10, "reached": True, "operations": 5.0}


def test_tuning_takes_the_least_of_five_settings_that_is_possible_and_the_released_one_of_equals():
    for name in tuning.TRIED:
        first, *others = tuning.settings(name)
        assert first == {} and [len(values) for values in others] == [1] * 4
    assert tuning.settings("dropout")[2] == {"rate": pytest.approx(0.3)}

    def row(values, kl, infinite=0):
        return {"values": values, "kl": kl, "infinite": infinite}

    assert tuning.choose([row({}, 2.0), row({"a": 1.0}, 1.0, 3), row({"a": 2.0}, 1.5)]) == {"a": 2.0}
    assert tuning.choose([row({}, 2.0), row({"a": 1.0}, 2.0)]) == {}


def test_the_measures_of_a_split_by_hand():
    def fit(X, y, classes):
        """Two indices that disagree; what was learned last is a little more probable."""
        share = 0.5 + 0.01 * (len(y) - 4)

        def ask(Q):
            return np.stack([np.tile([share, 1 - share], (len(Q), 1)), np.tile([1.0, 0.0], (len(Q), 1))])

        return Model(ask, lambda Q: np.array([[1.0], [2], [3], [4], [5], [0]]), np.array([0]))

    parts = (np.zeros((4, 1)), np.zeros(4, int), np.zeros((6, 1)), np.array([0, 0, 0, 0, 0, 1]))
    row = shipped.measure(as_it_is(fit), True, parts, 2, tau=2)
    np.testing.assert_allclose(row["joint, index"], -np.log((0.25 + 1) / 2))
    np.testing.assert_allclose(row["marginals"], -2 * np.log(0.75))
    np.testing.assert_allclose(row["joint"], -np.log(0.75) - np.log((0.51 + 1) / 2))
    np.testing.assert_allclose(row["log-loss"], (-5 * np.log(0.75) - np.log(0.25)) / 6)
    np.testing.assert_allclose((row["accuracy"], row["calibration error"]), (5 / 6, 5 / 6 - 0.75))
    assert row["accuracy of the steadiest half"] == pytest.approx(2 / 3)  # the one that is wrong moves least
    assert row["accuracy of the surest half"] == 1 and sum(row["impossible"].values()) == 0


def test_a_setting_is_chosen_on_rows_that_it_was_not_given():
    y = np.array([0, 1] * 6)
    held = np.stack(folds(y))
    assert (held.sum(0) == 1).all() and all(set(y[part]) == {0, 1} for part in held)
    X = np.arange(12.0)[:, None]

    def knows(X, y, classes):
        """Sure of the rows that it was given, wrongly sure of others."""
        table = {x: label for x, label in zip(X[:, 0], y, strict=True)}
        return Model(lambda Q: np.eye(2)[[[table.get(q, (int(q) + 1) % 2) for q in Q[:, 0]]]])

    def shy(X, y, classes):
        return Model(lambda Q: np.full((1, len(Q), 2), 0.5))

    assert best_of([knows, shy])(X, y, 2) is shy and FLOOR < 0.5 and len(held) == FOLDS


def test_an_agent_chooses_its_setting_and_is_trained_on_all_rows():
    """With a huge decay it answers 1/2 everywhere, so the other setting must be chosen."""
    X = np.concatenate([-np.ones((4, 1)), np.ones((4, 1))])
    y, settings = np.repeat([0, 1], 4), [{"decay": 1e4}, {"decay": 0.0}]
    with jax.numpy_dtype_promotion("standard"):  # optax relies on it
        model = agent_model("ensemble", settings, members=2, hidden=(4,), steps=60, learning_rate=0.05)(X, y, 2)(
            X, y, 2
        )
    found = model.ask(X)
    assert found.shape == (2, 8, 2) and found.mean(0)[np.arange(8), y].min() > 0.8


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda out: bandit.run(bandit.BanditConfig(indices=1, out=out)), "--indices at least 2"),
        (lambda out: bandit.run(bandit.BanditConfig(actions=1, out=out)), "at least 2; got 10, 300, 5, 1, 16 and 64"),
        (lambda out: tuning.run(tuning.TuningConfig(members=1, out=out)), "--members at least 2"),
        (lambda out: tuning.run(tuning.TuningConfig(agents=("bbbb",), out=out)), "Did you mean .bbb"),
        (lambda out: compute.run(compute.ComputeConfig(sizes=(0,), out=out)), "--sizes"),
        (
            lambda out: shipped.run(shipped.ShippedConfig(queries=3, out=out)),
            "--queries at least 2 times --tau; got 40, 5, 3 and 3",
        ),
        (lambda out: shipped.run(shipped.ShippedConfig(rows=149, out=out)), "iris has 150 rows"),
    ],
)
def test_settings_that_cannot_be_run_are_refused(call, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        call(tmp_path)
