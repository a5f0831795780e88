"""The timing of optimizers that read curvature, at toy size."""

import pytest

from experiments.speed.curvature import CurvatureCostConfig, Turn, _rows, format_result, run


def test_ratios_are_those_of_the_same_round():
    walls = {"sgd": [1.0, 2.0, 4.0], "foof": [2.0, 2.0, 12.0]}
    rows = _rows({name: [Turn(x, x * x) for x in times] for name, times in walls.items()}, ["sgd", "foof"])
    assert rows["sgd"] == {"ms": 1e3, "ratio": 1.0, "cpu_ratio": 1.0}
    assert rows["foof"] == {"ms": 2e3, "ratio": 2.0, "cpu_ratio": 4.0}


def test_every_system_is_timed_against_the_first():
    config = CurvatureCostConfig(("sgd", "foof"), (4, 3, 2), batch=4, period=2, collect=1, rounds=1)
    result = run(config)
    assert list(result["steps"]) == ["sgd", "foof"] and list(result["passes"]) == [
        "value_and_grad",
        "statistics",
    ]
    assert result["steps"]["sgd"]["ratio"] == 1 and all(row["ms"] > 0 for row in result["steps"].values())
    lines = format_result(result).splitlines()
    assert len(lines) == 6 and lines[1].split()[0] == "sgd"


def test_sizes_out_of_range_are_refused():
    with pytest.raises(ValueError, match="must be at least 1, got"):
        run(CurvatureCostConfig(rounds=0))
    with pytest.raises(ValueError, match="collect must be at most the period of 5 steps, got 6"):
        run(CurvatureCostConfig(period=5, collect=6))
