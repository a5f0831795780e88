import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

import metalearn_models
from metalearn.errors import RunError
from metalearn.learner import Signature
from metalearn_models.learners.library import _SHIPPED as SHIPPED
from metalearn_models.learners.library import load, save
from metalearn_models.learners.lstm import LSTMConfig
from metalearn_models.learners.outer_lstm import OuterLSTMConfig
from metalearn_models.learners.reference.ridge import RidgeConfig
from metalearn_models.learners.registry import build_learner
from metalearn_models.learners.transformer import TransformerConfig
from metalearn_models.learners.vsml import VSMLConfig
from metalearn_models.tabular import sequences
from metalearn_models.tabular._programs import programs
from metalearn_models.tabular.classifier import InContextClassifier
from metalearn_models.tabular.sequences import CHUNK, GROUP
from metalearn_models.tabular.views import draw_views, features_of, fit_features

NAME = "digits-synthetic-16x10"


@pytest.fixture(autouse=True)
def _one_view_of_the_nearest_rows(monkeypatch):
    """Four cost four times as much. `test_large_tables.py` has four."""
    monkeypatch.setattr(sequences, "NEAREST", 1)


def _classifier(**options):
    return InContextClassifier(**{"weights": NAME, "n_estimators": GROUP, **options})


def _split(load, rows=50, seed=0):
    X, y = load(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(X))
    return X[order[:rows]], y[order[:rows]], X[order[rows:]], y[order[rows:]]


