"""Shipped losses with many classes: the rule of the verdict, and a toy run that is kept."""

import json

import pytest

from experiments.losses.trusted.many import SHIPPED, ManyClassesConfig, format_result, judge, run


def _row(ours, rivals):
    return {name: {"each": ours} for name in SHIPPED} | {name: {"each": each} for name, each in rivals.items()}


@pytest.mark.parametrize(
    ("ours", "clean", "noisy"),
    [
        ([0.500, 0.501, 0.502], "holds", "behind"),
        ([0.400, 0.401, 0.402], "holds", "holds"),
        ([0.400, 0.500, 0.600], "open", "open"),
        ([0.520, 0.521, 0.522], "behind", "behind"),
    ],
)
def test_the_rule_compares_with_label_smoothing_on_clean_labels_and_with_the_best_in_noise(ours, clean, noisy):
    rivals = {"label-smoothing": [0.5, 0.5, 0.5], "gce": [0.49, 0.49, 0.49], "probability-mae": [0.9, 0.9, 0.9]}
    verdict = judge({"clean": _row(ours, rivals), "symmetric": _row(ours, rivals)})
    for noise, rival, word in (("clean", "label-smoothing", clean), ("symmetric", "gce", noisy)):
        for name in SHIPPED:
            assert (verdict[noise][name]["rival"], verdict[noise][name]["verdict"]) == (rival, word)


def test_a_toy_run_is_kept(tmp_path):
    config = ManyClassesConfig("rings", seeds=2, steps=3, out=tmp_path)
    result = run(config)
    assert {len(row["each"]) for part in result["results"].values() for row in part.values()} == {2}
    assert "symmetric, label-noise" in format_result(result)
    assert (tmp_path / "many_classes.png").stat().st_size > 10_000
    kept = next((tmp_path / "cells").glob("compare-rings-clean-*.json"))
    stored = json.loads(kept.read_text())
    stored["result"]["rings, clean"]["gce"]["each"] = [0.25, 0.25]
    kept.write_text(json.dumps(stored))
    assert run(config)["results"]["clean"]["gce"]["each"] == [0.25, 0.25]
    with pytest.raises(ValueError, match="--seeds must be at least 1, got 0"):
        run(ManyClassesConfig(seeds=0, out=tmp_path))
