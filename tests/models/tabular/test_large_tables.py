"""Tables with more rows than a context holds: contexts of nearest rows, calibration, wide tables, and forks."""

import os
import select
import signal
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import eigh
from scipy.special import log_softmax, softmax
from sklearn.datasets import load_iris, make_classification, make_gaussian_quantiles
from threadpoolctl import threadpool_info, threadpool_limits

from metalearn_models.learners.library import load
from metalearn_models.tabular import views
from metalearn_models.tabular.calibration import FLOOR, calibrate, fit_calibration
from metalearn_models.tabular.classifier import InContextClassifier
from metalearn_models.tabular.nearest import nearest_rows, show
from metalearn_models.tabular.sequences import GROUP, NEAREST
from metalearn_models.tabular.views import EXACT, PLACES, draw_views, features_of, leading_axes, reduce

NAME = "digits-synthetic-16x10"


def _classifier():
    return InContextClassifier(NAME, n_estimators=GROUP)


def _widths(rows, widths, shares, seed=0):
    """Gaussian classes around one point, which differ in their width alone."""
    rng = np.random.default_rng(seed)
    y = rng.choice(len(widths), rows, p=shares)
    return rng.standard_normal((rows, 6)) * np.asarray(widths)[y][:, None], y


@pytest.mark.parametrize(
    ("widths", "shares", "least"),
    [((1, 3), (0.5, 0.5), 0.93), ((3, 1), (0.8, 0.2), 0.93), ((1, 3, 9), (0.4, 0.3, 0.3), 0.9)],
)
def test_classes_that_differ_in_width_are_decided_where_they_are_equally_probable(widths, shares, least):
    X, y = _widths(800, widths, shares)
    classifier = _classifier().fit(X[:600], y[:600])
    predicted = classifier.predict(X[600:])
    assert (predicted == y[600:]).mean() >= least
    assert abs((predicted == 0).mean() - (y[600:] == 0).mean()) < 0.06


def test_more_rows_help():
    """Three shells around a point: a context of 63 rows cannot show where each ends."""
    X, y = make_gaussian_quantiles(n_samples=2120, n_features=5, n_classes=3, random_state=0)
    few, many = (_classifier().fit(X[:rows], y[:rows]).score(X[2000:], y[2000:]) for rows in (200, 2000))
    assert few > 0.6 and many > few + 0.1


def test_what_tells_classes_apart_may_be_beyond_the_leading_components():
    """12 of 40 features say something, and 16 principal components have little of it."""
    X, y = make_classification(
        1700, n_features=40, n_informative=12, n_classes=8, n_clusters_per_class=1, random_state=1
    )
    classifier = _classifier().fit(X[:1500], y[:1500])
    assert classifier._reader._table.places.shape == (1500, 40)
    leading, beyond = (np.abs(classifier._reader._table.projection[:, :, part]).max((1, 2)) for part in np.s_[:16, 16:])
    assert (leading > 0).all()
    np.testing.assert_array_equal(beyond > 0, [False, True, False, True])
    np.testing.assert_array_equal(
        classifier._reader._groups[0].projection[:, :, 16:], 0
    )  # views have the leading ones alone
    assert classifier.score(X[1500:], y[1500:]) > 0.57  # .50 with the leading 16 alone


