"""`trusted_losses`: its data, the training of padded networks against one written by hand, its rules, a toy run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.losses.trusted import experiment, report
from experiments.losses.trusted.contest import STRATEGIES, shape_for
from experiments.losses.trusted.data import HELD_OUT, META_TRAINING, NOISES, corrupt, read
from experiments.losses.trusted.training import NOTHING, Job, Shape, curves, pad, train
from metalearn_models.losses import load

STEPS = 12


def test_noise_is_of_its_kind_and_share():
    labels = np.arange(3000, dtype=np.int32) % 5
    wrong = corrupt(labels, 5, "symmetric", 0.3, 0)
    changed = wrong != labels
    assert changed.sum() == 900
    shift = (wrong - labels)[changed] % 5
    assert np.bincount(shift, minlength=5)[1:].min() > 180  # each other class about as often
    wrong = corrupt(labels, 5, "class-dependent", 0.3, 0)
    assert set(((wrong - labels) % 5).tolist()) == {0, 1} and 0.26 < (wrong != labels).mean() < 0.34
    two = corrupt(labels % 2, 2, "class-dependent", 0.3, 0)
    assert (two[labels % 2 == 1] == 1).all() and 0.25 < two[labels % 2 == 0].mean() < 0.35
    assert corrupt(labels, 5, "clean", 0.3, 0) is labels


def test_held_out_data_sets_share_no_example_with_those_of_the_search():
    assert not set(HELD_OUT) & set(META_TRAINING)
    for name in ("rings", "teacher-10", "template-40", "pairs-high"):
        data, other = read(name, 3), read(name, 4)
        assert np.unique(data.train[1]).size == data.classes
        np.testing.assert_allclose(data.train[0].mean(), 0, atol=0.05)
        assert not np.array_equal(data.train[0], other.train[0])
    low, high = (read(name, 0).train[0] for name in ("pairs-low", "pairs-high"))
    assert not (low[:50, None] == high[None, :50]).all(-1).any()


@pytest.mark.parametrize("name", ["gce", "label-smoothing", "bootstrapping", "label-noise"])
def test_tables_of_named_losses_are_their_gradients(name):
    """Of a padded problem: classes that a data set lacks get no gradient."""
    from metalearn_models.losses.search.table import logit_position, look_up

    loss, rng = load(name), np.random.default_rng(0)
    for classes in (3, 20):
        z, labels = (3 * rng.normal(size=(40, classes))).astype(np.float32), rng.integers(classes, size=40)
        with jax.enable_x64(True):
            exact = np.asarray(loss.cotangent(z.astype(np.float64), labels))
        padded = np.pad(z, ((0, 0), (0, 4)), constant_values=NOTHING)
        p, position = logit_position(jnp.asarray(padded))
        hot = jax.nn.one_hot(labels, classes + 4, dtype=jnp.int32)
        h = jnp.where(
            jnp.arange(classes + 4)[None] < classes, look_up(jnp.asarray(curves(loss, classes)), hot, position), 0
        )
        got = np.asarray(h - p * h.sum(-1, keepdims=True))
        factor = np.abs(exact).max() / np.abs(got).max()
        np.testing.assert_allclose(factor * got[:, :classes], exact, atol=2e-3 * np.abs(exact).max())
        assert not got[:, classes:].any()


@pytest.mark.parametrize("deep", [False, True])
def test_a_padded_network_is_the_one_without_padding(deep):
    shape = Shape(9, 6, 8, (120, 60, 200), STEPS, batch=16, at_once=2)
    data, loss, rate, seed = read("wine", 0), load("gce"), 0.02, 5
    data = data._replace(train=(data.train[0][:, :9], data.train[1]), valid=(data.valid[0][:, :9], data.valid[1]))
    data = data._replace(test=(data.test[0][:, :9], data.test[1]))
    jobs = [Job(0, 0, rate, seed), Job(0, 0, rate, seed + 1), Job(0, 0, 1e-9, seed)]
    got = train(pad([(data, data.train[1], deep)], shape), curves(loss, 3)[None], jobs, shape)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), seed), 4)
    sizes = ((9, 8), (8, 8), (8, 6))
    params = [
        (jnp.sqrt(gain / size[0]) * jax.random.normal(key, size), jnp.zeros(size[1]))
        for key, size, gain in zip(keys[:3], sizes, (2, 2, 1), strict=True)
    ]

    def apply(params, x):
        for i in (0, 1) if deep else (0,):
            x = jax.nn.relu(x @ params[i][0] + params[i][1][None])
        return (x @ params[2][0] + params[2][1][None])[:, :3]

    rule = optax.adam(rate)
    state = rule.init(params)

    @jax.jit
    def step(params, state, rows):
        x, y = data.train
        slope = jax.grad(lambda p: loss(apply(p, jnp.asarray(x)[rows]), jnp.asarray(y)[rows]).mean())(params)
        direction, state = rule.update(slope, state)
        return optax.apply_updates(params, direction), state

    with jax.numpy_dtype_promotion("standard"):
        for t in range(STEPS):
            rows = jax.random.randint(jax.random.fold_in(keys[3], t), (16,), 0, len(data.train[1]))
            params, state = step(params, state, rows)
    for part, examples in enumerate((data.valid, data.test)):
        wrong = float((jnp.argmax(apply(params, examples[0]), -1) != examples[1]).mean())
        assert abs(got[0, part] - wrong) < 1.5 / len(examples[1])
    assert got[0, 0] < 0.8 * got[2, 0]  # it has learned


def test_the_verdict_follows_its_rule():
    rows = {label: {"each": [0.1]} for label in report.BASELINES}
    sets = ("a", "b", "c")

    def results(found, clean=0.1):
        noisy = {
            f"{s}, {n}": {**rows, "found": {"each": [f]}} for s, f in zip(sets, found, strict=True) for n in NOISES[:2]
        }
        return noisy | {f"{s}, clean": {**rows, "found": {"each": [clean]}} for s in sets}

    assert report.judge(results((0.05, 0.05, 0.06), 0.1049), {})["noise"] == "holds"
    assert report.judge(results((0.05, 0.05, 0.15)), {})["noise"] == "open"
    verdict = report.judge(results((0.05, 0.2, 0.15), 0.106), {"m, clean": {**rows, "found": {"each": [0.1]}}})
    assert (verdict["noise"], verdict["clean"], verdict["many classes"]) == ("short", "short", "holds")
    found = [{"evolution": "e", "random": "r", "enumeration": "e", "model": m} for m in ("m", "n", "m")]
    scores = {"e": -0.2, "r": -0.1, "m": -0.31, "n": -0.3}
    assert report.judge_contest(scores, found)["verdict"] == "holds"
    assert report.judge_contest({**scores, "m": 0.0, "n": 0.01}, found)["verdict"] == "behind"
    assert report.judge_contest({**scores, "n": 0.2}, found)["verdict"] == "open"


def test_a_toy_run_goes_on_where_it_was(tmp_path, monkeypatch):
    tiny = Shape(64, 10, 4, (512, 256, 700), 4, batch=8, at_once=24)
    for module in (experiment.compare.__globals__, experiment.find_loss.__globals__):
        monkeypatch.setitem(module, "shape_for", lambda classes, steps: tiny)
    config = experiment.TrustedLossesConfig(
        seeds=2, trained=4, population=4, sets=2, choice_splits=1, contest_seeds=1, fresh_seeds=1,
        held_out=("iris", "breast_cancer"), many="", steps=4, out=tmp_path,
    )  # fmt: skip
    result = experiment.run(config)
    text = experiment.format_result(result)
    assert "iris, class-dependent" in text and "verdict: search: " in text
    assert set(result["found"][0]) == set(STRATEGIES)
    assert (tmp_path / "trusted_losses.png").stat().st_size > 10_000
    monkeypatch.setattr(experiment, "find_loss", None)  # the parts that are done are read
    again = experiment.run(config)
    assert again["results"] == result["results"] and again["verdict"] == result["verdict"]
    assert shape_for(100, 4).classes == 100 and shape_for(3, 4).classes == 10
