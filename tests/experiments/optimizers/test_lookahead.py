"""The experiment on Lookahead at toy size, its rule, and its formula; the timing of M-FAC."""

import numpy as np

from experiments.optimizers import lookahead
from experiments.optimizers.lookahead import LookaheadConfig, format_result, judge, run, variance_formula
from experiments.speed import mfac


def test_it_runs_and_its_table_has_every_rate(tmp_path, monkeypatch):
    monkeypatch.setattr(lookahead, "INNER", {"momentum": lookahead.INNER["momentum"]})
    monkeypatch.setattr(lookahead, "MOMENTA", (0.8,))
    result = run(LookaheadConfig(steps=20, seeds=2, tuning_seeds=1, weights=2000, out=tmp_path))
    rates = lookahead.INNER["momentum"][1]
    assert np.shape(result["arms"]["Lookahead(momentum)"]["accuracy"]) == (len(rates), 2)
    assert all(abs(row["simulation"] / row["formula"] - 1) < 0.15 for row in result["variances"])
    alone, ahead = result["steps"]["0.8"]["steps"]
    assert 50 < alone < ahead < 1000  # Lookahead is slower where nothing is noisy
    text = format_result(result)
    assert "not reproduced: at the learning rate 0.2" in text and "0.03" in text
    assert (tmp_path / "lookahead.png").exists()


def test_the_rule_and_the_formula():
    table = ((0.1, 5, 0.5, 0.0233), (0.5, 5, 0.5, 0.1134), (0.1, 5, 0.8, 0.04), (0.9, 10, 0.5, 0.2727))
    for rate, period, alpha, expected in table:
        assert abs(variance_formula(rate, period, alpha) - expected) < 5e-5

    def verdict(alone, ahead, error):
        rates = lookahead.INNER["momentum"][1]
        # Other rates than 0.2 hold what would turn the verdict.
        arms = {
            name: {"accuracy": [[value if rate == 0.2 else 0.5] for rate in rates]}
            for name, value in (("momentum", alone), ("Lookahead(momentum)", ahead))
        }
        return judge(arms, [{"formula": 1.0, "simulation": 1 + error}])["verdict"]

    assert verdict(0.1, 0.91, -0.02) == "reproduced"
    assert {verdict(0.2, 0.91, 0), verdict(0.1, 0.89, 0), verdict(0.1, 0.91, 0.04)} == {"not reproduced"}


def test_the_timing_of_mfac_is_a_ratio_of_what_it_measured():
    row = mfac.time_window(parameters=1000, window=4, turns=2)
    np.testing.assert_allclose(row["ratio"], row["step_ms"] / (2 * row["read_ms"]))
    np.testing.assert_allclose(row["bandwidth"], 4 * 1000 * 4 / row["read_ms"] / 1e6)
