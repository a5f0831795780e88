"""The prior over tables: its statistics, its mechanisms, and that a table hangs on its number alone."""

import dataclasses

import numpy as np
import pytest

from metalearn_tasks.families.tables import PRIOR, TablesConfig, draw_table, draw_tables, numbered_tables
from metalearn_tasks.families.tables.causal import causal
from metalearn_tasks.families.tables.columns import categorise, duplicates, irrelevant, lose, quantise, warp
from metalearn_tasks.families.tables.direct import FUNCTIONS, direct
from metalearn_tasks.families.tables.labels import class_of_intervals, class_of_largest

PLAIN = TablesConfig(
    score_noise=0,
    label_noise=0,
    imbalanced=0,
    irrelevant=0,
    duplicated=0,
    warped=0,
    quantised=0,
    categorical=0,
    missing=0,
)


@pytest.fixture(scope="module")
def drawn():
    return draw_tables(np.random.default_rng(0), 300, 64, 8)


def _shares(ys):
    """Frequencies of the classes of each table, the most frequent first, with zeros behind."""
    counts = np.stack([np.bincount(row, minlength=10) for row in ys])
    return -np.sort(-counts, axis=1) / ys.shape[1]


def test_every_class_occurs_and_shapes_and_types_are_as_said(drawn):
    assert drawn.xs.shape == (300, 64, 8) and drawn.xs.dtype == np.float32
    assert drawn.ys.dtype == np.int32 and drawn.categorical.dtype == bool
    for row in drawn.ys:
        assert np.array_equal(np.unique(row), np.arange(row.max() + 1)) and row.max() >= 1
    assert not np.isinf(drawn.xs).any() and np.isfinite(drawn.xs).any(1).all()


def test_numbers_of_classes_have_their_shares(drawn):
    counts = np.bincount(drawn.ys.max(1) + 1, minlength=11)
    # 35 % are meant to have two classes, and a ninth of the rest; a rare class can be lost.
    assert 0.35 < counts[2] / 300 < 0.6
    assert counts[6:].sum() > 60 and counts[11:].sum() == 0
    assert draw_tables(np.random.default_rng(1), 40, 300, 4, TablesConfig(classes=30, binary=0)).ys.max() > 19


def test_categories_missing_values_and_imbalance_can_be_turned_off_and_on(drawn):
    assert 0.08 < drawn.categorical.mean() < 0.3
    assert 0.002 < np.isnan(drawn.xs).mean() < 0.04
    values = drawn.xs.transpose(0, 2, 1)[drawn.categorical]
    values = values[np.isfinite(values)]
    assert np.array_equal(values, np.rint(values)) and values.min() == 0 and values.max() < 12
    plain = draw_tables(np.random.default_rng(0), 100, 64, 8, dataclasses.replace(PLAIN, clusters=0))
    assert not plain.categorical.any() and np.isfinite(plain.xs).all()
    skewed = draw_tables(np.random.default_rng(0), 100, 64, 8, dataclasses.replace(PLAIN, imbalanced=1, clusters=0))
    # How much more frequent the first class is than in a balanced table with as many classes.
    excess = [(s[:, 0] * (s > 0).sum(1)).mean() for s in (_shares(plain.ys), _shares(skewed.ys))]
    # Scores of few values cannot be cut into equal classes, hence more than 1 in both.
    assert excess[0] < 1.6 and excess[1] > excess[0] + 0.3, excess


def test_a_table_hangs_on_its_number_alone():
    many = numbered_tables(3, range(6), 20, 5)
    few = numbered_tables(3, [4, 1], 20, 5)
    for all_of, some in zip(many, few, strict=True):
        np.testing.assert_array_equal(all_of[[4, 1]], some)
    assert not np.array_equal(many.ys[0], many.ys[1])
    assert not np.array_equal(numbered_tables(4, [1], 20, 5).xs, few.xs[1:], equal_nan=True)
    first, longer = (draw_tables(np.random.default_rng(7), tables, 20, 5) for tables in (2, 5))
    np.testing.assert_array_equal(first.xs, longer.xs[:2])


