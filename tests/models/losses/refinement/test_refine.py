from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn.gradients import backprop, full_es
from metalearn.inner import unroll
from metalearn.outer import outer_loop
from metalearn.runs.progress import Quiet
from metalearn_models.losses.formulas import parse
from metalearn_models.losses.parametric import LearnableLoss, free_coefficients
from metalearn_models.losses.refinement.judging import is_better, judge_at_horizon, ratio, split_validation
from metalearn_models.losses.refinement.loop import Judge, joint_loop, loss_loop, task_data, task_loss
from metalearn_models.losses.refinement.refine import RefineConfig, meta_estimator, meta_loop, refine
from metalearn_models.losses.search.population import LossTask
from metalearn_models.losses.symbolic_loss import SymbolicLoss

RATE = 0.1
SQUARES = free_coefficients(SymbolicLoss(parse("square(sub(y, f))"), link="identity"))
CROSS_ENTROPY = free_coefficients(SymbolicLoss(parse("mul(mul(-1, y), log(f))")))


def _linear_task(seed=0, dtype=np.float32):
    """y = x w by a linear model that begins at known weights; targets of training and validation differ."""
    rng = np.random.default_rng(seed)
    w0, w = rng.normal(size=(2, 3))
    train_x, valid_x = rng.normal(size=(2, 6, 3))
    train = (train_x.astype(dtype), (train_x @ w + 1).astype(dtype))
    valid = (valid_x.astype(dtype), (valid_x @ w).astype(dtype))
    task = LossTask(
        "linear", train, valid, "regression", 1, lambda key: jnp.asarray(w0, dtype), lambda p, xs: (xs @ p)[:, None]
    )
    return task, w0


def _numpy_losses(task, w, theta, steps, momentum=0.0):
    """Validation error after each step on (a (b y - c f))^2, a, b, c = theta, all in float64."""
    (train_x, train_y), (valid_x, valid_y) = (
        [np.asarray(a, np.float64) for a in part] for part in (task.train, task.valid)
    )
    a, b, c = theta
    velocity, losses = np.zeros_like(w), []
    for _ in range(steps):
        slope = -2 * a**2 * c * (b * train_y - c * train_x @ w)
        velocity = momentum * velocity + train_x.T @ slope / len(slope)
        w = w - RATE * velocity
        losses.append(np.mean((valid_x @ w - valid_y) ** 2))
    return np.array(losses)


def _gradient(loop, theta, data, batch=1):
    estimator = backprop(loop, batch, remat=True)
    key = jax.random.key(0)
    return estimator.grad(theta, estimator.init(theta, data, key), data, key, jnp.int32(0))


def _slopes(f, theta, h=1e-6):
    return np.array([(f(theta + h * e) - f(theta - h * e)) / (2 * h) for e in np.eye(len(theta))])


@pytest.mark.parametrize("moment", ["every", "last"])
def test_the_meta_gradient_through_three_steps_agrees_with_finite_differences_of_a_numpy_loop(moment):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # losses widen to float32 at least
        task, w0 = _linear_task(dtype=np.float64)
        theta = np.array([0.8, 1.2, 0.9])
        loop = loss_loop(task, SQUARES, optax.sgd(RATE, momentum=0.5), 3, None, Judge(None, moment))
        gradient, _, metrics = _gradient(loop, jnp.asarray(theta), task_data([task])[0])

        def objective(theta):
            losses = _numpy_losses(task, w0, theta, 3, momentum=0.5)
            return losses.mean() if moment == "every" else losses[-1]

        np.testing.assert_allclose(metrics["loss"], objective(theta), rtol=1e-12)
        np.testing.assert_allclose(metrics["error"], objective(theta), rtol=1e-12)
        np.testing.assert_allclose(gradient, _slopes(objective, theta), rtol=1e-7)


