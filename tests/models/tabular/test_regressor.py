"""`InContextRegressor`: mostly with a Transformer for tables that was never trained, what must hold of any weights."""

import pickle
from typing import Any

import jax
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

import metalearn_models
from metalearn_models.tabular.regression import reader
from metalearn_models.tabular.regression import regressor as regressor_module
from metalearn_models.tabular.regression.line import PENALTIES, fit_line, follow
from metalearn_models.tabular.regression.reader import BINS, FOLDS, SHARPNESSES, USUAL, cut, ranked_loss, sharpen
from metalearn_models.tabular.regression.regressor import InContextRegressor
from metalearn_models.tabular.transformer.config import TableTransformerConfig
from metalearn_models.tabular.transformer.core import answer, read_table, weigh_rows
from metalearn_models.tabular.transformer.learner import network
from metalearn_models.tabular.transformer.library import load, save
from metalearn_models.tabular.views import fit_standardiser, standardise


@pytest.fixture(scope="module", autouse=True)
def optimized():
    """Without the optimizations of the folder's other files: these programs are many, and each runs a few times."""
    yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    config = TableTransformerConfig(width=8, layers=1, cell_layers=1, key_size=4, hidden=8, frequencies=2)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save(path, config, jax.jit(network(config).init)(jax.random.key(0)), {"note": "never trained"})
    return str(path)


def _table(rows, features=4, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, features))
    return X, 3.0 * X[:, 0] + np.square(X[:, 1]) + 0.1 * rng.standard_normal(rows) + 20.0


@pytest.mark.parametrize("features", [3, 30])  # fewer than rows, and more
def test_what_is_left_of_a_row_is_that_of_a_line_through_the_others(features):
    x, y = _table(20, features)
    y = y - y.mean() + 0.5
    line, guesses = fit_line(x, y)
    z = standardise(fit_standardiser(x), x)

    def ridge(rows, penalty):
        mean = z[rows].mean(0)
        a = z[rows] - mean
        slopes = np.linalg.solve(a.T @ a + 20 * penalty * np.eye(features), a.T @ (y[rows] - y[rows].mean()))
        return lambda q: y[rows].mean() + (q - mean) @ slopes

    def left_out(penalty):
        return np.array([ridge(np.delete(np.arange(20), i), penalty)(z[i]) for i in range(20)])

    found = [left_out(penalty) for penalty in PENALTIES]
    errors = [np.square(y - each).mean() for each in found]
    best = int(np.argmin(errors))
    assert line.penalty == PENALTIES[best] and 0 < best < len(PENALTIES) - 1
    np.testing.assert_allclose(guesses, found[best], rtol=1e-8)
    np.testing.assert_allclose(follow(line, x), ridge(np.arange(20), line.penalty)(z), rtol=1e-8)


def test_a_line_never_breaks_on_targets_of_one_value_or_two_rows():
    line, guesses = fit_line(np.eye(2), np.ones(2))
    np.testing.assert_array_equal(guesses, [1, 1])
    np.testing.assert_array_equal(follow(line, np.eye(2)), [1, 1])
    line, guesses = fit_line(np.array([[0.0], [1.0]]), np.array([0.0, 1.0]))
    np.testing.assert_allclose(guesses, [1, 0], atol=1e-12)  # all that each knows is the other


def test_classes_are_quantiles_whose_edges_move():
    values = np.random.default_rng(0).permutation(100).astype(float)
    for shift, sizes in ((0.0, [20] * BINS), (0.25, [15, 20, 20, 20, 20, 5]), (-0.25, [5, 20, 20, 20, 20, 15])):
        classes = cut(values, shift, np.random.default_rng(0))
        assert np.bincount(classes).tolist() == sizes
        assert (np.diff(classes[np.argsort(values)]) >= 0).all()
    assert sorted(np.bincount(cut(np.zeros(10), 0.0, np.random.default_rng(0)))) == [2] * 5  # equal ones at random
    for shift in (-0.4375, 0.0, 0.4375):
        assert cut(np.zeros(2), shift, np.random.default_rng(0)).max() == 1


def test_weights_of_rows_add_up_to_the_probabilities_of_classes(weights):
    X, _ = _table(30)
    ys = np.arange(24) % 3
    fitted = read_table(load(weights), X[:24], ys, views=2, rng=np.random.default_rng(0))
    for view in range(2):
        found = weigh_rows(fitted, view, X[24:])
        assert found.shape == (6, 24) and np.ptp(found) > 1e-3
        by_class = np.stack([found[:, ys == k].sum(1) for k in range(3)], 1)
        np.testing.assert_allclose(by_class, np.exp(answer(fitted, X[24:])[view]), atol=2e-5)


