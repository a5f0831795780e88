"""The asynchronous form against a trace by hand, in one process."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn.search.asynchronous import asynchronous_correlations, run_asynchronously
from metalearn.search.rank_correlation import spearman
from metalearn.sweeps import Plan
from tests.metalearn.search.parabola import by_hand, make_parabola

SEARCH = make_parabola()
RATES = (0.3, 0.01, 0.02, 0.5, 0.1, 0.2)


def make(cell):
    return SEARCH, jnp.float32(cell["rate"]), jnp.float32(2.0)


def test_who_is_behind_at_a_rung_stops_there(tmp_path):
    plan = Plan("rates", {}, [{"rate": rate} for rate in RATES])
    records = run_asynchronously(plan, make, tmp_path, (2, 4, 8), eta=2, seed=1, workers=0)
    scores = by_hand(np.float32(RATES), 2.0, jax.random.key(1), 8)
    rungs: dict[int, list[float]] = {2: [], 4: [], 8: []}
    for i, record in enumerate(records):  # in the order in which one worker trains them
        for step in (2, 4, 8):
            rungs[step].append(float(scores[step - 1, i]))
            # One in two goes on, and at least one.
            behind = rungs[step][-1] > sorted(rungs[step])[max(len(rungs[step]) // 2, 1) - 1]
            if step == 8 or behind:
                break
        assert (record.step, record.state) == (step, "done" if step == 8 else "stopped early"), (i, rungs)
        assert record.value == pytest.approx(-rungs[step][-1], rel=1e-3)
    again = run_asynchronously(plan, make, tmp_path, (2, 4, 8), eta=2, seed=1, workers=0)
    assert [r.value for r in again] == [r.value for r in records]
    ended = [i for i, record in enumerate(records) if record.state == "done"]
    correlations = asynchronous_correlations(records, (2, 4, 8))
    assert [(c.step, c.scored) for c in correlations] == [(step, len(ended)) for step in (2, 4, 8)] and len(ended) > 1
    for c in correlations:
        assert c.spearman == pytest.approx(spearman(scores[c.step - 1, ended], scores[7, ended]))
    assert [c.scored for c in asynchronous_correlations([], (2, 4))] == [0, 0]


def test_rungs_that_do_not_divide_are_refused(tmp_path):
    with pytest.raises(ValueError, match="each rung must be 4 times the one before, got 2, 4"):
        run_asynchronously(Plan("rates", {}, [{"rate": 0.1}]), make, tmp_path, (2, 4))
