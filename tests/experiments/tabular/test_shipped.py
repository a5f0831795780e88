"""The meta-training of the shipped weights at toy size, and what their card says."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.suite.command_line import parse, run_command
from experiments.tabular.shipped import config, experiment, training
from experiments.tabular.shipped.config import ShippedConfig, build, current_names, read_config
from experiments.tabular.shipped.export import export, list_commands
from metalearn.errors import RunError
from metalearn.learner import Family, Signature
from metalearn.runs.json_values import as_json
from metalearn.runs.progress import Silent
from metalearn.runs.weights import load_weights, theta_sha256
from metalearn_models.learners import library
from metalearn_models.learners.transformer import TransformerConfig
from metalearn_tasks.families.synthetic import synthetic

CONFIG = ShippedConfig(
    inputs=4, length=6, narrow=(2,), learner=TransformerConfig(8, 1, 1, 8, token="pair"), batch=2, warmup=1, decay=2,
    steps=4, steps_per_call=2, evaluate_every=4, checkpoint_every=2,
)  # fmt: skip


def tell_sides(asked):
    """Two classes in the place of the synthetic tasks, whose many teachers take long to compile."""

    def episode(data, direction, key):
        xs = jax.random.normal(key, (asked.length, asked.inputs))
        return xs, (xs @ direction > 0).astype(jnp.int32)

    def draw(data, key):
        return jax.random.normal(key, (asked.inputs,))

    def unseen(data, index):
        return draw(data, jax.random.fold_in(jax.random.key(0), index))

    return Family(Signature(asked.inputs, asked.classes, asked.length), draw, None, unseen, episode)


@pytest.fixture(scope="module", autouse=True)
def simple_tasks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "synthetic", tell_sides)
        yield


def test_a_task_is_of_digits_or_synthetic_with_all_inputs_or_few(monkeypatch):
    monkeypatch.setattr(config, "synthetic", synthetic)
    parts = build(CONFIG)
    key = jax.random.key(0)
    task = jax.eval_shape(parts.family.sample, parts.data, key)
    _, *tables = task.tasks
    assert [table.task.inputs.mixing.shape for table in tables] == [(4, 4), (2, 2)]
    for data in (parts.data, parts.test_data):
        xs, ys = jax.eval_shape(parts.family.episode, data, task, key)
        assert (xs.shape, ys.shape) == ((6, 4), (6,)) and parts.family.signature == Signature(4, 10, 6)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, shared_programs):
    """The folder of a run of four outer steps, and the result of the command. Not to be written to."""
    folder = tmp_path_factory.mktemp("shipped") / "run"
    return folder, experiment.run(experiment.Options("train", folder, config=CONFIG), Silent())


def test_a_resumed_run_ends_with_the_same_weights(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "curve_scorer", lambda *_: lambda theta, data, key: np.zeros((2, 12)))

    class Stop(Silent):
        def update(self, done, metrics):
            if done == 2:
                raise KeyboardInterrupt

    options = experiment.Options("train", tmp_path / "run", config=CONFIG)
    with pytest.raises(KeyboardInterrupt):
        experiment.run(options, Stop())
    resumed = experiment.run(dataclasses.replace(options, resume=True), Silent())
    assert resumed["theta_sha256"] == trained[1]["theta_sha256"] and resumed["steps"] == 4
    with pytest.raises(RunError, match="seed: 0 -> 1"):
        other = dataclasses.replace(options, resume=True, config=dataclasses.replace(CONFIG, seed=1))
        experiment.run(other, Silent())


def test_a_run_begins_from_the_weights_of_another_and_says_so(trained, tmp_path, monkeypatch):
    folder, result = trained
    driven = []
    monkeypatch.setattr(training, "drive", lambda what, folder, **options: driven.append(what) or (None, None))
    training.train(CONFIG, tmp_path / "run", start=folder)
    assert theta_sha256(driven[0].theta()) == result["theta_sha256"]
    origin = {"steps": 4, "theta_sha256": result["theta_sha256"], "config": as_json({"": CONFIG})[""]}
    assert driven[0].config["start"] == origin
    assert [line.split(" --config")[0] for line in list_commands(driven[0].config)] == [
        "python -m experiments shipped train --run RUN_BEFORE",
        "python -m experiments shipped train --run RUN --start RUN_BEFORE",
    ]


def test_what_is_exported_is_what_was_trained_and_loads_by_its_path(trained, tmp_path):
    folder, result = trained
    card = export(folder, tmp_path / "mine.safetensors", figures=False)
    loaded = library.load(tmp_path / "mine.safetensors")
    assert loaded.config == CONFIG.learner and loaded.signature._asdict() == card["signature"]
    assert card["theta_sha256"] == result["theta_sha256"] and card["steps"] == 4
    assert json.loads((tmp_path / "mine.json").read_text()) == card
    theta, metadata = load_weights(tmp_path / "mine.safetensors")
    assert metadata["commands"] == card["commands"]
    np.testing.assert_array_equal(loaded.theta["head"]["kernel"], theta["head"]["kernel"])


def test_the_command_exports_and_says_what(trained, tmp_path, monkeypatch, capsys):
    card = {"steps": 7, "theta_sha256": "abc", "figures": {"shipped": {}}, "tabular": {"iris": {}}}
    monkeypatch.setattr(experiment, "export", lambda *_: {**card, "config": {}})
    assert run_command("shipped", ["export", "--run", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found.pop("seconds") >= 0
    assert found == {**card, "run": str(tmp_path), "target": str(experiment.Options.target)}
    assert run_command("shipped", ["train", "--run", str(trained[0])]) == 1
    assert "shipped: " in capsys.readouterr().err


def test_the_commands_on_the_shipped_card_repeat_its_runs():
    card = library.load(experiment.NAME).card
    assert card["commands"] == list_commands(card["config"])
    values = card["config"]
    for line in reversed(card["commands"]):
        options = parse("shipped", line.split("#")[0].split()[4:]).options.settings
        assert options.config == read_config(values)
        values = values.get("start", {}).get("config", {})
    assert values == {}


def test_configurations_of_the_first_runs_are_read():
    old = {"tasks": 32, "learner": {"width": 96, "layers": 3, "heads": 4, "key_size": 24, "token": "pair"}}
    new = current_names(old)
    assert new["batch"] == 32 and new["narrow"] == [] and new["learner"]["initial"] == "paper" and "tasks" not in new
    assert read_config(old).learner == ShippedConfig().learner