def test_one_step_is_the_closed_form():
    """d L(w - r g(theta)) / d theta = -r (d g / d theta)^T grad L."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # losses widen to float32 at least
        task, w0 = _linear_task(dtype=np.float64)
        a, b, c = theta = np.array([0.8, 1.2, 0.9])
        loop = loss_loop(task, SQUARES, optax.sgd(RATE), 1, None, Judge(None))
        gradient, _, _ = _gradient(loop, jnp.asarray(theta), task_data([task])[0])
        (xs, ys), (valid_x, valid_y) = task.train, task.valid
        f = xs @ w0
        dg = -2 / len(ys) * np.stack([xs.T @ (2 * a * c * (b * ys - c * f)), xs.T @ (a**2 * c * ys)])
        dg = np.vstack([dg, -2 / len(ys) * xs.T @ (a**2 * (b * ys - 2 * c * f))])
        w1 = w0 + RATE * 2 * a**2 * c / len(ys) * xs.T @ (b * ys - c * f)
        slope = 2 / len(valid_y) * valid_x.T @ (valid_x @ w1 - valid_y)
        np.testing.assert_allclose(gradient, -RATE * dg @ slope, rtol=1e-10)


def test_the_mean_of_evolution_strategies_is_the_gradient_of_backpropagation():
    task, _ = _linear_task()
    data = task_data([task])[0]
    theta = jnp.array([0.8, 1.2, 0.9])
    loop = loss_loop(task, SQUARES, optax.sgd(RATE), 3, None, Judge(None))
    exact = _gradient(loop, theta, data)[0]
    estimator = full_es(loop, 0.01, 16)  # few enough that the mean is not right by chance of a single large batch

    @jax.jit
    def one(key):
        return estimator.grad(theta, estimator.init(theta, data, key), data, key, jnp.int32(0))[0]

    estimates = np.asarray(jax.lax.map(one, jax.random.split(jax.random.key(0), 400)), np.float64)
    error = estimates.std(0) / 20
    assert (error < 0.1 * np.abs(exact).max()).all()
    assert (np.abs(estimates.mean(0) - exact) < 4 * error + 1e-3 * np.abs(exact)).all()


def test_meta_gradients_of_tasks_are_added_up():
    first, second = _linear_task(0)[0], _linear_task(1)[0]
    theta = jnp.array([0.8, 1.2, 0.9])
    loops = [loss_loop(task, SQUARES, optax.sgd(RATE), 2, None, Judge(None)) for task in (first, second)]
    data = task_data([first, second])
    parts = [_gradient(loop, theta, own) for loop, own in zip(loops, data, strict=True)]
    gradient, _, metrics = _gradient(joint_loop(loops), theta, data)
    np.testing.assert_allclose(gradient, parts[0][0] + parts[1][0], rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], parts[0][2]["loss"] + parts[1][2]["loss"], rtol=1e-6)


def _three_classes(noise=0.0):
    rng = np.random.default_rng(0)
    centres = 2 * rng.normal(size=(3, 4))
    ys = rng.integers(3, size=300)
    xs = (centres[ys] + rng.normal(size=(300, 4))).astype(np.float32)
    given = np.where(rng.random(300) < noise, rng.integers(3, size=300), ys).astype(np.int32)
    init = lambda key: 0.1 * jax.random.normal(key, (4, 3))  # noqa: E731
    parts = ((xs[:200], given[:200]), (xs[200:], ys[200:].astype(np.int32)))
    return LossTask("classes", *parts, "classification", 3, init, lambda p, x: x @ p)


def test_the_judgement_is_the_error_of_a_training_done_one_step_after_the_other():
    task = _three_classes(noise=0.4)
    config = RefineConfig(horizon=15, judge_learning_rates=(1e-3, 0.1), judge_seeds=3, batch=20)
    theta, key = CROSS_ENTROPY.init(jax.random.key(0)), jax.random.key(5)
    got = judge_at_horizon(CROSS_ENTROPY, [task], config)(theta, task_data([task]), key)
    (xs, ys), (valid_x, valid_y) = task.train, task.valid
    gradient = jax.jit(jax.grad(lambda p, x, y: CROSS_ENTROPY.apply(theta, x @ p, y).mean()))
    errors = np.zeros((2, 3))
    with jax.numpy_dtype_promotion("standard"):
        for i, rate in enumerate(config.judge_learning_rates):
            for s, own in enumerate(jax.random.split(jax.random.fold_in(key, 0), 3)):
                tx = optax.adam(rate)
                update = jax.jit(tx.update)
                params = task.init(jax.random.fold_in(own, 0))
                memory = tx.init(params)
                for t in range(15):
                    key_train, _ = jax.random.split(jax.random.fold_in(own, t + 1))
                    rows = np.asarray(jax.random.randint(key_train, (20,), 0, 200))
                    updates, memory = update(gradient(params, xs[rows], ys[rows]), memory)
                    params = params + updates
                errors[i, s] = (np.argmax(valid_x @ np.asarray(params), 1) != valid_y).mean()
    assert errors[1].mean() < errors[0].mean()  # so the better of the two step sizes is not the first by accident
    np.testing.assert_allclose(got, errors[1:], atol=1e-6)


def test_a_training_that_diverges_is_judged_infinitely_bad():
    exploding = LearnableLoss(
        lambda key: jnp.ones(()), lambda theta, z, y: jnp.exp(theta * jnp.square(z * 1e3).sum(-1))
    )
    task = _three_classes()
    config = RefineConfig(horizon=3, judge_learning_rates=(0.1,), judge_seeds=2)
    scores = judge_at_horizon(exploding, [task], config)(jnp.ones(()), task_data([task]), jax.random.key(0))
    assert np.isinf(scores).all() and scores.shape == (1, 2)


def _with_outliers(seed=0):
    """Targets around 2, a fifth of those to train on too high by 4."""
    rng = np.random.default_rng(seed)
    xs = rng.normal(size=(400, 3)).astype(np.float32)
    ys = (2 + xs @ np.array([0.5, -0.3, 0.2])).astype(np.float32)
    given = np.where(rng.random(400) < 0.2, ys + 4, ys).astype(np.float32)
    parts = ((xs[:300], given[:300]), (xs[300:], ys[300:]))
    init = lambda key: (0.1 * jax.random.normal(key, (3, 1)), jnp.zeros(1))  # noqa: E731
    return LossTask("outliers", *parts, "regression", 1, init, lambda p, x: x @ p[0] + p[1][None])


SHORT = RefineConfig(
    inner_steps=20,
    meta_steps=60,
    learning_rate=0.02,
    inner_learning_rate=0.05,
    candidates=3,
    horizon=150,
    judge_seeds=4,
    judge_learning_rates=(0.03,),
    batch=64,
)


def test_refined_squares_train_better_under_outliers_at_the_true_horizon():
    task = _with_outliers()
    result = refine(SQUARES, jnp.ones(3), [task], SHORT)
    assert result.accepted and result.score_after < 0.7 * result.score_before
    # judged here once more, by networks of its own
    judge = judge_at_horizon(SQUARES, [task], SHORT)
    before, after = (judge(t, task_data([task]), jax.random.key(99)).mean() for t in (jnp.ones(3), result.theta))
    assert after < 0.7 * before
    assert result.theta[1] < result.theta[2]  # what helps: predictions smaller than the targets


def test_the_best_candidate_is_kept_and_not_the_last():
    """A learning rate too great by far runs past the optimum."""
    config = replace(SHORT, learning_rate=0.1, candidates=6)
    task = _with_outliers()
    result = refine(SQUARES, jnp.ones(3), [task], config)
    scores = [candidate.scores[0] for candidate in result.history]
    assert [candidate.step for candidate in result.history] == [0, 10, 20, 30, 40, 50, 60]
    assert 0 < int(np.argmin(scores)) < 6 and result.accepted
    judge = judge_at_horizon(SQUARES, [task], config)
    _, key, _, key_split = jax.random.split(jax.random.key(config.seed), 4)
    _, unseen = split_validation(task_data([task]), config.judge_share, key_split)
    np.testing.assert_allclose(judge(result.theta, unseen, key).mean(), min(scores), rtol=1e-5)
    np.testing.assert_allclose([c.ratio for c in result.history], np.array(scores) / scores[0], rtol=1e-6)


def test_what_is_no_better_is_not_accepted():
    config = replace(SHORT, learning_rate=50.0, candidates=1, meta_steps=1)
    task = _with_outliers()
    given = jnp.array([1.0, 0.75, 1.0])  # about the best there is
    result = refine(SQUARES, given, [task], config)
    assert not result.accepted and result.history[1].ratio > 1
    np.testing.assert_array_equal(result.theta, given)
    assert result.score_before == result.score_after


@pytest.mark.parametrize("bad", ["some", "all"])
def test_meta_gradients_that_are_not_finite_are_skipped(bad):
    """No slope with respect to theta, on batches whose first target is an outlier or on all."""

    def apply(theta, outputs, targets):
        under_root = jnp.where((targets[0] > 5) | (bad == "all"), 0.0, 1.0)
        factor = jnp.sqrt(under_root + 0 * theta[0])  # the slope of the root at 0, times 0, is NaN
        return SQUARES.apply(theta, outputs, targets) * (1 + factor)

    notes = []
    progress = Quiet()
    progress.note = lambda text: notes.append(text)
    config = replace(SHORT, inner_steps=2, meta_steps=20, candidates=2, horizon=20, judge_seeds=2)
    result = refine(LearnableLoss(SQUARES.init, apply), jnp.ones(3), [_with_outliers()], config, progress)
    assert np.isfinite(result.theta).all() and "were not finite: skipped" in notes[0]
    if bad == "all":
        assert not result.accepted and len(result.history) == 2 and notes[0].startswith("10 of 10")
        np.testing.assert_array_equal(result.theta, np.ones(3))
    else:
        assert len(result.history) == 3 and np.isfinite(result.history[2].ratio) and len(notes) == 2


def test_refinement_is_a_function_of_its_seed():
    task = _with_outliers()
    config = replace(SHORT, meta_steps=4, candidates=2, horizon=10)
    first, second = (refine(SQUARES, jnp.ones(3), [task], config) for _ in range(2))
    np.testing.assert_array_equal(first.theta, second.theta)
    assert first.history[1:] == second.history[1:]


@pytest.mark.parametrize("estimator", ["es", "nres", "pes"])
def test_every_estimator_lowers_the_meta_loss(estimator):
    data = task_data([_with_outliers()])
    config = replace(SHORT, estimator=estimator, trajectories=4, sigma=0.05)
    loop = meta_loop(SQUARES, [_with_outliers()], config)
    init, step = outer_loop(meta_estimator(loop, config), optax.adam(0.03), 30)
    after, _ = step(init(jnp.ones(3), data, jax.random.key(0)), data)
    keys = jax.random.split(jax.random.key(7), 8)
    before, after = (unroll(loop, t, data, keys, 20)[0].mean() for t in (jnp.ones(3), after.theta))
    assert after < 0.9 * before


def test_task_loss_is_cross_entropy_or_squared_error_whatever_the_labels_shape():
    outputs = jnp.array([[0.0, 1.0], [2.0, 0.0]])
    expected = (np.log(1 + np.e) + np.log(1 + np.exp(-2.0))) / 2
    np.testing.assert_allclose(task_loss(outputs, jnp.array([0, 0]), "classification"), expected, rtol=1e-6)
    for labels in (jnp.array([1.0, 4.0]), jnp.array([[1.0], [4.0]])):
        np.testing.assert_allclose(task_loss(jnp.array([[0.0], [2.0]]), labels, "regression"), 2.5)


def test_meta_gradients_and_judgements_have_no_validation_example_in_common():
    task, other = _with_outliers(), _linear_task()[0]
    first, second = split_validation(task_data([task, other]), 0.25, jax.random.key(0))
    for part, judged, whole in zip(first, second, (task, other), strict=True):
        np.testing.assert_array_equal(part[0][0], whole.train[0])
        np.testing.assert_array_equal(judged[0][1], whole.train[1])
        assert len(judged[1][1]) == round(0.25 * len(whole.valid[1]))
        together = {
            (*x, y)
            for xs, ys in (part[1], judged[1])
            for x, y in zip(np.asarray(xs).tolist(), ys.tolist(), strict=True)
        }
        assert together == {(*x, y) for x, y in zip(whole.valid[0].tolist(), whole.valid[1].tolist(), strict=True)}
    with pytest.raises(ValueError, match=r"task 0 has 6 validation examples, too few to keep a share of 0.01"):
        split_validation(task_data([other]), 0.01, jax.random.key(0))


def test_a_task_of_much_noise_does_not_outvote_one_of_little():
    """The sum of the errors falls, one task's error doubles: not better."""
    base, after = np.full((2, 4), 1.0), np.full((2, 4), 0.8)
    base[1], after[1] = 0.01, 0.02
    assert after.sum() < base.sum()
    assert ratio(after, base).mean() == pytest.approx((0.8 + 2.0) / 2)
    assert not is_better(after, base, 0.0) and is_better(base, after, 0.0)