def _gaussians(classes, rows, features, spread, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((classes, features))
    y = np.arange(rows) % classes
    return centres[y] + spread * rng.standard_normal((rows, features)), y


# Skipped there, with reasons of scikit-learn's own: pandas and the array API are not installed.
@parametrize_with_checks([InContextClassifier(NAME, n_estimators=GROUP)])
@pytest.mark.unchecked_types
def test_scikit_learns_own_checks_pass(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "config",
    [
        None,
        TransformerConfig(width=16, layers=1, heads=2, key_size=8, window=20),
        LSTMConfig(hidden=8),
        OuterLSTMConfig(hidden=4),
        VSMLConfig(hidden=4),
    ],
    ids=["shipped", "transformer", "lstm", "outer-lstm", "vsml"],
)
def test_a_single_view_predicts_what_the_learner_does_in_one_pass_over_context_and_query(tmp_path, config):
    """With the shipped weights, and with those that a run of any in-context learner leaves in its folder."""
    X, y, X_test, _ = _split(load_wine)
    weights = tmp_path
    if config is None:
        weights = NAME
    else:
        signature = Signature(16, 4, 64)
        theta = jax.jit(build_learner(signature, config).init)(jax.random.key(0))
        save(tmp_path / "theta.safetensors", config, signature, jax.tree.map(lambda a: 2 * a, theta))
    classifier = _classifier(n_estimators=1, weights=weights).fit(X, y)
    learner, theta, signature, _, card = load(weights)
    assert classifier.card_ == card
    features = fit_features(X, signature.inputs)
    rng = np.random.default_rng(np.random.RandomState(0).randint(2**31 - 1))
    views = draw_views(
        features_of(features, X), False, y, (signature.inputs, signature.outputs, signature.length), 1, rng
    )
    assert views.axes is None and classifier.calibration_ is None
    rows, labels = views.rows[0], views.labels[0]
    xs = np.concatenate([features_of(features, X[rows]), features_of(features, X_test[:1])]) @ views.projection[0].T
    ys = np.append(labels[y[rows]], 0)
    assert learner.run is not None
    logits = jax.jit(learner.run)(theta, jnp.asarray(xs, jnp.float32), jnp.asarray(ys, jnp.int32))[-1]
    expected = jax.nn.softmax(logits[labels])
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(classifier.predict_proba(X_test[:1])[0], expected, atol=1e-5)


@pytest.mark.parametrize("rows", [50, 100])
def test_a_rows_prediction_does_not_depend_on_its_batch_to_the_last_bit(rows):
    """In one context, and with nearest rows and calibration, which larger tables get."""
    X, y, X_test, _ = _split(load_digits, rows)
    classifier = _classifier().fit(X, y)
    assert (classifier.calibration_ is None) == (rows == 50)
    X_test = X_test[: CHUNK + 40]  # more than one call of the compiled function
    together = classifier.predict_proba(X_test)
    order = np.random.default_rng(1).permutation(len(X_test))
    np.testing.assert_array_equal(classifier.predict_proba(X_test[order]), together[order])
    for i in (0, CHUNK - 1, CHUNK, CHUNK + 39):
        np.testing.assert_array_equal(classifier.predict_proba(X_test[i : i + 1])[0], together[i])


def test_fit_is_deterministic_under_random_state_and_global_under_none():
    X, y, X_test, _ = _split(load_iris)
    first, again, other = (_classifier(random_state=s).fit(X, y).predict_proba(X_test) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.random.seed(3)  # noqa: NPY002 (None means this generator)
    drawn = _classifier(random_state=None).fit(X, y).predict_proba(X_test)
    np.random.seed(3)  # noqa: NPY002
    np.testing.assert_array_equal(drawn, _classifier(random_state=None).fit(X, y).predict_proba(X_test))


def test_a_pickled_classifier_predicts_the_same_without_its_weights_file(tmp_path):
    X, y, X_test, _ = _split(load_iris)
    path = tmp_path / "mine.safetensors"
    path.write_bytes((SHIPPED / f"{NAME}.safetensors").read_bytes())
    classifier = _classifier(weights=str(path)).fit(X, y)
    expected = classifier.predict_proba(X_test)
    copy = pickle.loads(pickle.dumps(classifier))
    # An array of JAX would start JAX wherever it is unpickled, also in a fork, where that never ends.
    assert not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(vars(copy)))
    path.unlink()
    np.testing.assert_array_equal(copy.predict_proba(X_test), expected)
    unfitted: Any = clone(classifier)
    assert unfitted.get_params() == classifier.get_params()


def test_nothing_is_compiled_again_for_another_table():
    pretrained = load(NAME)
    compiled = programs(pretrained.signature, pretrained.config)
    for classes, rows, features in ((3, 20, 2), (12, 80, 30)):
        X, y = _gaussians(classes, rows, features, 0.5)
        _classifier().fit(X, y).predict(X[: rows // 2])
    programs_: tuple[Any, ...] = tuple(compiled)
    assert [program._cache_size() for program in programs_] == [1, 1, 1]


def test_more_classes_than_the_head_has_are_told_apart():
    X, y = _gaussians(26, 260, 16, 0.7)
    train, test = slice(0, 130), slice(130, 260)
    names = np.array([chr(ord("a") + i) for i in range(26)])
    classifier = _classifier().fit(X[train], names[y[train]])
    probabilities = classifier.predict_proba(X[test])
    assert probabilities.shape == (130, 26)
    np.testing.assert_allclose(probabilities.sum(1), 1.0)
    reference = KNeighborsClassifier(1).fit(X[train], y[train]).score(X[test], y[test])
    assert classifier.score(X[test], names[y[test]]) >= reference - 0.02
    picked = probabilities[np.arange(130), y[test]]
    assert -np.log(picked).mean() < 0.5 * np.log(26)


def test_up_to_sixteen_views_show_all_rows_and_are_stratified():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [500, 300, 10])
    views = draw_views(rng.standard_normal((810, 5)), False, y, (16, 10, 64), 4, rng)
    assert views.rows.shape == (13, 63)  # 13 * 63 is the first multiple above 810
    assert set(views.rows.ravel()) == set(range(810))
    for rows in views.rows:
        assert len(set(rows)) == 63
        assert abs((y[rows] == 1).sum() - 63 * 300 / 810) <= 3
    X, y = _gaussians(3, 400, 5, 0.5)
    classifier = _classifier(n_estimators=1).fit(X[:200], y[:200])
    assert classifier.n_views_ == 4
    assert classifier.score(X[200:], y[200:]) > 0.9
    assert (
        draw_views(rng.standard_normal((5000, 2)), False, np.arange(5000) % 2, (16, 10, 64), 4, rng).rows.shape[0] == 16
    )


def test_any_number_of_features_will_do():
    X, y, X_test, y_test = _split(load_digits, 100)
    assert _classifier().fit(X, y).score(X_test[:300], y_test[:300]) > 0.85  # 64 features, of which some are constant
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    X = (3.0 * y + rng.standard_normal(60))[:, None]
    assert _classifier().fit(X[:40], y[:40]).score(X[40:], y[40:]) > 0.8
    padded = np.hstack([X, rng.standard_normal((60, 1000)) * 1e-3, np.full((60, 3), 7.0)])
    assert np.isfinite(_classifier().fit(padded, y).predict_proba(padded)).all()


def test_units_of_the_features_do_not_matter():
    X, y, X_test, _ = _split(load_wine)
    expected = _classifier().fit(X, y).predict_proba(X_test)
    units = 2.0 ** np.arange(-6, X.shape[1] - 6)  # exact in binary
    np.testing.assert_array_equal(_classifier().fit(X * units, y).predict_proba(X_test * units), expected)
    huge = _classifier().fit(X * 1e290, y).predict_proba(X_test * 1e290)
    np.testing.assert_allclose(huge, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (np.zeros((3, 2)), np.zeros(2), "inconsistent numbers of samples"),
        (np.zeros(3), np.zeros(3), "Expected 2D array"),
        (np.zeros((0, 2)), np.zeros(0), "0 sample"),
        (np.zeros((3, 0)), np.zeros(3), "0 feature"),
        (np.full((3, 2), np.inf), np.array([0, 1, 1]), "infinity"),
        (np.ones((3, 2)), np.ones(3), r"at least 2 classes.*got 1 class \(1\.0\) in 3 rows"),
        (np.ones((3, 2)), np.ones(3, np.int64), r"got 1 class \(1\) in 3 rows"),
        (np.ones((3, 2)), np.array([0.1, 0.2, 0.3]), "Unknown label type"),
    ],
)
def test_bad_tables_are_refused_with_what_is_wrong(X, y, message):
    with pytest.raises(ValueError, match=message):
        _classifier().fit(X, y)


@pytest.mark.parametrize("count", [0, -1, 2.5, True, "many"])
@pytest.mark.unchecked_types
def test_a_senseless_number_of_views_is_refused(count):
    X, y, _, _ = _split(load_iris)
    with pytest.raises(ValueError, match="n_estimators must be"):
        _classifier(n_estimators=count).fit(X, y)


@pytest.mark.unchecked_types
@pytest.mark.parametrize("weights", [None, 5])
def test_weights_that_are_no_place_say_what_they_may_be(weights):
    X, y, _, _ = _split(load_iris)
    with pytest.raises(ValueError, match=f"weights must be a name .*{NAME}.*, got {weights}"):
        _classifier(weights=weights).fit(X, y)


def test_a_regression_learner_is_refused(tmp_path):
    X, y, _, _ = _split(load_iris)
    config, signature = RidgeConfig(), Signature(5, 1, 32, regression=True)
    save(tmp_path / "theta.safetensors", config, signature, ())
    assert load(tmp_path).signature == signature
    with pytest.raises(RunError, match="a classifier needs classes"):
        _classifier(weights=tmp_path).fit(X, y)


def test_the_package_offers_the_classifier_without_importing_it():
    assert metalearn_models.InContextClassifier is InContextClassifier
    with pytest.raises(AttributeError, match="no attribute 'Classifier'"):
        metalearn_models.Classifier  # noqa: B018
