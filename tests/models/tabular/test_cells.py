"""`InContextClassifier` with a Transformer for tables that was never trained: what must hold of any weights."""

import pickle
from typing import Any

import jax
import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from metalearn.errors import UnknownNameError
from metalearn_models.tabular import cells
from metalearn_models.tabular import classifier as classifier_module
from metalearn_models.tabular.calibration import calibrate, fit_calibration
from metalearn_models.tabular.cell_variance import STEPS, _counts, _order
from metalearn_models.tabular.cells import LEAST_ROWS
from metalearn_models.tabular.classifier import InContextClassifier
from metalearn_models.tabular.transformer.config import TableTransformerConfig
from metalearn_models.tabular.transformer.core import Fitted, answer, read_table, read_view, show_rows
from metalearn_models.tabular.transformer.learner import network
from metalearn_models.tabular.transformer.library import load, save


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


def _table(rows, classes=3, features=4, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % classes
    return rng.standard_normal((rows, features)) + 2.0 * y[:, None], y


def test_the_weights_of_the_package_classify_tables():
    X, y = load_wine(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    X, y = X[order], y[order]
    classifier = InContextClassifier(n_estimators=1).fit(X[:60], y[:60])
    assert classifier.weights == "tables" and classifier.score(X[60:], y[60:]) > 0.93
    assert -np.log(classifier.predict_proba(X[60:])[np.arange(118), y[60:]]).mean() < 0.2


def _record(monkeypatch):
    """The tables that are read from now on, with the options of reading."""
    seen: list[Any] = []

    def read(trained, X, y, **options):
        seen.append((X, options))
        return read_table(trained, X, y, **options)

    monkeypatch.setattr(cells, "read_table", read)
    return seen


def test_the_prediction_is_the_mean_over_views_and_each_row_by_itself(weights):
    X, y = _table(60)
    classifier = InContextClassifier(weights, n_estimators=2).fit(X[:40], y[:40])
    assert classifier.calibration_ is None and classifier.n_views_ == 2 and classifier.card_["note"] == "never trained"
    rng = np.random.default_rng(np.random.RandomState(0).randint(2**31 - 1))
    fitted = read_table(load(weights), X[:40], y[:40], categorical=np.zeros(4, bool), views=2, rng=rng)
    expected = np.exp(answer(fitted, X[40:])).mean(0)
    found = classifier.predict_proba(X[40:])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.ptp(found) > 0.01
    np.testing.assert_allclose(classifier.predict_proba(X[40:][::-1])[::-1], found, atol=1e-7)
    np.testing.assert_allclose(classifier.predict_proba(X[50:51])[0], found[10], atol=1e-7)
    copy = pickle.loads(pickle.dumps(classifier))
    assert not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(vars(copy)))
    np.testing.assert_array_equal(copy.predict_proba(X[40:]), found)


def test_categories_and_missing_values_reach_the_learner_as_such(weights, monkeypatch):
    seen = _record(monkeypatch)
    X, y = _table(40)
    X[:, 1] = np.arange(40) % 5
    X[3, 0] = np.nan
    told = InContextClassifier(weights, n_estimators=1, categorical_features=[1]).fit(X, y)
    ((shown, options),) = seen
    assert options["categorical"].tolist() == [False, True, False, False] and np.isnan(shown[3, 0])
    plain = InContextClassifier(weights, n_estimators=1).fit(X, y)
    assert np.abs(told.predict_proba(X) - plain.predict_proba(X)).max() > 1e-4
    X[:, 1] = 99.0  # a category that fit did not meet is missing
    unknown = told.predict_proba(X)
    X[:, 1] = np.nan
    np.testing.assert_array_equal(told.predict_proba(X), unknown)


def test_rows_that_calibrate_are_left_out_of_what_predicts_them(weights, monkeypatch):
    """Random labels: whoever looked a row's own label up would be sure of it."""
    contexts = _record(monkeypatch)
    X, y = _table(LEAST_ROWS, 2)
    y = np.random.default_rng(1).integers(0, 2, len(y))
    y[0] = 2  # alone in its class, so it is in every context
    classifier = InContextClassifier(weights, n_estimators=2).fit(X, y)
    assert classifier.calibration_ is not None and len(contexts) == 5 and len(contexts[0][0]) == LEAST_ROWS
    left_out = [np.array([not (rest == row).all(1).any() for row in X]) for rest, _ in contexts[1:]]
    assert np.sum(left_out, axis=0).tolist() == [0] + [1] * (LEAST_ROWS - 1)
    mean = classifier.predict_proba(X).mean(0)
    np.testing.assert_allclose(mean, np.bincount(y) / len(y), atol=0.05)


def test_the_variance_is_read_from_answers_after_a_part_of_the_rows(weights):
    X, y = _table(20)
    classifier = InContextClassifier(weights, n_estimators=2).fit(X[:14], y[:14])
    found = classifier.predict_variance(X[14:])
    views = classifier._reader._fitted.views
    assert len(views) == 2 and _counts(14, 3).tolist() == list(range(7, 15)) and len(_counts(1000, 3)) == STEPS + 1
    each = []
    for number, view in enumerate(views):
        rows, path = _order(y[:14], np.random.default_rng(number)), []
        assert sorted(rows) == list(range(14)) and set(y[rows[:3]]) == {0, 1, 2}
        for count in range(7, 15):  # a table of these rows alone, shown as the view shows it
            memory = read_view(load(weights), show_rows(view, X[rows[:count]], y[rows[:count]]))
            fitted = Fitted(load(weights), (view,), (memory,), np.zeros((1, 14), bool), 3)
            path.append(np.exp(answer(fitted, X[14:])[0]))
        moved = [(path[i] - path[i - 1]) ** 2 * k * (k - 1) for i, k in enumerate(range(8, 15), 1)]
        each.append(np.mean(moved, 0) / 14)
    np.testing.assert_allclose(found, np.mean(each, 0), rtol=1e-3, atol=1e-9)
    assert found.shape == (6, 3) and (found > 0).all()
    with pytest.raises(ValueError, match="a view has 3 rows, and each of 3 classes needs one"):
        InContextClassifier(weights, n_estimators=1).fit(X[:3], y[:3]).predict_variance(X)


def test_unknown_weights_name_both_libraries(weights):
    X, y = _table(20)
    with pytest.raises(UnknownNameError, match="digits-synthetic-16x10"):
        InContextClassifier("digits-synthetic-16x1").fit(X, y)
    with pytest.raises(UnknownNameError, match="unknown weights ''"):  # and not the present folder
        load("")
    with pytest.raises(FileNotFoundError):
        InContextClassifier(weights + "x.safetensors").fit(X, y)


@pytest.fixture
def _untrained(weights, monkeypatch):
    """The checks below are made before there are weights, so they know them by a name."""
    trained = load(weights)
    monkeypatch.setattr(classifier_module, "load_learner", lambda name: trained)


@parametrize_with_checks(
    [InContextClassifier("untrained", n_estimators=1)],
    expected_failed_checks=lambda estimator: {"check_classifiers_train": "it was never trained, and decides badly"},
)
@pytest.mark.unchecked_types
@pytest.mark.usefixtures("_untrained")
def test_scikit_learns_own_checks_pass(estimator, check):
    check(estimator)


def test_a_larger_table_is_calibrated_by_views_that_do_not_hold_the_row(weights, monkeypatch):
    seen, asked, counted = _record(monkeypatch), [], []
    mean = cells._mean
    monkeypatch.setattr(cells, "answer", lambda fitted, *rest: asked.append(rest) or answer(fitted, *rest))
    monkeypatch.setattr(cells, "_mean", lambda *arguments: counted.append(arguments[1:]) or mean(*arguments))
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((1100, 3)), rng.integers(0, 2, 1100)
    classifier = InContextClassifier(weights, n_estimators=2).fit(X, y)
    assert len(seen) == 1 and classifier.calibration_ is not None  # nothing was read again
    shown = classifier._reader._fitted.shown
    rows = [int(np.flatnonzero((X == row).all(1))[0]) for row in asked[0][0]]
    assert len(set(rows)) > 100 and shown[:, rows].any() and not shown[:, rows].all(0).any()
    np.testing.assert_array_equal(counted[0][0], ~shown[:, rows])
    np.testing.assert_array_equal(asked[0][1], ~shown[:, rows])  # and no view answered for what it holds


@pytest.mark.parametrize("context", [32, 128])  # a view has a part of the rows; all of them, so that folds are read
def test_kinds_of_views_of_wide_tables_are_pooled_by_rows_that_they_did_not_hold(weights, monkeypatch, context):
    found: list[Any] = []

    def read(trained, X, y, **options):
        found.append((y, options["views"], read_table(trained, X, y, rows=context, **options)))
        return found[-1][-1]

    def fit(log_probs, y):
        fitted_on.append((log_probs, y))
        return fit_calibration(log_probs, y)

    fitted_on: list[Any] = []
    monkeypatch.setattr(cells, "read_table", read)
    monkeypatch.setattr(cells, "fit_calibration", fit)
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((120, 66)), np.arange(120) % 2
    X[:, 5] += 3.0 * y
    classifier = InContextClassifier(weights, n_estimators=4).fit(X, y)
    fitted, queries = found[0][-1], rng.standard_normal((3, 66))
    (held_out, truth), calibration = fitted_on[0], classifier.calibration_
    assert calibration is not None and calibration.weights.shape == (3,) and held_out.shape == (3, len(truth), 2)
    assert [(len(y), views) for y, views, _ in found[1:]] == ([] if context == 32 else [(90, 3)] * 4)
    assert np.isfinite(held_out).all() and (len(truth) == 120 if context == 128 else 30 <= len(truth) < 100)
    each = np.exp(answer(fitted, queries).astype(np.float64))
    kinds = np.stack([each[0], each[1::2].mean(0), each[2]])
    np.testing.assert_allclose(classifier.predict_proba(queries), calibrate(calibration, kinds), atol=1e-6)


def test_views_that_are_not_wanted_do_not_answer(weights):
    X, y = _table(20)
    fitted = read_table(load(weights), X, y, views=2, rng=np.random.default_rng(0))
    wanted = np.array([[True, False, True], [False, False, True]])
    found = answer(fitted, X[:3], wanted)
    assert (found[~wanted] == -np.inf).all()
    np.testing.assert_allclose(found[wanted], answer(fitted, X[:3])[wanted], atol=1e-6)


def test_a_fit_that_is_refused_leaves_nothing_that_answers(weights):
    X, y = _table(12)
    classifier = InContextClassifier(weights, n_estimators=1).fit(X, y)
    classifier.weights = "nope"
    with pytest.raises(UnknownNameError, match="nope"):
        classifier.fit(X, y + 10)
    with pytest.raises(NotFittedError):
        classifier.predict(X)


def test_a_handful_of_rows_that_no_kind_held_does_not_calibrate(weights, monkeypatch):
    monkeypatch.setattr(
        cells, "read_table", lambda trained, X, y, **options: read_table(trained, X, y, rows=64, **options)
    )
    sizes: list[int] = []
    monkeypatch.setattr(cells, "fit_calibration", lambda p, y: sizes.append(len(y)) or fit_calibration(p, y))
    rng = np.random.default_rng(0)
    InContextClassifier(weights, n_estimators=4).fit(rng.standard_normal((120, 66)), np.arange(120) % 2)
    assert sizes == [120]  # some 20 rows are free of every kind, so folds are read


@pytest.mark.parametrize(("width", "unit"), [(66, 1.0), (9, 1.0), (9, 1000.0)])  # wide; in one unit; in several
def test_one_view_is_calibrated_by_readings_of_its_own_kind(weights, monkeypatch, width, unit):
    read: list[Fitted] = []
    monkeypatch.setattr(cells, "read_table", lambda *a, **options: read.append(read_table(*a, **options)) or read[-1])
    X, y = _table(LEAST_ROWS, 2, width)
    X[:, 0] *= unit
    X[:, 1] *= unit**2
    InContextClassifier(weights, n_estimators=1).fit(X, y)
    kinds = [(view.kind, view.axes is None) for fitted in read for view in fitted.views]
    assert kinds == [(0, True)] * 5