def test_better_is_more_than_the_margin_of_paired_standard_errors():
    before = np.array([[1.0, 2.0, 3.0, 4.0]])  # mean 2.5
    after = before - np.array([[0.5, 0.1, 0.5, -0.1]])  # mean difference 0.25, standard error 0.15
    assert is_better(after, before, 1.6) and not is_better(after, before, 1.7)
    assert is_better(after, np.array([[np.inf, 1.0, 1.0, 1.0]]), 1.0)
    assert not is_better(np.array([[np.inf, 0.1, 0.1, 0.1]]), before, 1.0)


@pytest.mark.unchecked_types
def test_what_cannot_be_refined_is_refused():
    task = _with_outliers()
    with pytest.raises(ValueError, match=r"candidates must divide meta_steps evenly, got 3 for 10"):
        refine(SQUARES, jnp.ones(3), [task], RefineConfig(meta_steps=10, candidates=3))
    with pytest.raises(ValueError, match=r"at least one task, got none"):
        refine(SQUARES, jnp.ones(3), [])
    with pytest.raises(ValueError, match=r"unknown estimator 'backprob'.*'backprop'"):
        refine(SQUARES, jnp.ones(3), [task], RefineConfig(estimator="backprob"))
    with pytest.raises(ValueError, match=r"unknown kind of task 'regresion'.*'regression'"):
        loss_loop(task._replace(kind="regresion"), SQUARES, optax.sgd(0.1), 1)
    with pytest.raises(ValueError, match=r"steps must be at least 1, got 0"):
        loss_loop(task, SQUARES, optax.sgd(0.1), 0)
    with pytest.raises(ValueError, match=r"joint loops must have equal lengths, got \[2, 3\]"):
        joint_loop([loss_loop(task, SQUARES, optax.sgd(0.1), k) for k in (2, 3)])
