"""Files of one's own on the command line: a run finds them from any working directory, and where they moved to."""

import dataclasses
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from metalearn.cli.arguments import run_folder
from metalearn.cli.train import parse
from metalearn.errors import DataNotPreparedError, RunError
from metalearn.recipes.in_context import evaluation
from metalearn.recipes.in_context.build import load_data, prepare
from metalearn.recipes.in_context.config import DATA_HASH, TrainConfig, with_absolute_places
from metalearn.recipes.in_context.run import meta_train
from metalearn.runs.folder import create_run, open_run, resume_run
from metalearn.runs.json_values import as_json
from metalearn_tasks.datasets import content_sha256


@pytest.fixture
def here(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((200, 3)), np.arange(200) % 4
    np.savez(tmp_path / "own.npz", X=x, y=y)
    lines = [f"{a:.6f},{b:.6f},{c:.6f},kind {k}" for (a, b, c), k in zip(x, y, strict=True)]
    (tmp_path / "own.csv").write_text("\n".join(["a,b,c,kind", *lines]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("source", ["own.npz", "./own.csv", "~/own.csv:kind", "own.csv:kind"])
def test_train_remembers_where_a_file_is(here, source, monkeypatch):
    _, command, _ = parse(["digits", "--data.source", source, "--data.pca", "none"])
    place = command.config.data.source
    assert place == str(here / source.removeprefix("./").removeprefix("~/"))
    (here / "below").mkdir()
    monkeypatch.chdir(here / "below")
    dataset = load_data(command.config)
    assert (dataset.inputs, dataset.classes, dataset.name) == (3, 4, "own.npz" if "npz" in source else "own.csv")


def test_names_stay_names_and_other_places_become_absolute(here):
    (here / "digits").mkdir()
    _, command, _ = parse(["digits", "--data.source", "digits", "--data.data-dir", ".", "--start", "digits"])
    assert command.config.data.source == "digits"
    assert command.config.data.data_dir == str(here) and command.config.start == str(here / "digits")
    assert with_absolute_places(TrainConfig()) == TrainConfig()


def _training(place):
    data = dataclasses.replace(TrainConfig().data, source=str(place), pca=None)
    family = dataclasses.replace(TrainConfig().family, length=20)
    config = with_absolute_places(dataclasses.replace(TrainConfig(), data=data, family=family))
    return config, prepare(config).training


def _resume(folder, training):
    return resume_run(folder, training.config, free=training.free, upgrade=training.upgrade)


@pytest.mark.parametrize("source", ["own.npz", "own.csv:kind"])
def test_a_run_is_resumed_where_its_data_have_moved_to(here, source, capsys):
    config, training = _training(source)
    create_run("run", training.config, free=training.free)
    path, _, label = source.partition(":")
    moved = here / "elsewhere" / f"renamed{path[3:]}"
    moved.parent.mkdir()
    os.rename(path, moved)
    with pytest.raises(DataNotPreparedError, match=r"no file .*own.*; if the run's data have moved, add --data.source"):
        meta_train(config, here / "run", resume=True)
    with pytest.raises(DataNotPreparedError, match=r"no file .*; if the run's data have moved, say where"):
        evaluation.evaluate(here / "run", evaluation.EvaluationConfig())
    _, training = _training(f"{moved}:{label}" if label else moved)
    assert _resume("run", training).config["data"]["source"].startswith(str(moved))
    assert open_run("run").config == as_json(training.config)
    assert _resume("run", training).config == open_run("run").config


def test_other_data_are_refused_wherever_they_lie(here, monkeypatch):
    _, training = _training("own.csv")
    create_run("run", training.config, free=training.free)
    text = (here / "own.csv").read_text()
    (here / "other.csv").write_text(text.replace("kind 3", "kind 0"))
    with pytest.raises(RunError, match=r"other.csv does not hold the data that the run was begun with.*own.csv"):
        _resume("run", _training("other.csv")[1])
    (here / "own.csv").write_text(text + "\n1,2,3,kind 0")
    with pytest.raises(RunError, match=r"own.csv does not hold the data that the run was begun with"):
        _resume("run", _training("own.csv")[1])
    with pytest.raises(RunError, match=r"data.source: '.*own.csv' -> 'digits'"):
        _resume("run", _training("digits")[1])


def test_a_run_from_before_there_were_hashes_is_resumed_where_it_was_alone(here):
    _, training = _training("own.csv")
    create_run("run", training.config, free=training.free)
    content = json.loads((here / "run" / "config.json").read_text())
    del content["config"][DATA_HASH]
    (here / "run" / "config.json").write_text(json.dumps(content))
    (here / "copy.csv").write_text((here / "own.csv").read_text())
    with pytest.raises(RunError, match=r"data.source: '.*own.csv' -> '.*copy.csv'"):
        _resume("run", _training("copy.csv")[1])
    assert DATA_HASH in _resume("run", training).config


def test_the_hash_of_data_is_that_of_what_is_in_them(here):
    def folder(name, files):
        (here / name / "1.0").mkdir(parents=True)
        for file, text in files.items():
            (here / name / "1.0" / file).write_text(text)
        return content_sha256(str(here / name))

    files = {"a": "1", "b": "2"}
    assert folder("first", files) == folder("second", files)
    others = [{"a": "2", "b": "1"}, {"a": "1"}, {"a": "1", "c": "2"}, {"a": "1", "b": "2\n"}]
    of_files = [content_sha256("own.csv"), content_sha256("own.csv:kind"), content_sha256("own.npz")]
    found = [folder(f"other{i}", content) for i, content in enumerate(others)] + of_files
    assert len({*found, folder("third", files)}) == 8
    assert content_sha256("~/own.csv:kind") == of_files[1] and content_sha256("digits") is None
    for missing in ("./gone", "gone.csv"):
        with pytest.raises(FileNotFoundError):
            content_sha256(missing)


def test_evaluate_knows_the_data_of_the_run_where_they_have_moved_to(here):
    config, training = _training("own.csv")
    os.rename("own.csv", "moved.csv")
    own = training.config[DATA_HASH]
    options = evaluation.EvaluationConfig(data="moved.csv")
    assert evaluation._holds_own_data(options, config, own)
    for other in ({"data": "own.npz"}, {"data": "moved.csv", "pca": 2}, {"data": "gone.csv"}, {"data": "digits"}):
        assert not evaluation._holds_own_data(evaluation.EvaluationConfig(**other), config, own)
    assert evaluation._stem(evaluation.EvaluationConfig(data="moved.csv:kind"), "moved.csv:kind") == (
        "evaluate-moved.csv-kind"
    )


def test_commands_that_begin_at_once_get_folders_of_their_own(here, monkeypatch):
    """Without --run, in the same second; each writes into its folder."""
    monkeypatch.setattr(time, "strftime", lambda form: "20261128-120000")
    together = threading.Barrier(8)

    def command(number):
        together.wait()
        with run_folder(None, "digits") as folder:
            (folder / "mine").write_text(str(number))
            together.wait()
            return folder, (folder / "mine").read_text() == str(number)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(command, range(8)))
    assert len({folder for folder, _ in found}) == 8 and all(mine for _, mine in found)