@pytest.mark.parametrize("seed", range(8))
def test_without_noise_a_causal_model_is_a_function_of_its_causes(seed):
    rng = np.random.default_rng(seed)
    causes = rng.standard_normal((30, 3))
    twice = np.concatenate([causes, causes])
    xs, scores = causal(np.random.default_rng(seed), twice, 6, 1 + seed % 3, 0.0)
    np.testing.assert_allclose(xs[:30], xs[30:], atol=1e-9)
    np.testing.assert_allclose(scores[:30], scores[30:], atol=1e-9)
    assert (xs.std(0) > 0).sum() >= 4
    noisy, _ = causal(np.random.default_rng(seed), twice, 6, 1 + seed % 3, 0.3)
    assert np.abs(noisy[:30] - noisy[30:]).max() > 0.05


@pytest.mark.parametrize("function", FUNCTIONS)
def test_direct_classes_are_a_function_of_the_columns(function):
    xs = np.random.default_rng(0).standard_normal((40, 5))
    twice = np.concatenate([xs, xs])
    scores = direct(np.random.default_rng(1), twice, 3, function)
    np.testing.assert_allclose(scores[:40], scores[40:], atol=1e-9)
    assert (scores.std(0) > 0).all()


def test_tables_can_be_learned_from():
    """The nearest row of 200 says more about the class than the frequencies do, by far."""
    right, frequent = [], []
    for k in range(60):
        table = numbered_tables(0, [k], 300, 6)
        xs, ys = np.nan_to_num(table.xs[0].astype(np.float64)), table.ys[0]
        ranks = xs.argsort(0, kind="stable").argsort(0, kind="stable")
        distances = np.square(ranks[200:, None] - ranks[None, :200]).sum(2)
        right.append((ys[:200][distances.argmin(1)] == ys[200:]).mean())
        frequent.append((np.bincount(ys[:200]).argmax() == ys[200:]).mean())
    assert np.mean(right) > np.mean(frequent) + 0.15


def test_duplicates_are_monotone_maps_and_irrelevant_columns_are_independent():
    rng = np.random.default_rng(0)
    xs = rng.standard_normal((200, 2))
    ranks = xs.argsort(0).argsort(0)
    for copy in duplicates(rng, xs, 20).T:
        rank = copy.argsort().argsort()
        same = [np.abs(np.corrcoef(rank, of)[0, 1]) for of in ranks.T]
        assert max(same) > 1 - 1e-9
    correlations = np.corrcoef(np.concatenate([xs, irrelevant(rng, xs, 20)], axis=1).T)[:2, 2:]
    assert np.abs(correlations).max() < 0.3  # four standard deviations of 1 / sqrt(200)


def test_changes_of_columns():
    rng = np.random.default_rng(0)
    x = np.sort(rng.standard_normal(100))
    for _ in range(20):
        assert len(np.unique(quantise(rng, x))) <= 21
        steps = np.diff(warp(rng, x))
        assert (steps > 0).all() or (steps < 0).all()
        codes = categorise(rng, x)
        # Each category is an interval, so along the sorted column each number comes in one stretch.
        assert (np.diff(codes) != 0).sum() == len(np.unique(codes)) - 1
    xs = lose(rng, rng.standard_normal((50, 30)), np.zeros(30, bool))
    assert 0 < np.isnan(xs).mean() < 0.7 and not np.isnan(xs).all(0).any()


def test_classes_of_scores_by_hand():
    score = np.array([0.3, -1.0, 2.0, 0.1, 5.0])
    np.testing.assert_array_equal(class_of_intervals(score, np.array([0.4, 0.6])), [1, 0, 1, 0, 1])
    scores = np.random.default_rng(0).standard_normal((2000, 3))
    wanted = np.array([0.6, 0.3, 0.1])
    found = np.bincount(class_of_largest(scores, wanted), minlength=3) / 2000
    np.testing.assert_allclose(found, wanted, rtol=0.31)


def test_small_tables_and_bad_sizes():
    for rows, features in ((2, 1), (3, 1), (5, 2), (2, 30)):
        xs, ys, categorical = draw_table(np.random.default_rng(0), rows, features)
        assert xs.shape == (rows, features) and ys.max() >= 1 and categorical.shape == (features,)
    with pytest.raises(ValueError, match="rows >= 2 and features >= 1, got 1 and 3"):
        draw_tables(np.random.default_rng(0), 1, 1, 3)
    with pytest.raises(ValueError, match="got none"):
        draw_tables(np.random.default_rng(0), 0, 10, 3)
    with pytest.raises(ValueError, match="must not all be 0"):
        TablesConfig(causal=0, direct=0, clusters=0)
    assert PRIOR == TablesConfig()
