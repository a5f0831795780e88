"""Paths that begin with ~ are in the home folder, for everything that is loaded from a file."""

import shutil
from pathlib import Path

import pytest

import metalearn_models
from metalearn_models import losses, optimizers
from metalearn_models.learners import library as learners
from metalearn_models.tabular.transformer import library as tables

FOLDER = Path(metalearn_models.__file__).parent


@pytest.mark.parametrize(
    ("shipped", "load"),
    [
        (FOLDER / "optimizers/weights/compass.safetensors", optimizers.read),
        (FOLDER / "learners/weights/digits-synthetic-16x10.safetensors", learners.load),
        (FOLDER / "tabular/transformer/weights/tables.safetensors", tables.load),
        (FOLDER / "losses/shipped/label-noise.json", losses.load),
    ],
    ids=["optimizers", "learners", "tables", "losses"],
)
def test_the_home_folder_is_expanded(shipped, load, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    shutil.copy(shipped, tmp_path / "mine")
    load(f"~/mine/{shipped.name}")


def test_a_loss_is_saved_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    loss = losses.SymbolicLoss.read(FOLDER / "losses/shipped/label-noise.json")
    loss.save("~/mine.json")
    assert losses.load(tmp_path / "mine.json") == loss