def test_the_ranked_loss_is_the_integral_that_defines_it():
    rng = np.random.default_rng(0)
    values, truths = rng.standard_normal(6), np.array([-9.0, 0.1, 9.0])
    weights = rng.random((3, 6))
    weights /= weights.sum(1, keepdims=True)
    z = np.arange(-10, 10, 1e-3) + 5e-4
    below = weights @ (values[:, None] <= z)
    expected = np.square(below - (truths[:, None] <= z)).sum(1) * 1e-3
    np.testing.assert_allclose(ranked_loss(weights, values, truths), expected, atol=3e-3)


def test_the_prediction_is_the_line_and_a_weighted_mean_of_what_it_left(weights):
    X, y = _table(40)
    model = InContextRegressor(weights, n_estimators=2).fit(X[:30], y[:30])
    assert model.n_views_ == 2 and model.card_["note"] == "never trained" and model.penalty_ in PENALTIES
    mean, scale = y[:30].mean(), y[:30].std()
    line, guesses = fit_line(X[:30], (y[:30] - mean) / scale)
    left = (y[:30] - mean) / scale - guesses
    rng = np.random.default_rng(np.random.RandomState(0).randint(2**31 - 1))
    table = np.column_stack([X, follow(line, X)])  # the same column for training rows and others

    def ask(rows, shift, number, queries):
        classes, none = cut(left[rows], shift, rng), np.zeros(5, bool)
        options: Any = {"categorical": none, "views": 1, "rng": rng, "first": number, "turned": False}
        return weigh_rows(read_table(load(weights), table[rows], classes, **options), 0, table[queries])

    each = [ask(np.arange(30), shift, number, np.arange(30, 40)) for number, shift in enumerate((-0.25, 0.25))]
    order, losses = rng.permutation(30), np.zeros(len(SHARPNESSES))
    for number, part in enumerate(np.array_split(order, FOLDS)):
        rest = np.array([row for row in range(30) if row not in part])
        found = ask(rest, (number + 0.5) / FOLDS - 0.5, number, part)
        losses += [ranked_loss(sharpen(found, power), left[rest], left[part]).sum() for power in SHARPNESSES]
    assert model.sharpness_ == SHARPNESSES[int(np.argmin(losses))]
    sharp = [one**model.sharpness_ for one in each]
    total = sum(one / one.sum(1, keepdims=True) for one in sharp) / 2
    base = follow(line, X[30:])
    values = (base[:, None] + left[None]) * scale + mean  # of each query, where its distribution has its weights
    found, spread = model.predict(X[30:], return_std=True)
    np.testing.assert_allclose(found, (total * values).sum(1), rtol=1e-5)
    np.testing.assert_allclose(model.predict(X[30:]), found)
    np.testing.assert_allclose(spread, np.sqrt((total * np.square(values - found[:, None])).sum(1)), rtol=1e-4)
    quantiles = model.predict_quantiles(X[30:], [0.05, 0.5, 0.95])
    for row, weight, of in zip(quantiles, total, values, strict=True):
        for q, value in zip((0.05, 0.5, 0.95), row, strict=True):
            assert weight[of < value - 1e-6].sum() < q <= weight[of <= value + 1e-6].sum()
    np.testing.assert_allclose(model.predict(X[35:36]), found[5:6], rtol=1e-6)


def test_few_rows_choose_nothing(weights):
    X, y = _table(19)
    assert InContextRegressor(weights, n_estimators=1).fit(X, y).sharpness_ == USUAL


def test_views_of_a_large_table_have_samples_and_weights_of_their_own_rows(weights, monkeypatch):
    monkeypatch.setattr(
        reader, "read_table", lambda trained, X, y, **options: read_table(trained, X, y, rows=16, **options)
    )
    monkeypatch.setattr(reader, "QUERIES", 7)  # more than one part
    X, y = _table(50)
    model = InContextRegressor(weights, n_estimators=2).fit(X[:30], y[:30])
    ((base, each, left), *others) = model._reader.distributions(X[30:], X[30:])
    assert (len(base), each.shape, len(left), len(others)) == (7, (7, 30), 30, 2)
    shown = [set(fitted.views[0].rows) for fitted in model._reader._views]
    assert len(shown[0]) == 16 and shown[0] != shown[1]
    np.testing.assert_allclose(each.sum(1), 1.0)
    assert set(np.flatnonzero(each.max(0) > 0)) == shown[0] | shown[1]
    assert np.shape(model.predict(X[30:])) == (20,) and model.predict_quantiles(X[30:]).shape == (20, 3)


def test_units_of_the_targets_do_not_matter_and_equal_targets_are_predicted(weights):
    X, y = _table(30)
    fit = lambda y: InContextRegressor(weights, n_estimators=1).fit(X, y)  # noqa: E731
    expected, spread = fit(y).predict(X, return_std=True)
    for factor, shift in ((1e-200, 0.0), (1e290, 0.0), (-2.0, 7.0)):
        found, deviation = fit(y * abs(factor) + shift).predict(X, return_std=True)
        np.testing.assert_allclose(found, expected * abs(factor) + shift, rtol=1e-5)
        np.testing.assert_allclose(deviation, spread * abs(factor), rtol=1e-3)
    same, none = fit(np.full(30, 0.1)).predict(X, return_std=True)
    np.testing.assert_allclose(same, 0.1, rtol=1e-15)
    np.testing.assert_array_equal(none, 0.0)


