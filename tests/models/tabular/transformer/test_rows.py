import itertools

import numpy as np
import pytest

from metalearn_models.tabular.transformer.rows import deal_rows
from metalearn_models.tabular.transformer.views import draw_table_views


def _deal(ys, rows, views):
    return list(itertools.islice(deal_rows(ys, rows, np.random.default_rng(1)), views))


@pytest.mark.parametrize("n", [25, 47, 90, 300])
def test_no_row_comes_again_before_all_were_dealt(n):
    ys = np.random.default_rng(0).integers(0, 3, n)
    dealt = _deal(ys, 24, 8)
    assert all(len(np.unique(rows)) == 24 for rows in dealt)
    for views in range(1, 9):
        times = np.bincount(np.concatenate(dealt[:views]), minlength=n)
        assert times.sum() == 24 * views and times.max() - times.min() <= 1


def test_classes_have_their_shares_in_each_view():
    ys = np.repeat([0, 1, 2], [400, 200, 100])
    for rows in _deal(ys, 70, 20):  # two rounds over the table
        np.testing.assert_allclose(np.bincount(ys[rows]), [40, 20, 10], atol=1)


def test_a_rare_class_is_in_each_view_and_costs_the_others_no_row():
    ys = np.repeat([0, 1, 2], [150, 49, 1])
    dealt = _deal(ys, 25, 8)
    times = np.bincount(np.concatenate(dealt))
    assert times[-1] == 8 and times[:-1].max() == 1
    few = _deal(np.arange(30) % 10, 4, 3)  # fewer than classes: one of each
    assert [sorted(rows % 10) for rows in few] == [list(range(10))] * 3 and len(np.unique(few)) == 30


def test_views_of_a_large_table_share_out_its_rows():
    xs = np.random.default_rng(0).standard_normal((800, 3))
    views = draw_table_views(xs, np.arange(800) % 2, np.zeros(3, bool), 8, 100, 64, 10, np.random.default_rng(1))
    assert len(np.unique(np.concatenate([view.rows for view in views]))) == 800
