"""Means, bootstrap intervals, rank correlations and crossings against textbook values, scipy and known lines."""

import math

import numpy as np
import pytest
from scipy import stats

from experiments.suite.intervals import bootstrap, coverage, crossing, list_interval, rank_correlation


def test_mean_interval_of_a_textbook_sample():
    # mean 10, standard deviation 2, n = 5: the half width is 2.776 * 2 / sqrt(5)
    values = [10 - 2, 10 - 2, 10 + 2, 10 + 2, 10]
    mean, low, high = list_interval(values)
    assert (mean, high - mean) == pytest.approx((10, 2.776 * 2 / 5**0.5), abs=1e-3)
    assert mean - low == pytest.approx(high - mean)
    expected = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (low, high) == pytest.approx(expected)


def test_a_single_value_has_no_interval():
    assert list_interval([3.0]) == [3.0, -math.inf, math.inf]
    assert bootstrap([[3.0], [4.0]], lambda groups: groups[1][0] - groups[0][0]) == [1.0, -math.inf, math.inf]
    assert bootstrap([[3.0], [4.0, 6.0]], lambda groups: np.mean(groups[1]) - groups[0][0]) == [2.0, 1.0, 3.0]


def difference(groups):
    return float(np.mean(groups[1]) - np.mean(groups[0]))


def test_a_bootstrap_covers_about_as_often_as_it_says():
    rng, covered = np.random.default_rng(1), 0
    for trial in range(100):
        groups = [rng.normal(0, 1, 40).tolist(), rng.normal(2, 1, 40).tolist()]
        value, low, high = bootstrap(groups, difference, seed=trial, draws=200)
        assert low < value < high and value == pytest.approx(difference(groups))
        # the interval of a difference of two means of 40, known in closed form
        assert high - low == pytest.approx(2 * 1.96 * (2 / 40) ** 0.5, rel=0.45)
        covered += low <= 2 <= high
    assert 87 <= covered <= 99


def test_resampling_two_or_three_seeds_covers_less_than_it_means_to():
    # of two values a quarter of the draws holds the smaller twice, so the ends are the values, between which lies the
    # mean when they lie on different sides of it
    assert coverage(2, trials=400, draws=200) == pytest.approx(0.5, abs=0.08)
    assert 0.65 < coverage(3, trials=400, draws=200) < 0.82


def test_a_bootstrap_is_reproduced_by_its_seed():
    groups = [[1.0, 2.0, 4.0, 8.0], [3.0, 5.0, 9.0]]
    assert bootstrap(groups, difference, draws=200) == bootstrap(groups, difference, draws=200)
    assert bootstrap(groups, difference, draws=200) != bootstrap(groups, difference, seed=1, draws=200)


def test_draws_that_are_infinite_count_and_those_that_are_not_numbers_do_not():
    # a third of the draws of [0, 1] is as good as certain to lie in each of: both 0, both 1, one of each
    infinite = bootstrap([[0.0, 1.0]], lambda groups: {0: -math.inf, 1: 5.0, 2: math.inf}[int(sum(groups[0]))])
    assert infinite == [5.0, -math.inf, math.inf]
    missing = bootstrap([[0.0, 1.0]], lambda groups: {0: math.nan, 1: 5.0, 2: 6.0}[int(sum(groups[0]))])
    assert missing == [5.0, 5.0, 6.0]
    nothing = bootstrap([[0.0, 1.0]], lambda groups: math.nan)
    assert np.isnan(nothing).all()


def test_rank_correlation_is_scipys_with_an_interval_over_groups():
    rng = np.random.default_rng(0)
    x = rng.normal(size=12)
    y = x + rng.normal(size=12)
    rho, low, high = rank_correlation(x, y, range(12))
    assert rho == pytest.approx(stats.spearmanr(x, y)[0]) and low < rho < high
    # what is drawn are groups: twelve equal copies of each pair are no more evidence than one
    copies = rank_correlation(np.repeat(x, 12), np.repeat(y, 12), np.repeat(np.arange(12), 12))
    assert copies[1:] == pytest.approx([low, high])
    assert rank_correlation(np.repeat(x, 12), np.repeat(y, 12), range(144))[1] > low + 0.1


def test_rank_correlation_of_known_orders():
    x = [1, 2, 3, 4, 5, 6]
    assert rank_correlation(x, [2**v for v in x], x) == pytest.approx([1, 1, 1])
    assert rank_correlation(x, [-(v**3) for v in x], x) == pytest.approx([-1, -1, -1])
    assert rank_correlation([1, 2, 3], [1, 3, 2], [0, 1, 2])[0] == pytest.approx(1 - 6 * 2 / (3 * 8))
    ties = [1, 1, 2, 2, 3, 3], [5, 6, 6, 7, 6, 9]
    assert rank_correlation(*ties, range(6))[0] == pytest.approx(stats.spearmanr(*ties)[0])
    assert np.isnan(rank_correlation([1, 1, 1], [1, 2, 3], [0, 1, 2])).all()


def test_crossing_of_a_line_is_exact():
    x = [0, 2, 3, 7]
    y = [0.1 * v - 0.05 for v in x]
    for level in (0.01, 0.2, 0.6):
        assert crossing(x, y, level) == pytest.approx((level + 0.05) / 0.1)
    assert crossing(x, y, y[2]) == pytest.approx(3)


def test_crossing_of_a_curve_that_lies_above_or_below_all():
    assert crossing([1, 2, 3], [0.5, 0.6, 0.7], 0.5) == -math.inf
    assert crossing([1, 2, 3], [0.5, 0.6, 0.7], 0.71) == math.inf
    assert crossing([4], [0.3], 0.2) == -math.inf and crossing([4], [0.3], 0.4) == math.inf


def test_noise_on_either_side_does_not_move_a_crossing():
    clean = crossing([0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 1], 0.5)
    assert clean == pytest.approx(2.5)
    noisy = crossing([0, 1, 2, 3, 4, 5], [0.1, -0.1, 0, 1, 1.1, 0.9], 0.5)
    assert noisy == pytest.approx(2.5)
    # one point that is high by chance: the mean of it and the lower one after it counts at both
    assert crossing([0, 1, 2, 3], [0, 0.6, 0, 1], 0.5) == pytest.approx(2 + 0.2 / 0.7)
