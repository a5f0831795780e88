"""The experiments with learned losses: their comparison against a plain loop, and toy runs from end to end."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from experiments.losses import label_noise, robust_regression
from experiments.losses._comparison import (
    FRESH,
    HeldOut,
    choose_rate,
    compare,
    format_mean,
    held_out_tasks,
    label_log_axis,
    share_compilations,
    summarise_losses,
    summarise_seeds,
)
from experiments.losses._searching import CHOICE, Found, choose, meta_training_tasks
from metalearn.pictures import new_figure
from metalearn_models.losses import SymbolicLoss, load, parse
from metalearn_models.losses.search.population import LossTask, TrainingConfig
from metalearn_models.networks.mlp import mlp


def test_a_comparison_gives_what_a_loop_over_rates_and_seeds_gives():
    config = TrainingConfig(steps=5, batch=8, learning_rates=(1e-3, 1e-1))
    rows = held_out_tasks("iris", 0.4, (4,), 2)
    loss = load("gce")
    got = compare({"gce": loss}, {"iris": rows}, config)["iris"]["gce"]

    apply = rows[0].task.apply

    @jax.jit
    def step(params, state, rate, x, y):
        grad = jax.grad(lambda p: loss(apply(p, x), y).mean())(params)
        updates, state = optax.adam(rate).update(grad, state, params)
        return optax.apply_updates(params, updates), state

    valid, test = np.zeros((2, 2)), np.zeros((2, 2))
    for seed, held in enumerate(rows):
        key_init, key_batches = jax.random.split(jax.random.fold_in(jax.random.key(FRESH), seed))
        for i, rate in enumerate(config.learning_rates):
            x, y = held.task.train
            params = held.task.init(key_init)
            with jax.numpy_dtype_promotion("standard"):
                state = optax.adam(rate).init(params)
                for t in range(config.steps):
                    chosen = np.asarray(jax.random.randint(jax.random.fold_in(key_batches, t), (8,), 0, len(y)))
                    params, state = step(params, state, rate, x[chosen], y[chosen])
            for into, (xs, ys) in ((valid, held.task.valid), (test, held.test)):
                into[i, seed] = (np.argmax(held.task.apply(params, jnp.asarray(xs)), -1) != ys).mean()
    best = valid.mean(1).argmin()
    assert got.rate == config.learning_rates[best]
    np.testing.assert_allclose(got.test, test[best], atol=1e-6)
    np.testing.assert_allclose(got.valid, valid[best], atol=1e-6)
    few = compare({"gce": loss}, {"iris": rows}, config, at_once=3)["iris"]["gce"]
    np.testing.assert_allclose(few.test, got.test, atol=1e-6)


def test_tasks_of_equal_shapes_and_other_networks_are_not_trained_together():
    def task(outputs):
        network = mlp(3, (), outputs)
        x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
        y = np.arange(20, dtype=np.int32) % outputs
        apply = jax.vmap(network.apply, (None, 0))
        return HeldOut(LossTask("t", (x, y), (x, y), "classification", outputs, network.init, apply), (x, y))

    config = TrainingConfig(steps=1, batch=4, learning_rates=(1e-2,))
    losses = {"ce": load("cross-entropy")}
    together = compare(losses, {"two": [task(2)], "four": [task(4)]}, config)
    for name, outputs in (("two", 2), ("four", 4)):
        alone = compare(losses, {name: [task(outputs)]}, config)
        np.testing.assert_array_equal(together[name]["ce"].test, alone[name]["ce"].test)
    assert together["two"]["ce"].test[0] < 0.9 and together["two"]["ce"].test != together["four"]["ce"].test


@pytest.mark.parametrize(
    ("module", "config"),
    [(robust_regression, robust_regression.RobustRegressionConfig()), (label_noise, label_noise.LabelNoiseConfig())],
)
def test_searching_choosing_and_reporting_see_different_splits(module, config):
    assert config.seeds * sum(config.splits) <= CHOICE and CHOICE + config.choice_splits <= FRESH
    held = [task if isinstance(task, str) else task[0] for task in module.HELD_OUT]
    assert not set(held) & set(module.META_TRAINING)


def test_two_seeds_and_the_finalists_share_no_split():
    names = ("wine", "iris")
    tasks = [meta_training_tasks(names, 0.4, (2,), seed, (2, 1)) for seed in (0, 1)]
    assert [len(part) for part in tasks[0]] == [4, 2]
    noisy = [task.train[1].tobytes() + task.train[0].tobytes() for one in tasks for part in one for task in part]
    assert len(set(noisy)) == 12
    with pytest.raises(ValueError, match=f"search seed 170 with 3 splits reaches split {CHOICE}"):
        meta_training_tasks(names, 0.4, (2,), 170, (2, 1))


def test_the_kept_loss_has_the_least_geometric_mean_of_validation_errors():
    losses = {
        "away": SymbolicLoss(parse("sub(f, y)"), link="identity"),
        "square": SymbolicLoss(parse("square(sub(f, y))"), link="identity"),
    }
    training = TrainingConfig(steps=30, learning_rates=(1e-2,))
    label, means = choose(losses, ("friedman2", "friedman3"), 0.0, (4,), 2, training)
    assert label == "square" and means["square"] < 1 < means["away"]
    rows = {name: held_out_tasks(name, 0.0, (4,), 2, CHOICE) for name in ("friedman2", "friedman3")}
    scores = compare(losses, rows, training)
    product = scores["friedman2"]["square"].valid.mean() * scores["friedman3"]["square"].valid.mean()
    np.testing.assert_allclose(means["square"], product**0.5, rtol=1e-5)


def test_claims_are_ratios_of_the_table():
    row = {"evolved": {"each": [0.1, 0.2]}, "mse": {"mean": 2.0}, "mae": {"mean": 0.4}, "welsch": {"mean": 0.1}}
    got = robust_regression.compare_with_baselines({"t": row})["t"]
    assert got == {"mse_over": [20.0, 10.0], "over_mae": [0.25, 0.5], "over_welsch": [1.0, 2.0]}


def test_learning_rates_are_chosen_by_validation_among_those_allowed():
    valid, test = [[0.1, 0.3], [0.3, 0.3], [0.2, 0.3]], [[0.9, 0.7], [0.1, 0.1], [0.4, 0.2]]
    by_rate = np.array([valid, test])
    rates = (1e-4, 1e-3, 1e-2)
    assert choose_rate(by_rate, rates).rate == 1e-4 and choose_rate(by_rate, rates).test.tolist() == [0.9, 0.7]
    fast = choose_rate(by_rate, rates, 1e-3)
    assert fast.rate == 1e-2 and fast.test.tolist() == [0.4, 0.2] and fast.valid.tolist() == [0.2, 0.3]


def test_label_noise_is_claimed_at_any_rate_and_at_full_speed():
    slow, errors = np.full((2, 6, 1), 0.5), {"CE": (0.2, 0.4), "s": (0.1, 0.1)}
    scores = {}
    for label, (first, third) in errors.items():
        by_rate = slow.copy()
        by_rate[:, 0], by_rate[:, 2] = first, third
        scores[label] = choose_rate(by_rate, label_noise.RATES)
    got = label_noise.compare_with_cross_entropy(scores, ["s"])
    assert got == {"of CE": [0.5], "of CE, rates from 0.001": [0.25], "CE, rates from 0.001": 0.4}


def test_a_mean_is_shown_with_students_interval_and_a_diverged_one_by_its_name():
    scores = choose_rate(np.array([[[0.1, 0.3]], [[0.1, 0.3]]]), (0.1,))
    row = summarise_seeds(scores)
    np.testing.assert_allclose([row["mean"], row["half_width"]], [0.2, 12.7062 * 0.1], rtol=1e-4)  # t of one degree
    assert format_mean(row, 1, 100) == "20.0 ± 127.1"
    assert format_mean(summarise_seeds(choose_rate(np.full((2, 1, 1), 0.25), (0.1,))), 2) == "0.25", "one seed"
    assert format_mean({"mean": None, "half_width": None}, 2) == "diverged"
    assert format_mean({"mean": 0.5, "worst": None}, 1) == "0.5 (nan)"


def test_a_logarithmic_axis_is_labelled_with_plain_numbers():
    for end, labels in ((10, {"1", "2", "5", "10"}), (2, {"0.9", "1", "2"})):  # of all that lie in the picture
        _, (ax,) = new_figure()
        ax.plot([0.9, end], [0, 1])
        ax.set_xscale("log")
        label_log_axis(ax.xaxis)
        low, high = ax.get_xlim()
        texts = [label.get_text() for minor in (True, False) for label in ax.get_xticklabels(minor=minor)]
        assert {text for text in texts if text and low <= float(text) <= high} == labels


def test_a_store_of_programs_that_is_configured_is_left_alone(tmp_path):
    option = "jax_compilation_cache_dir"
    before = getattr(jax.config, option)
    try:
        jax.config.update(option, str(tmp_path))
        with share_compilations():
            assert getattr(jax.config, option) == str(tmp_path)
        jax.config.update(option, None)
        with share_compilations():
            assert getattr(jax.config, option) not in (None, str(tmp_path))
        assert getattr(jax.config, option) is None
    finally:
        jax.config.update(option, before)
        compilation_cache.reset_cache()


def _check_outcome(module, found, folder):
    assert json.loads((folder / "result.json").read_text())["results"] == found["results"]
    assert (folder / "losses.png").stat().st_size > 10_000
    assert str(SymbolicLoss.read(folder / "evolved-0.json")) == found["found"][0]["evolved"]
    assert all(line in module.format_result(found) for line in found["results"])
    chosen = found["chosen"]
    kept = SymbolicLoss.read(folder / "chosen.json")
    assert chosen["seed"] == int(np.argmin(chosen["validation"]))
    assert str(kept) == found["found"][chosen["seed"]]["evolved"]
    assert kept.provenance is not None
    for name, row in found["results"].items():
        errors = kept.provenance["scores"][name]
        np.testing.assert_allclose(errors["this"], row["evolved"]["each"][chosen["seed"]], rtol=1e-2)
        assert len(errors) == 1 + len(module.BASELINES)


def test_label_noise_runs_end_to_end_at_toy_size(tmp_path, monkeypatch):
    monkeypatch.setattr(label_noise, "BASELINES", {"CE": "cross-entropy"})
    monkeypatch.setattr(label_noise, "HELD_OUT", ("iris",))
    monkeypatch.setattr(label_noise, "META_TRAINING", ("wine",))
    config = label_noise.LabelNoiseConfig(
        seeds=1,
        generations=1,
        population=6,
        steps=2,
        fresh_seeds=2,
        splits=(1, 1),
        finalists=2,
        choice_splits=1,
        hidden=(2,),
        out=tmp_path,
    )
    found = label_noise.run(config)
    _check_outcome(label_noise, found, tmp_path)
    assert list(found["results"]) == ["iris, 40% noise", "iris, clean"]


def test_robust_regression_reports_what_its_searches_found(tmp_path, monkeypatch):
    absolute, square = (SymbolicLoss(parse(text), link="identity") for text in ("abs(sub(y, f))", "square(sub(y, f))"))
    seen = []

    def searched(tasks, config, progress):
        seen.append([[task.name for task in part] for part in tasks])
        return Found(absolute, square, 3, 4, (0.1, 0.2), (1.0, 2.0))

    monkeypatch.setattr(robust_regression, "search_with_control", searched)
    monkeypatch.setattr(robust_regression, "BASELINES", ("mse", "mae", "welsch"))
    found = robust_regression.run(
        robust_regression.RobustRegressionConfig(
            seeds=1, steps=3, fresh_seeds=2, splits=(1, 2), choice_splits=1, hidden=(2,), out=tmp_path
        )
    )
    _check_outcome(robust_regression, found, tmp_path)
    assert seen == [[["diabetes", "friedman1"], ["diabetes", "diabetes", "friedman1", "friedman1"]]]
    for row in found["results"].values():  # the same losses under another name train the same networks
        np.testing.assert_allclose(row["evolved"]["each"], [row["mae"]["mean"]], rtol=1e-4)
        np.testing.assert_allclose(row["random"]["each"], [row["mse"]["mean"]], rtol=1e-4)


def test_several_losses_are_merged_by_their_means():
    errors = {"a": [1.0, 3.0], "b": [4.0, 4.0]}
    scores = {label: choose_rate(np.array([[values], [values]]), (0.1,)) for label, values in errors.items()}
    assert summarise_losses(scores, ["a", "b"]) == {"mean": 3.0, "best": 2.0, "worst": 4.0, "each": [2.0, 4.0]}
