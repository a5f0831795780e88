"""Halving against a loop in NumPy, its costs against counts by hand, and its bits after interruptions."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn.errors import RunError
from metalearn.search import successive_halving as halving
from metalearn.search.population import train_members
from metalearn.search.random_search import random_search, trained_within
from tests.metalearn.search.killed_search import run
from tests.metalearn.search.parabola import by_hand

KEY, START = jax.random.key(3), jnp.float32(2.0)


def bits(state):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def test_costs_are_those_counted_by_hand():
    rungs = halving.plan_rungs(64, 1, 64, 4)
    assert rungs == halving.Rungs((1, 4, 16, 64), (64, 16, 4, 1))
    assert halving.cost(rungs) == 64 * 1 + 16 * 3 + 4 * 12 + 1 * 48
    assert halving.plan_rungs(10, 8, 72, 3).sizes == (10, 3, 1)
    for budget in (64, 200, 208, 5000):
        n = halving.candidates_within(budget, 1, 64, 4)
        assert halving.cost(halving.plan_rungs(n, 1, 64, 4)) <= budget
        assert halving.cost(halving.plan_rungs(n + 1, 1, 64, 4)) > budget
    assert trained_within(200, 64) == 3
    for budget, most, eta in ((20, 16, 4), (72, 64, 8), (16, 16, 4), (17, 16, 4), (40, 8, 2)):
        fits = [n for n in range(1, budget + 1) if halving.cost(halving.plan_rungs(n, 1, most, eta)) <= budget]
        assert halving.candidates_within(budget, 1, most, eta) == max(fits)


def test_promotions_are_those_of_a_trace_by_hand(parabola, rates):
    rungs = halving.plan_rungs(16, 1, 16, 4)
    state = halving.successive_halving(parabola, rates, START, KEY, rungs, chunk=3)
    expected, members = by_hand(rates, 2.0, KEY, 16), np.arange(16)
    for rung, step in enumerate(rungs.steps):
        row = expected[step - 1]
        seen = np.flatnonzero(~np.isnan(np.asarray(state.scores[rung])))
        assert seen.tolist() == members.tolist()
        np.testing.assert_allclose(np.asarray(state.scores[rung])[members], row[members], rtol=1e-3, atol=1e-7)
        members = np.sort(members[np.argsort(row[members])[: len(members) // 4]])
    # Who was dropped stands where it was dropped.
    np.testing.assert_allclose(0.5 * float(state.states["x"][0]) ** 2, expected[0, 0], rtol=1e-5)


def test_interrupted_anywhere_it_ends_with_the_same_bits(parabola, rates):
    rungs = halving.plan_rungs(16, 2, 8, 2)
    whole = bits(halving.successive_halving(parabola, rates, START, KEY, rungs, chunk=4))
    for stops in ((4, 8), (1, 3, 8), (5, 6, 7, 8)):
        state = halving.begin_halving(parabola, rates, START, KEY, rungs)
        for stop in stops:
            kept = jax.tree.map(np.array, state)  # as a checkpoint keeps it
            state = halving.halve_until(
                parabola, rates, START, KEY, rungs, jax.tree.map(jnp.asarray, kept), stop, chunk=4
            )
        assert bits(state) == whole
    every = halving.successive_halving(parabola, rates, START, KEY, rungs, chunk=4, every=3)
    assert bits(every) == whole


def test_four_and_twelve_steps_are_sixteen(parabola, rates):
    everyone = np.arange(16)
    begin = halving.begin_halving(parabola, rates, START, KEY, halving.Rungs((16,), (16,))).states
    again = jax.tree.map(jnp.array, begin)
    four = train_members(parabola, rates, begin, everyone, (0, 4), START, KEY)
    twelve = train_members(parabola, rates, four, everyone, (4, 16), START, KEY)
    assert bits(twelve) == bits(train_members(parabola, rates, again, everyone, (0, 16), START, KEY))


def test_with_eta_of_the_number_of_candidates_it_is_random_search(parabola, rates):
    rungs = halving.plan_rungs(16, 1, 16, 16)
    assert rungs == halving.Rungs((16,), (16,)) and halving.cost(rungs) == 256
    halved = halving.successive_halving(parabola, rates, START, KEY, rungs)
    assert bits(halved) == bits(random_search(parabola, rates, START, KEY, (16,)))


def test_equal_and_broken_scores():
    members = np.arange(6)
    assert halving.promote(np.ones(6), members, 3).tolist() == [0, 1, 2]
    assert halving.promote(np.array([np.nan, 1.0, np.inf, 0.5, -np.inf, 1.0]), members, 3).tolist() == [1, 3, 4]
    assert halving.promote(np.full(6, np.nan), members[2:], 2).tolist() == [2, 3]


def test_a_candidate_that_diverges_disturbs_no_other(parabola, rates):
    wild = rates.at[5].set(1e30)
    rungs = halving.plan_rungs(16, 4, 16, 2)
    tame = halving.successive_halving(parabola, rates, START, KEY, rungs)
    state = halving.successive_halving(parabola, wild, START, KEY, rungs)
    assert np.isinf(np.asarray(state.scores[0, 5])) and np.isnan(np.asarray(state.scores[1, 5]))
    others = np.arange(16) != 5
    assert np.array_equal(np.asarray(state.scores[0])[others], np.asarray(tame.scores[0])[others])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((16, 3, 16, 4), "do not reach 16: take 12 or 48"),
        ((16, 32, 16, 4), "must lie between step 1 and the last rung 16, got 32"),
        ((0, 1, 16, 4), "at least 1, got 0"),
        ((16, 1, 16, 1), "eta must be at least 2, got 1"),
    ],
)
def test_bad_rungs_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        halving.plan_rungs(*arguments)


def test_a_budget_below_one_training_is_refused(parabola, rates):
    with pytest.raises(ValueError, match="a budget of 15 steps trains no candidate to the last rung"):
        halving.candidates_within(15, 1, 16)
    with pytest.raises(ValueError, match="a budget of 15 steps trains no candidate for 16 steps"):
        trained_within(15, 16)
    with pytest.raises(ValueError, match="planned for 4 candidates, got 16"):
        halving.begin_halving(parabola, rates, START, KEY, halving.plan_rungs(4, 1, 4, 2))
    with pytest.raises(ValueError, match="one leading axis"):
        halving.begin_halving(parabola, {"a": rates, "b": rates[:3]}, START, KEY, halving.plan_rungs(16, 1, 4, 2))


def test_killed_it_ends_the_same(tmp_path):
    """The worker is killed with -9 after its first checkpoint, and the search goes on in the same folder."""
    worker, folder = Path(__file__).parent / "killed_search.py", tmp_path / "killed"
    killed = subprocess.Popen([sys.executable, str(worker), str(folder), "slow"], stdout=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(folder.glob("checkpoints/0*/manifest.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.communicate()[0] == b""
    steps = sorted(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit())
    assert steps and steps[-1] < 16
    assert run(folder) == run(tmp_path / "whole")
    with pytest.raises(RunError, match=r"begun with another configuration.*seed: 3 -> 4"):
        run(folder, seed=4)
