"""The comparison with nanoTabPFN, without it: what it is given, how answers are scored, and the verdict."""

import json
from typing import Any

import numpy as np
import pytest

from experiments.speed import tables
from experiments.speed.peers._nanotabpfn import write_dump
from experiments.speed.tables import BATCH, FEATURES, PEER, PRESETS, ROWS, SPLITS, scores, verdict, write_tables
from experiments.suite.command_line import run_command


class _File(dict):
    """What `h5py.File` is to whoever writes."""

    written: dict[str, "_File"] = {}

    def __init__(self, path, mode):
        super().__init__()
        assert mode == "w"
        self.written[str(path)] = self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def test_the_peer_gets_the_same_tables_in_its_layout_and_one_split_per_batch(tmp_path):
    write_tables(tmp_path / "tables.npz", 3, 0)
    ours, h5py = np.load(tmp_path / "tables.npz"), type("h5py", (), {"File": _File})
    write_dump(h5py, ours, tmp_path / "tables.h5")
    dump: Any = _File.written[str(tmp_path / "tables.h5")]
    assert dump["X"].shape == (3 * BATCH, ROWS, FEATURES) and dump["X"].dtype == np.float32
    np.testing.assert_array_equal(dump["X"], ours["xs"].astype(np.float32))
    np.testing.assert_array_equal(dump["y"], ours["ys"])
    assert set(np.unique(dump["y"])) == {0, 1} and np.isfinite(dump["X"]).all() and dump["max_num_classes"] == [2]
    assert dump["single_eval_pos"].reshape(3, BATCH).tolist() == [[SPLITS[i % 2]] * BATCH for i in range(3)]
    assert dump["num_features"] == [FEATURES] * 3 * BATCH and dump["num_datapoints"] == [ROWS] * 3 * BATCH


def test_scores_are_means_over_splits_then_over_tables():
    ys = np.array([0, 0, 1, 1])
    names, answers = ("a|50", "a|50", "b|50"), ([0.1, 0.2, 0.8, 0.9], [0.9, 0.8, 0.2, 0.1], [0.4, 0.1, 0.3, 0.9])
    real = [(name, None, None, None, ys) for name in names]
    found = scores(real, list(answers))["50"]
    assert found["tables"] == 2
    assert found["auc"] == pytest.approx((0.5 + 0.75) / 2) and found["accuracy"] == pytest.approx((0.5 + 0.75) / 2)


@pytest.mark.parametrize(
    "seconds, cpu, auc, expected",
    [(1.6, 1.6, 0.805, "reproduced"), (1.6, 1.6, 0.83, "fast but worse"), (1.6, 1.4, 0.7, "slow")],
)
def test_the_verdict_needs_both_clocks_and_the_area(seconds, cpu, auc, expected):
    ours = {"seconds": 1.0, "cpu": 1.0, "scores": {"50": {"auc": 0.8}}}
    peer = {"seconds": seconds, "cpu": cpu, "scores": {"50": {"auc": auc}}}
    assert verdict({"ours, 1 view": ours, PEER: peer}) == expected
    assert verdict({"ours, 1 view": ours}) == "no peer"


def test_without_the_peer_ours_is_kept_and_the_missing_part_is_named(tmp_path, monkeypatch, capsys):
    real = [("a|50", np.zeros((2, 2)), np.arange(2), np.zeros((2, 2)), np.arange(2))]
    ours = {"theta": None, "config": None, "steps": 40, "seconds": 1.0, "cpu": 1.0, "weights": 5}
    monkeypatch.setattr(tables, "splits_of", lambda seeds: real)
    monkeypatch.setattr(tables, "train_ours", lambda config, path: ours)
    monkeypatch.setattr(tables, "classify", lambda trained, real, views, seed: [np.array([0.2, 0.7])])
    peers: list[dict[str, Any]] = [{"missing": "No module named 'h5py'"}, {**ours, "probabilities": [[0.7, 0.2]]}]
    monkeypatch.setattr(tables, "_train_peer", lambda *_: peers.pop(0))
    words = ["quick", "--steps", "2", "--peer", str(tmp_path), "--out", str(tmp_path)]
    assert run_command("table_speed", words) == 0
    printed = capsys.readouterr()
    assert "verdict: no peer" in printed.out and "No module named 'h5py'" in printed.err
    monkeypatch.setattr(tables, "train_ours", lambda *_: pytest.fail("what is kept is trained again"))
    assert run_command("table_speed", [*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result[PEER]["scores"]["50"]["auc"] == 0 and result["verdict"] == "slow"
    assert result["ours, 8 views"]["scores"]["50"] == {"tables": 1, "auc": 1.0, "accuracy": 1.0}
    assert PRESETS["quick"].steps == 40
