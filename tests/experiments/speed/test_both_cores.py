import dataclasses

import pytest

from experiments.speed.peers import both_cores
from experiments.speed.peers.both_cores import ARRANGEMENTS, BothCoresConfig, format_result, run


def test_the_fastest_of_all_processes_counts_and_the_table_compares_them(monkeypatch):
    asked = []

    def measured(config, arrangement):
        asked.append(arrangement)
        ours = {"one core": 0.09, "all cores": 0.16, "one device per core": 0.05}[arrangement]
        return {"MLP": {"metalearn": ours + 0.01 * (len(asked) <= 3), "google/learned_optimization": 2 * ours}}

    monkeypatch.setattr(both_cores, "_in_process", measured)
    result = run(BothCoresConfig(optimizers=("MLP",), starts=2))
    assert asked == [*ARRANGEMENTS, *ARRANGEMENTS]
    assert list(result["seconds"]["MLP"]["metalearn"].values()) == [0.09, 0.16, 0.05]
    lines = format_result(result).splitlines()
    assert lines[1].split()[-3:] == ["90.0", "160.0", "50.0"]
    assert lines[2].split()[-3:] == ["1.00x", "0.56x", "1.80x"]
    assert lines[4].split()[-3:] == ["2.00x", "2.00x", "2.00x"]


def test_bad_input_is_refused():
    for name in ("turns", "starts"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            run(dataclasses.replace(BothCoresConfig(), **{name: 0}))
    with pytest.raises(OSError, match=r"the process for one core failed: (.|\n)*KeyError: 'LSTM'"):
        run(BothCoresConfig(optimizers=("LSTM",), peer=False))  # type: ignore[arg-type]
