"""The arithmetic of the timings, and the process that times PyTorch in an environment that has nothing of ours."""

import json
import os
import subprocess
import sys
import time

import pytest

from experiments.speed import estimators, training_step
from experiments.speed._timed_cases import Case
from experiments.speed.estimators import EstimatorSpeedConfig
from experiments.speed.training_step import ROOT, ThroughputConfig, flops_per_step


def turn(wall, cpu, peak, loss=1.5):
    return {"wall": wall, "cpu": cpu, "peak": peak, "loss": loss}


TURNS = {
    ("metalearn", 1): [turn(0.2, 0.1, 1e11), turn(0.1, 0.2, 2e11)],
    ("torch", 1): [turn(0.8, 0.4, 4e11, 2.0), turn(0.2, 0.5, 3e11)],
    ("torch", 2): [turn(0.1, 0.4, 8e11), turn(0.1, 0.5, 3e11)],
}


def test_the_process_of_pytorch_needs_nothing_but_the_standard_library():
    command = [sys.executable, "-S", "-m", "experiments.speed._training_step_systems", "torch", "1", "1"]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, input="")
    assert done.returncode == 0 and json.loads(done.stdout) == {"missing": "torch"}, done.stderr


def test_a_system_is_compared_with_ours_turn_by_turn_and_with_the_best_peak_on_as_many_threads():
    row = training_step._make_row(("torch", 1), TURNS)
    assert (row["min"], row["median"], row["cpu_min"], row["loss"]) == (0.2, 0.5, 0.4, 1.5)
    assert row["ratio_median"] == pytest.approx(3.0) and row["ratio_min"] == pytest.approx(2.0)
    assert row["ratio_cpu_min"] == pytest.approx(4.0)
    assert row["of_own_peak"] == row["of_best_peak"] == pytest.approx(flops_per_step() / 0.2 / 4e11)
    ours, alone = (training_step._make_row(pair, TURNS) for pair in (("metalearn", 1), ("torch", 2)))
    assert ours["of_own_peak"] == pytest.approx(2 * ours["of_best_peak"])
    assert "ratio_min" not in alone and alone["of_best_peak"] == pytest.approx(flops_per_step() / 0.1 / 8e11)
    table = training_step.format_result({"rows": [row, alone]}).splitlines()
    assert table[1].split()[-3:] == ["3.00", "2.00", "4.00"] and table[2].split()[-1] == "nan"


def test_more_threads_than_cores_are_refused_before_a_process_is_started(monkeypatch):
    monkeypatch.setattr(training_step, "_start", lambda *args: pytest.fail("a process was started"))
    with pytest.raises(ValueError, match=r"threads at most the .* cores there are, got 5, 5 and \(1, 9999\)"):
        training_step.run(ThroughputConfig(threads=(1, 9999)))


def test_a_case_is_as_fast_as_its_fastest_turn_per_unit_of_work(monkeypatch):
    now, seconds = [0.0], {"first": iter([3.0, 2.0]), "second": iter([1.0, 5.0])}
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def case(name, work):
        def advance():
            now[0] += next(seconds[name])

        return Case(name, advance, work, 7.0, 11)

    found = estimators._time_cases([case("first", 10.0), case("second", 20.0)], 2)
    assert found["first"] == {"rate": 5.0, "ratio": 1.0, "first": 7.0, "memory": 11}
    assert found["second"]["rate"] == 20.0 and found["second"]["ratio"] == 0.25


def test_a_comparison_whose_library_is_missing_is_left_out_and_said(monkeypatch):
    def missing():
        raise ModuleNotFoundError("No module named 'evosax'", name="evosax")

    class Notes:
        said = []
        note = said.append

    monkeypatch.setitem(estimators.PARTS, "evosax", missing)
    monkeypatch.setitem(estimators.PARTS, "noise", lambda: [("title", [Case("a", lambda: None, 1.0)])])
    found = estimators.run(EstimatorSpeedConfig(("evosax", "noise"), 1), Notes())
    assert list(found) == ["title"]
    assert Notes.said == ["no evosax here, evosax is left out: pip install 'metalearn[evosax]'", "done: title"]
    with pytest.raises(ValueError, match="turns must be at least 1, got 0"):
        estimators.run(EstimatorSpeedConfig(turns=0))


def test_one_core_is_chosen_before_jax_has_devices():
    code = "\n".join(
        [
            "import experiments.suite.command_line, experiments.speed.estimators, experiments.learned_optimizers.cost",
            "import jax; jax.config.update('jax_num_cpu_devices', 2)  # refused once there are devices",
        ]
    )
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, check=True, cwd=ROOT)
