"""`metalearn train-optimizer` at toy size: what it leaves, that it resumes to the same bytes, what it refuses."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn.cli.main import main
from metalearn.errors import RunError
from metalearn.recipes.gradient import GradientConfig
from metalearn.recipes.learned_optimizer import run as optimizer_run
from metalearn.recipes.learned_optimizer.build import prepare
from metalearn.recipes.learned_optimizer.config import (
    TrainOptimizerConfig,
    from_json,
    recommended,
    rename_old_fields,
    to_json,
)
from metalearn.recipes.learned_optimizer.settings import settings_of
from metalearn_models import optimizers
from metalearn_models.optimizers import library

TINY = [
    *("train-optimizer", "learnable-adam", "--objective", "mlp-iris", "--length", "8", "--gradient.window", "4"),
    *("--batch", "2", "--eval-runs", "2", "--steps", "6", "--steps-per-call", "2", "--quiet", "--json"),
    *("--evaluate-every", "2", "--checkpoint-every", "2", "--baselines", "adam"),
]


def run(capsys, *words):
    status = main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture(scope="module", autouse=True)
def _few_rates():
    """A short sweep: how a sweep works is tested where it is."""
    whole, optimizer_run.RATES = optimizer_run.RATES, (0.001, 0.01, 0.1)
    yield
    optimizer_run.RATES = whole


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("optimizer") / "run"
    assert main([*TINY, "--run", str(folder)]) == 0
    return folder


def test_a_run_leaves_weights_that_train_a_network(trained):
    result = json.loads((trained / "result.json").read_text())
    assert result["steps"] == 6 and set(result["baselines"]) == {"adam"}
    assert (trained / "training_curves.png").stat().st_size > 10_000
    assert set(result["curves"]["mlp-iris"]) == {
        "learnable-adam",
        f"reference: adam, {result['baselines']['adam']['learning_rate']:g}",
    }
    found = library.read(trained)
    assert found.name == "learnable-adam" and found.card["objective"] == "mlp-iris"
    params = {"w": jnp.array([1.0, -2.0])}
    transform = library.load(trained, num_steps=8)
    updates, _ = transform.update({"w": jnp.array([0.3, -0.1])}, transform.init(params), params, value=jnp.float32(1))
    # The first update of Adam is its learning rate times the sign.
    rate = float(jnp.exp(found.theta.log_learning_rate))
    np.testing.assert_allclose(updates["w"], [-rate, rate], rtol=1e-3)


def test_plot_draws_what_the_run_drew(trained, capsys, tmp_path):
    assert run(capsys, "plot", trained, "--out", tmp_path / "p.png")[0] == 0
    assert (tmp_path / "p.png").read_bytes() == (trained / "training_curves.png").read_bytes()


def test_a_run_of_version_0_1_is_read_under_todays_names(trained):
    values = json.loads((trained / "config.json").read_text())["config"]
    old = json.loads(json.dumps(values))
    old["outer"], old["gradient"]["runs"] = old.pop("outer_optimizer"), old.pop("batch")
    del old["gradient"]["pairs"], old["gradient"]["rank"]
    assert rename_old_fields(old) == values == json.loads(json.dumps(to_json(from_json(old))))


def test_a_killed_run_resumes_to_the_same_bytes(trained, capsys, tmp_path, monkeypatch):
    folder = tmp_path / "run"

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(library, "save", killed)
    assert run(capsys, *TINY, "--steps", 4, "--run", folder)[0] == 130
    monkeypatch.undo()
    status, _, err = run(capsys, "train-optimizer", "--resume", folder, "--quiet")
    assert status == 0, err
    config = json.loads((folder / "config.json").read_text())["config"]
    assert config["steps"] == 4
    # The schedule is computed from the number of steps, which therefore must stay.
    assert run(capsys, "train-optimizer", "--resume", folder, "--steps", 6, "--quiet")[0] == 1


def test_the_same_command_gives_the_same_theta(trained, capsys, tmp_path):
    status, out, _ = run(capsys, *TINY, "--run", tmp_path / "again", "--steps-per-call", 3)
    assert status == 0
    hashes = {json.loads((f / "result.json").read_text())["theta_sha256"] for f in (trained, tmp_path / "again")}
    assert len(hashes) == 1 and json.loads(out.splitlines()[-1])["theta_sha256"] in hashes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["smal-fc"], "Did you mean 'small-fc'"),
        (["star", "--objective", "mlp-digit"], "Did you mean 'digits'"),
        (["star", "--objective", "mlp"], "mlp-DATA, sigmoid-mlp-DATA"),
        (["star", "--objective", "rosenbrok"], "Did you mean 'rosenbrock'"),
        (
            ["star", "--length", "10", "--gradient.window", "20"],
            "--gradient.window must be at most the length of a trajectory, got 20 and 10: give --gradient.window "
            "10, or a greater --length",
        ),
        (["star", "--length", "20"], "got 50 and 20: give --gradient.window 20, or a greater --length"),
        (["star", "--length", "60", "--shortest", "70"], "--shortest must be at most --length, got 70 and 60"),
        (["star", "--steps", "0"], "--steps must be a whole number from 1"),
        (["star", "--objective", "conv-wine"], "images"),
        (["star", "--ceiling", "nan"], "--ceiling must be a number above 0 and at most 1000000000000, got 'nan'"),
        (["--resume", "nowhere"], "not a run folder"),
    ],
)
def test_bad_input_is_one_clear_line(capsys, tmp_path, words, message):
    folder = [] if "--resume" in words else ["--run", tmp_path / "run"]
    status, _, err = run(capsys, "train-optimizer", *words, *folder, "--quiet")
    assert status in (1, 2) and message in err and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_command_is_refused(capsys, trained):
    status, _, err = run(capsys, "train", "--resume", trained)
    assert status == 1 and "this is a run of `metalearn train-optimizer`" in err
    with pytest.raises(RunError, match="train-optimizer"):
        from_json({"optimizer": "star"})


@pytest.mark.parametrize("name", optimizers.names())
def test_what_is_recommended_survives_its_json_form(name):
    config = recommended(name)
    values = json.loads(json.dumps(to_json(config)))
    assert to_json(from_json(values)) == to_json(config)


def test_settings_reach_the_optimizer(tmp_path):
    words = [
        *TINY,
        "--run",
        str(tmp_path / "run"),
        "--settings.learning-rate",
        "0.5",
        "--outer-optimizer.learning-rate",
        "1e-9",
    ]
    words += ["--baselines", "--steps", "2"]
    assert main(words) == 0
    found = library.read(tmp_path / "run")
    np.testing.assert_allclose(jnp.exp(found.theta.log_learning_rate), 0.5, rtol=1e-5)


def test_weight_decay_is_adamw():
    from metalearn.recipes.outer_optimizer import OptimizerConfig, outer_optimizer

    with jax.numpy_dtype_promotion("standard"):
        ours = outer_optimizer(OptimizerConfig(0.1, weight_decay=0.5), 10)
        theta, grad = jnp.array([2.0]), jnp.array([0.3])
        found, _ = ours.update(grad, ours.init(theta), theta)
        whole = optax.adamw(0.1, weight_decay=0.5)
        np.testing.assert_allclose(found, whole.update(grad, whole.init(theta), theta)[0], rtol=1e-6)
        np.testing.assert_allclose(found, -0.1 * (1 + 0.5 * 2.0), rtol=1e-5)


def test_a_run_on_two_objectives_reports_both_and_resumes_to_the_same_bytes(tmp_path, capsys):
    words = [
        *("train-optimizer", "learnable-adam", "--objective", "mlp-iris+noisy-regression", "--length", "8"),
        *("--rescale", "0.5", "2", "--gradient.window", "4", "--batch", "2", "--eval-runs", "2", "--quiet"),
        *("--steps-per-call", "2", "--evaluate-every", "2", "--checkpoint-every", "2"),
        *("--outer-optimizer.schedule", "constant", "--gradient.method", "nres", "--no-second-order"),
    ]
    status, out, err = run(capsys, *words, "--baselines", "adam", "--steps", 4, "--run", tmp_path / "whole")
    assert status == 0, err
    assert "on mlp-iris" in out and "on noisy-regression" in out and "geometric mean of all" in out
    result = json.loads((tmp_path / "whole" / "result.json").read_text())
    finals = [part["final_loss"] for part in result["objectives"].values()]
    np.testing.assert_allclose(result["final_loss"], np.sqrt(finals[0] * finals[1]), rtol=1e-5)
    assert run(capsys, *words, "--baselines", "--steps", 2, "--run", tmp_path / "parts")[0] == 0
    status, _, err = run(capsys, "train-optimizer", "--resume", tmp_path / "parts", "--steps", 4, "--quiet")
    assert status == 0, err
    parts, whole = (library.read(tmp_path / name).theta for name in ("parts", "whole"))
    jax.tree.map(np.testing.assert_array_equal, parts, whole)
    metrics = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert any("loss/mlp-iris" in row for row in metrics)


def test_an_objective_of_a_mixture_is_refused_by_its_name(capsys):
    status, _, err = run(capsys, "train-optimizer", "compass", "--objective", "mlp-digits+convv-digits")
    assert status == 2 and "--objective" in err and "several: A+B" in err


def test_second_order_meta_gradients_are_exact():
    """Of the mean loss of three steps of SGD, by its constants: central differences agree, first order does not."""
    settings = settings_of("learnable-sgd")
    config = TrainOptimizerConfig("learnable-sgd", settings, "regression", length=3, batch=2, ceiling=1e6)
    config = dataclasses.replace(config, gradient=GradientConfig("backprop"))

    def estimate(second_order):
        training = prepare(dataclasses.replace(config, second_order=second_order)).training
        theta = jax.tree.map(lambda x: x + 4.0, training.theta())  # a high rate: curvature counts
        state = training.estimator.init(theta, training.data, jax.random.key(0))
        key, first = jax.random.key(1), jnp.int32(0)
        return theta, jax.jit(lambda t: training.estimator.grad(t, state, training.data, key, first))

    theta, exact = estimate(True)
    up, down = (exact(jax.tree.map(lambda x, d=d: x + d, theta))[2]["loss"] for d in (0.05, -0.05))
    slope = (up - down) / 0.1
    total = lambda gradient: sum(jnp.sum(g) for g in jax.tree.leaves(gradient))  # noqa: E731
    np.testing.assert_allclose(total(exact(theta)[0]), slope, rtol=0.02)
    assert abs(total(estimate(False)[1](theta)[0]) / slope - 1) > 0.1


def test_second_order_needs_backpropagation():
    with pytest.raises(ValueError, match=r"--second-order is for backpropagation.*--gradient.method nres"):
        prepare(dataclasses.replace(recommended("small-fc"), second_order=True))
