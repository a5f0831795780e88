"""The bridge from a learner and a family to an inner loop, and learning curves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn import Family, Learner, Signature, inner_loop
from metalearn.curves import curve_scorer, last_positions, summarise
from metalearn.inner import scan_steps, start, unroll
from metalearn.learner import encode_label, prediction_loss, prediction_score, predictions, predictions_in_order

SIGNATURE = Signature(inputs=2, outputs=3, length=7)


def counting_learner(parallel: bool) -> Learner:
    """Logits are theta times how often each class was seen so far, plus the first input."""

    def predict(theta, state, x):
        return theta * state + x[0]

    def observe(theta, state, x, y):
        del theta, x
        return state + encode_label(y, 3)

    def run(theta, xs, ys):
        seen = jnp.cumsum(encode_label(ys, 3), axis=-2) - encode_label(ys, 3)
        return theta * seen + xs[..., :1]

    return Learner(
        init=lambda key: jax.random.normal(key, ()),
        start=lambda theta, key: jnp.zeros(3),
        predict=predict,
        observe=observe,
        run=run if parallel else None,
        state_size=3,
        signature=SIGNATURE,
    )


def constant_family() -> Family:
    """Every example of task k has class k % 3."""

    def episode(data, task, key):
        return jax.random.normal(key, (7, 2)) + data, jnp.full(7, task, jnp.int32)

    def numbered(data, index):
        del data
        return (jnp.asarray(index) % 3).astype(jnp.int32)

    return Family(SIGNATURE, lambda data, key: jax.random.randint(key, (), 0, 3), numbered, numbered, episode)


def test_the_parallel_unroll_equals_the_loop():
    theta, data = jnp.float32(0.7), jnp.float32(0)
    keys = jax.random.split(jax.random.key(0), 4)
    fast = inner_loop(counting_learner(True), constant_family(), sequences=3)
    slow = inner_loop(counting_learner(False), constant_family(), sequences=3)
    assert fast.run is not None and slow.run is None
    losses, aux = unroll(fast, theta, data, keys, 7)
    losses_slow, aux_slow = unroll(slow, theta, data, keys, 7)
    assert losses.shape == (4, 7)
    np.testing.assert_allclose(losses, losses_slow, rtol=1e-5)
    np.testing.assert_allclose(aux["score"], aux_slow["score"])


def test_step_t_predicts_example_t_before_observing_it():
    loop = inner_loop(counting_learner(False), constant_family())
    theta, key = jnp.float32(2.0), jax.random.key(1)
    state = start(loop, theta, jnp.float32(0), key)
    _, losses, _ = scan_steps(loop, theta, state, jnp.int32(0), 7, key, jnp.float32(0))
    # After t examples of one class: log(exp(2 t) + 2) - 2 t, whatever the common offset.
    t = np.arange(7)
    np.testing.assert_allclose(losses, np.log(np.exp(2.0 * t) + 2) - 2.0 * t, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("parallel", [True, False])
def test_predictions_take_any_leading_axes(parallel):
    learner, key = counting_learner(parallel), jax.random.key(0)
    xs = jax.random.normal(key, (2, 3, 7, 2))
    ys = jax.random.randint(key, (2, 3, 7), 0, 3)
    logits = predictions(learner, jnp.float32(0.5), xs, ys, key)
    one = predictions_in_order(learner, jnp.float32(0.5), xs[1, 2], ys[1, 2], key)
    np.testing.assert_allclose(logits[1, 2], one, rtol=1e-6)


def test_curves_score_every_task_at_every_position():
    score = curve_scorer(counting_learner(True), constant_family(), constant_family().unseen, 20, 2, chunk=8)
    scores = np.asarray(score(jnp.float32(1.0), jnp.float32(0), jax.random.key(0)))
    assert scores.shape == (20, 7)
    np.testing.assert_array_equal(scores[:, 1:], 1.0)
    np.testing.assert_array_equal(scores[:, 0], np.arange(20) % 3 == 0)  # nothing seen: class 0 by argmax


def test_learners_scored_on_one_family_share_the_program_that_draws_its_episodes():
    traced, family = [], constant_family()

    def episode(data, task, key):
        traced.append(1)
        return family.episode(data, task, key)

    counted = family._replace(episode=episode)
    for parallel in (True, False):
        score = curve_scorer(counting_learner(parallel), counted, counted.unseen, 20, 2, chunk=8)
        score(jnp.float32(1.0), jnp.float32(0), jax.random.key(0))
    assert len(traced) == 1


WIDE = SIGNATURE._replace(outputs=5)


def wide_learner(parallel: bool) -> Learner:
    """Counts as the learner above, and would rather answer with one of two names that no class has."""
    narrow = counting_learner(parallel)

    def widen(logits):
        return jnp.concatenate([logits, jnp.full((*logits.shape[:-1], 2), 100.0)], -1)

    return narrow._replace(
        predict=lambda theta, state, x: widen(narrow.predict(theta, state, x)),
        run=(lambda theta, xs, ys: widen(narrow.run(theta, xs, ys))) if parallel else None,
        signature=WIDE,
    )


@pytest.mark.parametrize("parallel", [True, False])
def test_a_name_that_no_class_has_is_no_answer_and_takes_no_probability(parallel):
    """Scores, losses and curves of a learner with five outputs on three classes are those of one with three."""
    theta, data, keys = jnp.float32(0.7), jnp.float32(0), jax.random.split(jax.random.key(0), 4)
    found, wanted = (
        (unroll(inner_loop(of(parallel), constant_family(), 3), theta, data, keys, 7),
         curve_scorer(of(parallel), constant_family(), constant_family().unseen, 6, 2)(theta, data, keys[0]))
        for of in (wide_learner, counting_learner)
    )  # fmt: skip
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, wanted)
    assert np.asarray(found[1])[:, 1:].min() == 1


@pytest.mark.parametrize("parallel", [True, False])
def test_each_task_can_say_which_outputs_are_its_classes(parallel):
    """A task with a single class, in any place among five outputs, leaves nothing to be wrong about."""
    family = constant_family()
    own = family._replace(signature=WIDE, classes=lambda data, task: jnp.arange(5) == task)
    theta, data, keys = jnp.float32(0.7), jnp.float32(0), jax.random.split(jax.random.key(0), 4)
    losses, aux = unroll(inner_loop(wide_learner(parallel), own, 3), theta, data, keys, 7)
    np.testing.assert_allclose(losses, 0.0, atol=1e-6)  # one class: certain
    assert np.all(np.asarray(aux["score"]) == 1)
    assert np.all(np.asarray(curve_scorer(wide_learner(parallel), own, own.unseen, 6, 2)(theta, data, keys[0])) == 1)


def test_intervals_are_over_tasks():
    scores = np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    curve = summarise(scores)
    np.testing.assert_allclose(curve.mean, [0.5, 0.5])
    t = 3.182446305284263  # the .975 quantile of Student's t with 3 degrees of freedom, as printed in tables
    np.testing.assert_allclose(curve.high - curve.mean, t * np.std(scores, axis=0, ddof=1) / 2)
    mean, half = last_positions(scores, 2)
    assert (mean, half) == (0.5, pytest.approx(t * np.std([0.5, 1.0, 0.5, 0.0], ddof=1) / 2))


def test_losses_and_labels_follow_the_kind_of_label():
    logits = jnp.asarray([1.0, 2.0, 3.0])
    np.testing.assert_allclose(prediction_loss(logits, jnp.int32(1)), -jax.nn.log_softmax(logits)[1], rtol=1e-6)
    assert float(prediction_score(logits, jnp.int32(2))) == 1.0
    assert float(prediction_loss(jnp.asarray([3.0]), jnp.float32(1.0))) == 4.0
    np.testing.assert_array_equal(encode_label(jnp.int32(2), 3), [0, 0, 1])
    np.testing.assert_array_equal(encode_label(jnp.asarray([0.5, 2.0]), 1), [[0.5], [2.0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": 2}, "the tasks have 3 classes, the learner has only 2 outputs"),
        ({"inputs": 5}, "the learner was built for"),
        ({"length": 3}, "the learner was built for"),
        ({"regression": True}, "the learner was built for"),
    ],
)
def test_a_learner_that_does_not_fit_the_tasks_is_refused(change, message):
    learner = counting_learner(True)._replace(signature=SIGNATURE._replace(**change))
    with pytest.raises(ValueError, match=message):
        inner_loop(learner, constant_family())
