"""Files of one's own on the command line: a run finds them from any working directory."""

import numpy as np
import pytest

from metalearn.cli.train import parse
from metalearn.recipes.in_context.build import load_data
from metalearn.recipes.in_context.config import TrainConfig, with_absolute_places


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
