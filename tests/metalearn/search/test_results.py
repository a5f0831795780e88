"""Rank correlations, variances and results files against SciPy, sums by hand and what was written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from metalearn.errors import RunError
from metalearn.search.random_search import random_search
from metalearn.search.rank_correlation import rung_correlations, spearman
from metalearn.search.results import Results, read_results, write_results
from metalearn.search.variance import variance_components
from metalearn.search.weight_sharing import rank_with_shared_weights, train_shared, weight_sharing

RNG = np.random.default_rng(0)


def test_spearman_is_that_of_scipy():
    for size in (2, 5, 50):
        a, b = RNG.integers(0, 6, size), RNG.normal(size=size) + RNG.integers(0, 6, size)
        np.testing.assert_allclose(spearman(a, b), stats.spearmanr(a, b)[0], rtol=1e-12)
    assert spearman([1, 2, np.inf], [3, 4, 5]) == pytest.approx(1)
    assert np.isnan(spearman([1, 1], [1, 2])) and np.isnan(spearman([1], [1]))
    with pytest.raises(ValueError, match="NaN"):
        spearman([np.nan, 1], [1, 2])
    with pytest.raises(ValueError, match="one length"):
        spearman([1, 2, 3], [1, 2])


def test_correlations_count_who_was_scored_at_both():
    scores = np.array([[4.0, 3.0, 2.0, 1.0], [np.nan, 1.0, 2.0, 3.0], [np.nan, np.nan, 5.0, 6.0]])
    rows = rung_correlations((1, 4, 16), scores)
    assert [(row.step, row.scored) for row in rows] == [(1, 2), (4, 2), (16, 2)]
    assert [round(row.spearman) for row in rows] == [-1, 1, 1]


def test_both_variances_are_found_again():
    search, evaluation = RNG.normal(0, 3, (4000, 1)), RNG.normal(0, 2, (4000, 3))
    luck = variance_components(10 + search + evaluation)
    np.testing.assert_allclose(luck, (3, 2), rtol=0.05)
    assert variance_components(np.array([[0.0, 1.0], [1.0, 0.0]])).search == 0
    with pytest.raises(ValueError, match="two searches"):
        variance_components(np.ones((1, 4)))


def results(**changed):
    scores = np.array([[0.5, 0.25, np.inf], [np.nan, 0.125, np.nan]])
    made = Results("toy", {"width": 4}, {"name": "s", "choices": {"a": ["x"]}}, 3, (1, 4), [{"architecture": 2}] * 3,
                   scores, np.array([np.nan, 0.5, np.nan]))  # fmt: skip
    return made._replace(**changed)


def test_results_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "new" / "results.json"
    write_results(path, results())
    again = read_results(path, {"width": 4}, results().space)
    for old, new in zip(results(), again, strict=True):
        np.testing.assert_equal(new, old)
    with pytest.raises(RunError, match=r"results of another space.*choices.a: \['y'\]|choices.a: \['x'\] -> \['y'\]"):
        read_results(path, space={"name": "s", "choices": {"a": ["y"]}})
    with pytest.raises(RunError, match="other settings, old -> new: width: 4 -> 8"):
        read_results(path, {"width": 8})
    path.write_text('{"format": 7}')
    with pytest.raises(RunError, match="has the format 7; this version reads 1"):
        read_results(path)
    path.write_text('{"format"')
    with pytest.raises(RunError, match="cannot read"):
        read_results(path)


def test_shared_weights_are_those_of_a_loop_with_fresh_candidates(parabola, rates):
    key, few = jax.random.key(5), jnp.float32(1.0)

    def sample(key):
        return rates[jax.random.randint(key, (), 0, 16)]

    shared = train_shared(parabola, sample, few, key, 6)
    trajectory, draws = jax.random.split(key)
    x = 1.0
    for t in range(6):
        noise = float(jax.random.normal(jax.random.fold_in(trajectory, t + 1)))
        x -= float(sample(jax.random.fold_in(draws, t))) * (x + 0.1 * noise)
    np.testing.assert_allclose(shared["x"], x, rtol=1e-5)
    # The score with shared weights is the same for all learning rates, so the order is that of the numbers.
    quick, ranked, scores = rank_with_shared_weights(parabola, rates, shared, few, few, 3)
    assert ranked.tolist() == [0, 1, 2] and len(quick) == 16
    np.testing.assert_allclose(scores, 0.5 * x**2, rtol=1e-4)
    found = weight_sharing(parabola, sample, rates, few, few, key, draws, steps=6, alone_steps=8, keep=16)
    alone = random_search(parabola, rates, few, draws, (8,))
    np.testing.assert_array_equal(found.alone, np.asarray(alone.scores[-1], np.float64))
    assert found.winner == int(np.argmin(found.alone)) and np.isnan(found.spearman)
    np.testing.assert_array_equal(found.weights["x"], shared["x"])
    with pytest.raises(ValueError, match="keep must be from 1 to the number of candidates 16, got 17"):
        rank_with_shared_weights(parabola, rates, shared, few, few, 17)