def test_categories_and_missing_values_reach_both_parts(weights, monkeypatch):
    seen: list[Any] = []
    monkeypatch.setattr(
        reader,
        "read_table",
        lambda trained, X, y, **options: seen.append((X, options)) or read_table(trained, X, y, **options),
    )
    X, y = _table(40)
    X[:, 2] = np.arange(40) % 4
    y = y + np.array([0.0, 9.0, -9.0, 4.0])[np.arange(40) % 4]
    X[3, 3] = np.nan
    told = InContextRegressor(weights, n_estimators=1, categorical_features=[2]).fit(X, y)
    shown, options = seen[0]
    assert options["categorical"].tolist() == [False, False, True, False, False] and np.isnan(shown[3, 3])
    assert not options["turned"] and [len(of) for of, _ in seen] == [40, 30, 30, 30, 30]
    plain = InContextRegressor(weights, n_estimators=1).fit(X, y)
    assert told.score(X, y) > 0.9 > plain.score(X, y)  # a line through the numbers of categories cannot


def test_it_pickles_clones_and_repeats(weights):
    X, y = _table(30)
    model = InContextRegressor(weights, n_estimators=1).fit(X, y)
    copy = pickle.loads(pickle.dumps(model))
    assert not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(vars(copy)))
    np.testing.assert_array_equal(copy.predict(X), model.predict(X))
    unfitted: Any = clone(model)
    assert unfitted.get_params() == model.get_params()
    np.testing.assert_array_equal(unfitted.fit(X, y).predict(X), model.predict(X))
    assert metalearn_models.InContextRegressor is InContextRegressor


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (np.zeros((1, 2)), np.zeros(1), "1 sample.*minimum of 2"),
        (np.zeros((3, 2)), np.zeros(2), "inconsistent numbers of samples"),
        (np.zeros((3, 2)), np.array([0.0, np.nan, 1.0]), "y contains NaN"),
        (np.full((3, 2), np.inf), np.zeros(3), "infinity"),
        (np.zeros((3, 2)), np.array(["a", "b", "c"]), "could not convert"),
        (np.zeros((3, 2)), np.zeros((3, 2)), "1d array"),
    ],
)
def test_bad_tables_are_refused_with_what_is_wrong(weights, X, y, message):
    with pytest.raises(ValueError, match=message):
        InContextRegressor(weights).fit(X, y)


def test_a_learner_of_sequences_and_senseless_quantiles_are_refused(weights):
    X, y = _table(10)
    with pytest.raises(ValueError, match="such as tables, got 'digits-synthetic-16x10', a learner that reads seq"):
        InContextRegressor("digits-synthetic-16x10").fit(X, y)
    model = InContextRegressor(weights, n_estimators=1).fit(X, y)
    for wrong in ([0.0], [1.0], [np.nan], [], np.full((1, 1), 0.5)):
        with pytest.raises(ValueError, match="between 0 and 1, got"):
            model.predict_quantiles(X, wrong)
    model.weights = "nope"
    with pytest.raises(ValueError, match="nope"):
        model.fit(X, y)
    with pytest.raises(NotFittedError):
        model.predict(X)


@pytest.fixture
def _untrained(weights, monkeypatch):
    """The checks below are made before there are weights, so they know them by a name."""
    trained = load(weights)
    monkeypatch.setattr(regressor_module, "load_learner", lambda name: trained)


@parametrize_with_checks([InContextRegressor("untrained", n_estimators=1)])
@pytest.mark.unchecked_types
@pytest.mark.usefixtures("_untrained")
def test_scikit_learns_own_checks_pass(estimator, check):
    check(estimator)


def test_the_weights_of_the_package_see_what_no_line_can_and_no_target_is_given_away():
    """A column of lines that left each row out would: a mean of the others is high where a target is low."""
    rng = np.random.default_rng(0)
    X, noise = rng.standard_normal((260, 1)), rng.standard_normal(260)
    y = np.sin(3 * X[:, 0]) + 0.1 * noise
    model = InContextRegressor(n_estimators=2).fit(X[:60], y[:60])
    assert model.score(X[60:], y[60:]) > 0.6 and model.sharpness_ > 2.0
    low, high = model.predict_quantiles(X[60:], (0.1, 0.9)).T
    assert 0.65 < ((low <= y[60:]) & (y[60:] <= high)).mean() < 0.95
    dull = InContextRegressor(n_estimators=2).fit(X[:60], noise[:60])
    assert dull.sharpness_ == 1.0 and dull.score(X[60:], noise[60:]) > -0.15
