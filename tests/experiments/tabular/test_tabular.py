import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits, load_wine
from sklearn.model_selection import train_test_split

import experiments.tabular.shipped as shipped
from experiments.tabular.tabular import REFERENCES, TABLES, TabularConfig, accuracies, compare, main, show, table
from metalearn.outer import OuterState
from metalearn.runs.weights import theta_sha256
from metalearn_tasks.datasets import load


def test_the_digits_of_the_comparison_took_no_part_in_meta_training():
    X, y = table("digits")
    assert X.shape == (397, 64)
    trained_on = {row.tobytes() for row in np.asarray(load("digits").train.inputs, np.float64)}
    assert not any(row.tobytes() in trained_on for row in X)
    images, labels = load_digits(return_X_y=True)
    scaled = (images - images.mean()) / images.std()
    nearest = [int(np.abs(scaled - row).sum(1).argmin()) for row in X[:20]]
    np.testing.assert_array_equal(labels[nearest], y[:20])


def test_the_reference_is_1nn_on_standardised_features_of_the_same_split():
    scores = accuracies(TabularConfig(splits=2, n_estimators=8), "wine")
    X, y = load_wine(return_X_y=True)
    for split in range(2):
        parts = train_test_split(X, y, train_size=50, stratify=y, random_state=split)
        A, B, a, b = (np.asarray(part) for part in parts)
        mean, std = A.mean(0), A.std(0)  # of the training rows alone
        A, B = (A - mean) / std, (B - mean) / std
        nearest = np.square(A[None] - B[:, None]).sum(2).argmin(1)
        assert scores["1nn"][split] == (a[nearest] == b).mean()


def test_ahead_is_the_distance_to_the_better_reference():
    figures = compare(TabularConfig(tables=("iris",), splits=2, n_estimators=8))
    row = figures["iris"]
    assert row["ahead"] == pytest.approx(row["in-context"] - max(row[name] for name in REFERENCES), abs=2e-4)
    assert "iris" in show(figures)
    with pytest.raises(ValueError, match="no table 'titanic': use iris"):
        compare(TabularConfig(tables=("titanic",)))


def test_json_is_the_last_line_and_holds_what_the_file_does(tmp_path, capsys):
    config = TabularConfig(tables=("iris",), splits=1, n_estimators=1, out=tmp_path / "figures.json")
    main(config)
    assert not capsys.readouterr().out.splitlines()[-1].startswith("{")
    main(dataclasses.replace(config, json=True))
    last = capsys.readouterr().out.splitlines()[-1]
    assert (
        json.loads(last) == json.loads((tmp_path / "figures.json").read_text()) and "ahead" in json.loads(last)["iris"]
    )


def test_json_of_the_shipped_weights_is_the_last_line_of_both_actions(tmp_path, capsys, monkeypatch):
    theta = {"w": jnp.ones(2)}
    state = OuterState(theta, (), (), jax.random.key(0), jnp.int32(7))
    card = {"steps": 7, "theta_sha256": theta_sha256(theta), "figures": {"shipped": {}}, "tabular": {"iris": {}}}
    monkeypatch.setattr(shipped, "train", lambda *_: state)
    monkeypatch.setattr(shipped, "export", lambda *_: {**card, "config": {}})
    common = {"run": str(tmp_path), "steps": 7, "theta_sha256": theta_sha256(theta)}
    for command, expected in (
        (shipped.Command("train", tmp_path), common),
        (shipped.Command("export", tmp_path), {**common, **card, "target": str(shipped.Command.target)}),
    ):
        shipped.main(dataclasses.replace(command, json=True))
        found = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert found.pop("seconds") >= 0 and found == expected
        shipped.main(command)
        assert "seconds" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_the_in_context_learner_is_within_three_points_of_the_better_reference(name):
    assert compare(TabularConfig(tables=(name,)))[name]["ahead"] > -0.03
