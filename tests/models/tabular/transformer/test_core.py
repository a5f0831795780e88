"""Tables of any size: views, padding, chunks, files."""

import jax
import numpy as np
import pytest

from metalearn.errors import MetalearnError, RunError
from metalearn_models.tabular.transformer import core, library
from metalearn_models.tabular.transformer.config import TableTransformerConfig
from metalearn_models.tabular.transformer.learner import network
from metalearn_models.tabular.transformer.views import class_codes, draw_table_views, show_columns

CONFIG = TableTransformerConfig(width=8, layers=1, cell_layers=1, key_size=4, hidden=8, frequencies=2, codes=4)


@pytest.fixture(scope="module")
def trained():
    return library.TrainedTables(jax.jit(network(CONFIG).init)(jax.random.key(0)), CONFIG, {})


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    xs = rng.standard_normal((40, 5))
    xs[rng.random(xs.shape) < 0.05] = np.nan
    xs[:, 3] = 7.5  # constant
    return xs, np.arange(40) % 3


def answers(trained, xs, ys, queries, **options):
    fitted = core.read_table(trained, xs, ys, views=2, rng=np.random.default_rng(1), **options)
    return core.answer(fitted, queries)


def test_columns_that_say_nothing_change_nothing(trained, table):
    xs, ys = table
    with_constant = answers(trained, xs[:30], ys[:30], xs[30:])
    without = answers(trained, np.delete(xs, 3, 1)[:30], ys[:30], np.delete(xs, 3, 1)[30:])
    np.testing.assert_array_equal(with_constant, without)
    empty = np.concatenate([xs, np.full((40, 1), np.nan)], 1)
    np.testing.assert_array_equal(answers(trained, empty[:30], ys[:30], empty[30:]), without)
    np.testing.assert_allclose(np.exp(without).sum(-1), 1, atol=1e-5)


def test_columns_far_from_zero_and_in_any_unit_are_read_as_others(trained, table):
    """float32 has seven digits, and its squares end at 1e38."""
    xs, ys = table
    plain = answers(trained, xs[:30], ys[:30], xs[30:])
    for far, unit in ((1e9, 1.0), (0.0, 1e-25), (0.0, 1e25)):
        moved = xs.copy()
        moved[:, 1] = far + unit * xs[:, 1]
        np.testing.assert_allclose(answers(trained, moved[:30], ys[:30], moved[30:]), plain, atol=2e-3)


def test_a_missing_value_may_be_all_that_a_column_says(trained, table):
    xs, ys = table
    holed = np.concatenate([xs, np.where(ys == 1, np.nan, 1.0)[:, None]], 1)
    (view,) = draw_table_views(holed, ys, np.zeros(6, bool), 1, 100, 10, 4, np.random.default_rng(0))
    assert 5 in view.columns and 3 not in view.columns


def test_principal_components_of_rows_that_know_nothing_of_a_column():
    rng = np.random.default_rng(0)
    xs, ys = rng.standard_normal((60, 6)), np.arange(60) % 2
    xs[2:, 0] = np.nan
    views = draw_table_views(xs, ys, np.zeros(6, bool), 8, 10, 3, 4, rng)
    assert all(np.isfinite(show_columns(view, xs)).all() for view in views[1::2])


def test_a_table_of_constants_has_one_answer(trained):
    ys = (np.arange(20) == 7).astype(int)
    got = answers(trained, np.ones((20, 2)), ys, np.zeros((3, 2)))
    np.testing.assert_allclose(np.exp(got).sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(got, got[:, :1].repeat(3, 1))


def test_chunks_of_queries_and_of_rows(trained, table, monkeypatch):
    xs, ys = table
    whole = answers(trained, xs[:30], ys[:30], xs)
    monkeypatch.setattr(core, "CHUNK", 16)
    np.testing.assert_allclose(answers(trained, xs[:30], ys[:30], xs), whole, atol=1e-5)


def test_large_tables_are_shown_in_parts(table):
    xs, ys = table
    views = draw_table_views(xs, ys, np.zeros(5, bool), 4, 10, 2, 4, np.random.default_rng(0))
    for number, view in enumerate(views):
        assert len(view.rows) == 10 and len(np.unique(view.rows)) == 10
        assert np.bincount(ys[view.rows], minlength=3).min() >= 3  # stratified
        shown = show_columns(view, xs)
        assert shown.shape == (40, 2) and 3 not in view.columns[: 2 if view.axes is None else 0]
        assert (view.axes is None) == (number % 2 == 0)
    assert len({tuple(view.rows) for view in views}) == 4
    components = show_columns(views[1], xs[views[1].rows])
    x = xs[views[1].rows][:, [0, 1, 2, 4]]
    z = np.nan_to_num((x - np.nanmean(x, 0)) / np.nanstd(x, 0))
    np.testing.assert_allclose((components**2).sum(0), np.linalg.svd(z)[1][:2] ** 2, rtol=1e-4)


@pytest.mark.parametrize("classes", [2, 4, 6, 50])
def test_codes_of_classes(classes):
    codes = class_codes(classes, 4, np.random.default_rng(0))
    assert codes.shape == (classes, 4) and len(np.unique(codes, axis=0)) == classes
    np.testing.assert_allclose((codes**2).sum(1), 1, rtol=1e-5)


def test_more_classes_than_codes(trained, table):
    xs, _ = table
    got = answers(trained, xs[:30], np.arange(30) % 20, xs[:3])
    assert got.shape == (2, 3, 20)
    np.testing.assert_allclose(np.exp(got).sum(-1), 1, atol=1e-5)


def test_files(trained, table, tmp_path):
    xs, ys = table
    path = tmp_path / "weights.safetensors"
    library.save(path, CONFIG, trained.theta, {"steps_done": 3})
    loaded = library.load(path)
    assert loaded.config == CONFIG and loaded.card["steps_done"] == 3
    np.testing.assert_array_equal(answers(loaded, xs[:30], ys[:30], xs[:2]), answers(trained, xs[:30], ys[:30], xs[:2]))
    with pytest.raises(RunError, match="do not fit"):
        library.save(path, TableTransformerConfig(), trained.theta)
    with pytest.raises(MetalearnError, match="weights"):
        library.load("no such name")
    with pytest.raises(RunError, match="no checkpoint yet"):
        library.load(tmp_path)
