import numpy as np
import pytest

from metalearn_models.tabular.transformer.profiles import PROFILED, profile, says_more
from metalearn_models.tabular.transformer.views import draw_table_views, show_columns


def _images(rows=90, columns=40, places=False):
    """Three classes in columns of one unit: apart in how different the values of a row are, or in where they are."""
    rng = np.random.default_rng(0)
    ys = np.arange(rows) % 3
    xs = rng.standard_normal((rows, columns))
    if places:
        return 5 + 0.2 * xs + 3 * rng.standard_normal((3, columns))[ys], ys
    return 5 + xs * np.array([0.5, 1.0, 1.5])[ys, None], ys


def _draw(xs, ys, columns=64):
    return draw_table_views(xs, ys, np.zeros(xs.shape[1], bool), 8, 1024, columns, 10, np.random.default_rng(1))


def test_a_profile_has_mean_deviation_and_quantiles_in_whatever_order_the_values_are():
    found = profile(np.array([[0.0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]))
    np.testing.assert_allclose(found, [[5, np.sqrt(10), 0, 1, 2.5, 5, 7.5, 9, 10]])
    np.testing.assert_allclose(profile(np.array([[10.0, 0, 9, 1, 8, 2, 7, 3, 6, 4, 5]])), found)
    assert found.shape == (1, PROFILED)


def test_only_as_many_components_as_a_profile_has_numbers_are_compared():
    rng, ys = np.random.default_rng(0), np.repeat([0, 1], 50)
    weak, strong, noise = (rng.standard_normal((100, n)) for n in (PROFILED, PROFILED, 90))
    weak[ys == 1] += 1.0
    strong[ys == 1] += 3.0
    assert says_more(weak, noise, ys)
    assert not says_more(weak, np.concatenate([noise, strong], 1), ys)
    assert not says_more(noise[:, :PROFILED], weak, ys)


def test_chance_does_not_decide_where_classes_have_few_rows():
    rng, shown = np.random.default_rng(0), {}
    for rows in (12, 39, 40):
        xs, ys = rng.uniform(size=(rows, 40)), np.arange(rows) % 10
        xs[:, :] = xs * (1 + ys[:, None])  # classes are apart in how large their values are
        shown[rows] = any(view.profiled for view in _draw(xs, ys))
    assert shown == {12: False, 39: False, 40: True}


@pytest.mark.parametrize("columns", [64, 20])
def test_rows_that_differ_in_their_values_have_profiles_behind_their_components(columns):
    xs, ys = _images()
    views = _draw(xs, ys, columns)
    turned = [view for view in views if view.axes is not None]
    assert len(turned) == 4 and all(view.profiled == (view.axes is not None) for view in views)
    for view in turned:
        shown = show_columns(view, xs)
        assert shown.shape[1] == len(view.categorical) == len(view.spin) <= columns
        deviation = np.sqrt(xs.var(0).mean())
        np.testing.assert_allclose(shown[:, -PROFILED:], profile((xs - xs.mean()) / deviation), rtol=1e-4, atol=1e-5)
        assert np.abs(shown[:, :-PROFILED].mean(0)).max() < 1e-5  # components have no mean
        np.testing.assert_array_equal(show_columns(view, xs[3:4])[:, -PROFILED:], shown[3:4, -PROFILED:])


def test_rows_that_differ_by_places_units_of_their_own_and_narrow_views_have_none():
    in_places, by_values, units = _images(places=True), _images(), np.repeat([1.0, 20.0], [39, 1])
    assert not any(view.profiled for view in _draw(*in_places))
    assert not any(view.profiled for view in _draw(by_values[0] * units, by_values[1]))
    assert not any(view.profiled for view in _draw(*by_values, columns=PROFILED))


def test_a_missing_value_counts_as_the_mean_of_its_column():
    xs, ys = _images()
    view = next(view for view in _draw(xs, ys) if view.profiled)
    one, holes = xs[:1].copy(), xs[:1].copy()
    assert view.axes is not None
    one[0, 4], holes[0, 4] = view.axes[1][4], np.nan
    np.testing.assert_allclose(show_columns(view, holes), show_columns(view, one), rtol=1e-6)
