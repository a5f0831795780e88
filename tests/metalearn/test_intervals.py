import numpy as np
import pytest
from scipy import stats

from metalearn.intervals import half_width, mean_interval


@pytest.mark.parametrize("level", [0.5, 0.95])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_the_interval_is_scipys_student_interval(axis, level):
    values = np.random.default_rng(0).normal(3, 2, (5, 4))
    expected = stats.t.interval(level, values.shape[axis] - 1, values.mean(axis), stats.sem(values, axis))
    mean, low, high = mean_interval(values, axis, level)
    np.testing.assert_allclose([mean, low, high], [values.mean(axis), *expected], rtol=1e-12)
    np.testing.assert_allclose(half_width(values, axis, level), (high - low) / 2, rtol=1e-12)


def test_it_covers_the_true_mean_as_often_as_it_says():
    _, low, high = mean_interval(np.random.default_rng(0).normal(size=(3, 20_000)))
    assert np.mean((low <= 0) & (0 <= high)) == pytest.approx(0.95, abs=0.006)


def test_a_single_value_has_infinite_ends_and_none_has_no_mean():
    assert mean_interval([2.5]) == (2.5, -np.inf, np.inf)
    assert half_width([2.5]) == np.inf
    assert np.isnan(mean_interval([])).all()
    assert mean_interval([[1.0, 2.0]], axis=0).high.shape == (2,)


def test_no_value_is_left_out_unless_asked():
    values = np.array([[1.0, np.nan, np.inf, np.nan], [3.0, 3.0, 3.0, np.nan], [5.0, 5.0, 5.0, 5.0]])
    mean, low, high = mean_interval(values)
    np.testing.assert_array_equal(mean, [3, np.nan, np.inf, np.nan])
    np.testing.assert_array_equal(np.isnan([low, high]), 2 * [[False, True, True, True]])
    finite = mean_interval(values, where=np.isfinite(values))
    np.testing.assert_array_equal(finite.mean, [3, 4, 4, 5])
    np.testing.assert_allclose(finite.high[1], mean_interval([3.0, 5.0]).high)
    assert finite.high[3] == np.inf
    assert np.isnan(mean_interval([np.nan])).all()


def test_integers_and_float32_are_averaged_in_float64():
    assert half_width(np.array([1, 2], np.int8)) == half_width([1.0, 2.0])
    assert np.asarray(mean_interval(np.ones((2, 3), np.float32)).mean).dtype == np.float64


def test_a_level_outside_of_the_unit_interval_is_refused():
    with pytest.raises(ValueError, match=r"level must be in \(0, 1\), got 95"):
        mean_interval([1.0, 2.0], level=95)
