import numpy as np
import pytest

from metalearn_models.tabular.transformer.views import draw_table_views, show_columns


def _table(units: np.ndarray, rows: int = 60, categorical: bool = False):
    rng = np.random.default_rng(0)
    xs = rng.uniform(0, 1, (rows, 4)) @ rng.standard_normal((4, len(units))) + rng.uniform(0, 1, (rows, len(units)))
    low, high = xs.min(0), xs.max(0)
    xs = (xs - low) / (high - low) * units
    kinds = np.zeros(len(units), bool)
    kinds[0] = categorical
    return xs, rng.integers(0, 3, rows), kinds


def _draw(xs, ys, kinds, columns=64):
    return draw_table_views(xs, ys, kinds, 8, 1024, columns, 10, np.random.default_rng(1))


def test_columns_in_one_unit_have_components_of_the_columns_as_they_are_in_every_second_view():
    xs, ys, kinds = _table(np.repeat([1.0, 3.0], 20))
    views = _draw(xs, ys, kinds)
    assert [view.axes is not None for view in views] == [False, True] * 4
    left, values, _ = np.linalg.svd(xs - xs.mean(0), full_matrices=False)
    for number, count in ((1, 20), (3, 16)):  # one per three rows, and one per six but 16 at least
        shown = show_columns(views[number], xs)
        exact = left[:, :count] * values[:count] / np.sqrt(xs.var(0).mean())
        np.testing.assert_allclose(np.abs(shown), np.abs(exact), atol=2e-5)


def test_other_columns_have_components_of_the_standardised_columns_in_one_view_of_four():
    xs, ys, kinds = _table(np.array([1.0, 1, 1, 1, 1, 1, 1, 100, 1000]))
    views = _draw(xs, ys, kinds)
    assert [number for number, view in enumerate(views) if view.axes is not None] == [1, 5]
    left, values, _ = np.linalg.svd((xs - xs.mean(0)) / xs.std(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(show_columns(views[1], xs)), np.abs(left * values), atol=2e-4)


@pytest.mark.parametrize("units, categorical", [(np.ones(7), False), (np.ones(40), True)])
def test_few_columns_and_those_with_categories_are_shown_as_they_are(units, categorical):
    assert all(view.axes is None for view in _draw(*_table(units, categorical=categorical)))


def test_an_infinite_or_empty_column_does_not_hide_the_unit():
    xs, ys, kinds = _table(np.ones(12))
    xs[:, 3], xs[5, 4], xs[6, 5] = np.nan, np.inf, np.nan
    shown = show_columns(_draw(xs, ys, kinds)[3], xs)
    assert np.isfinite(shown).all() and shown.shape == (60, 11)
