import json

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_wine
from sklearn.model_selection import train_test_split

from experiments.suite.command_line import run_command
from experiments.tabular import prior
from experiments.tabular.tabular import (
    GENERATED,
    REFERENCES,
    TABLES,
    TabularConfig,
    accuracies,
    compare,
    format_result,
    load_table,
)
from metalearn_tasks.datasets import load
from metalearn_tasks.families.tables import TablesConfig


def test_the_digits_of_the_comparison_took_no_part_in_meta_training():
    X, y = load_table("digits")
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


def test_generated_tables_are_the_same_each_time_and_two_widths_differ_in_nothing_else():
    for name in GENERATED:
        (X, y), (again, _) = load_table(name), load_table(name)
        assert len(X) == len(y) == 4000 and np.array_equal(X, again)
    X, y = load_table("widths")
    np.testing.assert_allclose([X[y == k].std() for k in (0, 1)], [1, 3], rtol=0.03)
    np.testing.assert_allclose([X[y == k].mean() for k in (0, 1)], 0, atol=0.1)


def test_ahead_is_the_distance_to_the_better_reference():
    figures = compare(TabularConfig(tables=("iris",), splits=2, n_estimators=8))
    row = figures["iris"]
    assert row["ahead"] == pytest.approx(row["in-context"] - max(row[name] for name in REFERENCES), abs=2e-4)
    assert "iris" in format_result(figures)
    with pytest.raises(ValueError, match="no table 'titanic': use iris"):
        compare(TabularConfig(tables=("titanic",)))


def test_json_is_the_last_line_and_holds_what_the_file_does(tmp_path, capsys):
    words = ["--tables", "iris", "--splits", "1", "--n-estimators", "1", "--out", str(tmp_path / "figures.json")]
    assert run_command("tabular", words) == 0
    printed = capsys.readouterr().out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert printed == format_result(figures) + "\n" and "ahead" in figures["iris"]
    assert run_command("tabular", [*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == figures


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_the_in_context_learner_is_within_three_points_of_the_better_reference(name):
    assert compare(TabularConfig(tables=(name,)))[name]["ahead"] > -0.03


def test_gains_over_class_frequencies_by_hand():
    """Of two clusters far apart everything can be learned; of columns without a word about the class, nothing."""
    apart = [prior.gains(number, TablesConfig(causal=0, direct=0, classes=2), 50, 0) for number in range(12)]
    assert np.mean(np.max(apart, axis=1) > 0.2) > 0.5
    result = prior.run(prior.TablePriorConfig(tables=2))
    assert list(result) == ["mixture", "causal", "direct", "clusters"] and "no gain" in prior.format_result(result)
    low, mean = (result["causal"][name] for name in ("forest", "better of the two"))
    assert mean[0] >= low[0] and low[1] <= low[0] <= low[2]
