import numpy as np
import pytest
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments.suite.command_line import run_command
from experiments.tabular import regression
from experiments.tabular.regression import BASELINES, OURS, PARTS, TABLES, compare, judge


@pytest.mark.parametrize("name", TABLES)
def test_no_column_gives_the_target_away(name):
    x, y = TABLES[name]()
    assert len(x) == len(y) >= 150 and np.isfinite(x).all()
    assert max(abs(np.corrcoef(column, y)[0, 1]) for column in x.T) < 0.98


def test_the_score_is_measured_against_the_training_rows_mean(monkeypatch):
    monkeypatch.setattr(regression, "BASELINES", {"ridge": BASELINES["ridge"]})
    monkeypatch.setattr(regression, "PARTS", ("line alone",))
    found = compare("iris", 60, 2)
    x, y = TABLES["iris"]()
    order = np.random.default_rng(2).permutation(150)
    train, test = order[:60], order[60:]
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 4, 15))).fit(x[train], y[train])
    wrong = np.square(model.predict(x[test]) - y[test]).sum() / np.square(y[test] - y[train].mean()).sum()
    assert found["ridge"]["score"] == pytest.approx(1 - wrong)
    assert found["line alone"]["score"] == pytest.approx(found["ridge"]["score"], abs=0.03)
    assert 0.4 < found[OURS]["held"] <= 1 and set(found) == {OURS, "ridge", "line alone"}


@pytest.mark.parametrize(
    "ours, others, verdict",
    [
        ([0.8, 0.81, 0.82], 0.7, "wins"),
        ([0.6, 0.95, 0.7], 0.7, "ahead"),
        ([0.6, 0.8, 0.6], 0.7, "open"),
        ([0.6, 0.61, 0.6], 0.7, "behind"),
    ],
)
def test_the_verdict_is_that_of_the_rule(ours, others, verdict):
    rows = [
        {"table": t, "rows": 50, "split": s, "name": name, "score": score, "seconds": 1.0, "held": 0.8}
        for name in (OURS, *BASELINES, *PARTS)
        for t, of in zip("abc", ours, strict=True)
        for s in range(2)
        for score in [of if name == OURS else others]
    ]
    assert judge(rows, 50)["verdict"] == verdict
    assert judge(rows, 200)["verdict"] == "no table has so many rows"


def test_from_the_command_line_and_what_is_kept_is_not_computed_again(tmp_path, capsys, monkeypatch):
    fake = {name: {"score": 0.5, "seconds": 1.0, "held": 0.8} for name in (OURS, *BASELINES, *PARTS)}
    monkeypatch.setattr(regression, "compare", lambda *_: fake)
    words = ["--tables", "iris", "wine", "--rows", "50", "200", "--splits", "2", "--out", str(tmp_path)]
    run_command("regression", words)
    printed = capsys.readouterr().out
    assert "50 rows, 2 tables: open" in printed and "200 rows, 0 tables" in printed
    monkeypatch.setattr(regression, "compare", lambda *_: pytest.fail("what is in the folder is computed again"))
    run_command("regression", words)
    assert capsys.readouterr().out == printed
    assert run_command("regression", ["--tables", "boston", "--out", str(tmp_path)]) != 0
    assert "no table boston: use diabetes" in capsys.readouterr().err