def test_rows_that_calibrate_are_not_in_the_contexts_that_predict_them():
    """Of random labels nothing can be learned: whoever looked a row's own label up would be sure of the others'."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((400, 3)), rng.integers(0, 2, 400)
    classifier = _classifier().fit(X[:200], y[:200])
    picked = classifier.predict_proba(X[200:])[np.arange(200), y[200:]]
    assert -np.log(picked).mean() < np.log(2) + 0.02


def test_the_nearest_rows_are_asked_as_the_learner_would_be_in_one_pass():
    X, y = load_iris(return_X_y=True)
    classifier = _classifier().fit(X[::2], y[::2])
    learner, theta, _, _, _ = load(classifier.weights)
    table, query = classifier._reader._table, features_of(classifier._reader._features, X[1:2])
    distances = np.square(table.z[:, :4] - query[:, :4]).sum(1)  # the other four features are squares
    rows = np.argsort(-distances, kind="stable")[-63:]
    found = nearest_rows(table.places, table.squares, query[0, :4], 63, -1)
    np.testing.assert_allclose(distances[found], distances[rows], atol=1e-9)
    assert rows[-1] not in nearest_rows(table.places, table.squares, query[0, :4], 63, int(rows[-1]))
    expected = []
    for projection, labels in zip(table.projection, table.labels, strict=True):
        xs = np.concatenate([table.z[found], query]) @ projection.T
        xs = (xs - xs[:-1].mean(0)) / xs[:-1].std(axis=(0, 1))
        ys = np.append(labels[table.classes[found]], 0)
        logits = learner.run(theta, jnp.asarray(xs, jnp.float32), jnp.asarray(ys, jnp.int32))[-1]
        expected.append(jax.nn.softmax(logits[labels]))
    assert len(expected) == NEAREST
    _, by_nearest = classifier._reader._predict_reduced(query)
    np.testing.assert_allclose(by_nearest[0], np.mean(expected, axis=0), atol=1e-5)


def test_equal_rows_are_shown_without_dividing_by_their_deviation():
    xs = show(np.eye(3)[None], np.full((5, 3), 0.1), np.full(3, 1e300))
    assert np.isfinite(xs).all() and np.abs(xs[:, :-1]).max() < 1e-9 and xs[:, -1].max() == 10


def test_calibration_is_the_most_probable_under_its_prior():
    """No small change of weights or biases is better, by the formula of the docstring written out here."""
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 3, 60), rng.dirichlet(np.ones(3), (2, 60))

    def loss(weights, bias):
        logs = log_softmax(np.tensordot(weights, np.log(np.maximum(p, FLOOR)), 1) + bias, axis=1)
        prior = 4 * np.square(np.asarray(weights) - 0.5).sum() + 10 * np.square(bias).sum()
        return prior / 2 - logs[np.arange(60), y].sum()

    found = fit_calibration(p, y)
    best = loss(*found)
    inside = found.weights > 0
    for step in (1e-2, -1e-2):
        for i in np.flatnonzero(inside):
            assert loss(found.weights + step * np.eye(2)[i], found.bias) > best
        for k in range(3):
            assert loss(found.weights, found.bias + step * np.eye(3)[k]) > best


def test_a_source_that_is_twice_too_sure_is_halved_and_one_that_knows_nothing_is_dropped():
    rng = np.random.default_rng(0)
    logits = 1.5 * rng.standard_normal((4000, 3))
    y = np.array([rng.choice(3, p=p) for p in softmax(logits, axis=1)])
    sure, noise = softmax(2 * logits, axis=1), rng.dirichlet(np.ones(3), 4000)
    found = fit_calibration(np.stack([sure, noise]), y)
    np.testing.assert_allclose(found.weights, [0.5, 0.0], atol=0.05)
    assert np.abs(found.bias).max() < 0.1
    few = fit_calibration(np.stack([sure, noise])[:, :1], y[:1])
    np.testing.assert_allclose(few.weights, 0.5, atol=0.2)  # one row hardly moves them
    rows = calibrate(found, np.stack([sure, noise])[:, :5])
    np.testing.assert_allclose(rows.sum(1), 1.0)
    np.testing.assert_array_equal(calibrate(found, np.stack([sure, noise])[:, 3:4])[0], rows[3])


@pytest.mark.parametrize("shape", [(EXACT + 20, EXACT + 90), (EXACT + 90, EXACT + 20)])
@pytest.mark.parametrize("rank", [5, EXACT])
def test_leading_axes_of_large_tables_are_singular_vectors_as_many_as_there_are(shape, rank):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((shape[0], rank)) @ (1e3 * rng.standard_normal((rank, shape[1])))
    found, exact = leading_axes(x, 8), np.linalg.svd(x, full_matrices=False)[2]
    kept = min(8, rank)
    assert len(found) == (8 if shape[0] > shape[1] else kept)
    np.testing.assert_allclose(np.abs(np.sum(found[:kept] * exact[:kept], 1)), 1, atol=1e-9)
    np.testing.assert_allclose(found @ found.T, np.eye(len(found)), atol=1e-9)
    assert np.isfinite(leading_axes(np.zeros(shape), 8)).all()


def test_leading_axes_of_large_tables_are_found_by_one_thread(monkeypatch):
    """More than one wait for each other, and spin beside other programs."""
    seen: list[int] = []

    def found(*args, **options):
        seen.extend(entry["num_threads"] for entry in threadpool_info() if entry["user_api"] == "blas")
        return eigh(*args, **options)

    monkeypatch.setattr(views, "eigh", found)
    with threadpool_limits(2, "blas"):
        leading_axes(np.random.default_rng(0).standard_normal((EXACT + 2, EXACT + 1)), 8)
        after = [entry["num_threads"] for entry in threadpool_info() if entry["user_api"] == "blas"]
    assert set(seen) == {1} and set(after) == {2}


def test_many_features_are_reduced_to_their_leading_components():
    rng = np.random.default_rng(0)
    rows, features = EXACT + 40, EXACT + 60
    x = rng.standard_normal((rows, 80)) @ rng.standard_normal((80, features))
    x += 0.5 * rng.standard_normal((rows, features))
    y = np.arange(rows) % 2
    first, second = (draw_views(x, False, y, (16, 10, 64), 2, np.random.default_rng(1)) for _ in range(2))
    np.testing.assert_array_equal(first.axes, second.axes)
    np.testing.assert_allclose(first.axes @ first.axes.T, np.eye(PLACES), atol=1e-9)
    exact = np.linalg.svd(x - x.mean(0), compute_uv=False)[:PLACES]
    np.testing.assert_allclose(np.square(reduce(first.axes, x - x.mean(0))).sum(), np.square(exact).sum(), rtol=1e-9)


def test_a_fork_of_a_process_that_has_predicted_says_what_to_use_instead():
    """It would wait forever for threads that a fork does not have."""
    X, y = load_iris(return_X_y=True)
    classifier = _classifier().fit(X[::3], y[::3])
    for ask in (lambda: classifier.predict(X[:2]), lambda: InContextClassifier().fit(X[::5], y[::5])):
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # JAX warns of forks
            child = os.fork()
        if child == 0:
            try:
                ask()
                os.write(writing, b"an answer")
            except BaseException as error:
                os.write(writing, f"{type(error).__name__}: {error}".encode())
            os._exit(0)
        os.close(writing)
        heard, _, _ = select.select([reading], [], [], 20)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        message = os.read(reading, 4096).decode() if heard else "nothing"
        os.close(reading)
        assert message.startswith("RuntimeError") and all(word in message for word in ("spawn", "loky", "threads"))
