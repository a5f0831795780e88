"""What each column says by itself, against scikit-learn, and the views of tables that are wider than a view."""

import numpy as np
import pytest
from sklearn.feature_selection import f_classif

from metalearn_models.tabular.transformer.screening import most_relevant, relevance
from metalearn_models.tabular.transformer.views import AT_RANDOM, COMPONENTS, TELLING, draw_table_views


@pytest.fixture
def table():
    """200 rows of 3 classes: 2 of 40 columns tell something."""
    rng = np.random.default_rng(0)
    ys = np.arange(200) % 3
    xs = rng.standard_normal((200, 40))
    xs[:, 7] += ys
    xs[:, 31] -= 0.8 * (ys == 2)
    return xs, ys


def test_numbers_have_the_f_of_an_analysis_of_variance_in_any_unit(table):
    xs, ys = table
    found = relevance(xs * np.geomspace(1e-20, 1e20, 40) + 3.0, ys, np.zeros(40, bool))
    np.testing.assert_allclose(found[20:], f_classif(xs, ys)[0][20:], rtol=1e-6)  # the first are lost beside 3
    found = relevance(np.where(np.arange(40) == 7, 1e200, 1.0) * xs, ys, np.zeros(40, bool))
    np.testing.assert_allclose(found, f_classif(xs, ys)[0], rtol=1e-6)


def test_categories_have_chi_square_per_degree_of_freedom():
    levels, ys = np.array([[4, 4, 4, 9, 9, 9, 9, 4]], np.float32).T, np.array([0, 0, 0, 1, 1, 1, 0, 1])
    # Three of four in each cell of the diagonal: 4 cells of (3 - 2)^2 / 2.
    np.testing.assert_allclose(relevance(levels, ys, np.ones(1, bool)), [2.0])


def test_what_is_missing_counts_and_constant_or_empty_columns_say_nothing(table):
    xs, ys = table
    xs[:, 3] = np.where(ys == 1, np.nan, xs[:, 3])  # missing in one class only
    xs[:, 4], xs[:, 5] = np.nan, 2.5
    found = relevance(xs, ys, np.zeros(40, bool))
    assert np.isfinite(found).all()
    assert found.argmax() == 3 and found[4] == found[5] == 0
    np.testing.assert_array_equal(most_relevant(xs, ys, np.zeros(40, bool), 3), [3, 7, 31])


def test_views_of_a_wide_table_show_what_tells_then_components_then_columns_at_random(table):
    xs, ys = table
    views = draw_table_views(xs, ys, np.zeros(40, bool), 4, 100, 8, 4, np.random.default_rng(0))
    assert [view.axes is not None for view in views] == [False, True, False, True]
    assert {7, 31} <= set(views[0].columns)
    expected = most_relevant(xs[views[0].rows], ys[views[0].rows], np.zeros(40, bool), 8)
    np.testing.assert_array_equal(views[0].columns, expected)  # of the rows that the view shows, and of no other
    assert not np.array_equal(views[2].columns, views[0].columns)
    assert [view.kind for view in views] == [TELLING, COMPONENTS, AT_RANDOM, COMPONENTS]
    assert views[1].axes is not None and views[3].axes is not None
    np.testing.assert_array_equal(views[1].axes[0], views[3].axes[0])  # found once, on the rows of the first
    narrow = draw_table_views(xs, ys, np.zeros(40, bool), 3, 100, 40, 4, np.random.default_rng(0))
    assert [view.kind for view in narrow] == [TELLING] * 3
