"""The experiments that compare gradient estimators, at toy size; claims that hold there too."""

import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from experiments.gradients import (
    estimator_variance,
    influence_balancing,
    lorenz,
    population_shaping,
    schedule_2d,
)
from experiments.gradients._comparison import Contender, Trace, compare_estimators, draw_traces, summarise_traces
from experiments.suite.intervals import finite_interval
from metalearn.errors import UnknownNameError
from metalearn.gradients import rtrl
from metalearn.pictures import new_figure
from metalearn_tasks.systems.influence import START, final_loss
from metalearn_tasks.systems.influence import influence_balancing as influence_loop

TOY = ("PES", "truncated ES", "TBPTT-1")

MEASURED = ("PES", "full ES", "TBPTT")


def check_files(out, found, name):
    assert (out / f"{name}.png").stat().st_size > 10_000
    assert found["picture"] == str(out / f"{name}.png")
    assert json.loads((out / "result.json").read_text()) == found


def test_interval_is_that_of_students_t():
    values = np.array([1.0, 2.0, 4.0, 7.0])
    low, high = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    found = finite_interval(values)
    np.testing.assert_allclose(found[:3], [values.mean(), low, high])
    np.testing.assert_allclose(finite_interval(np.exp(values), geometric=True)[:3], np.exp([values.mean(), low, high]))


def test_seeds_that_diverged_are_counted_and_left_out():
    found = finite_interval(np.array([[1.0, np.nan], [np.inf, np.nan], [3.0, np.nan]]))
    assert found.diverged.tolist() == [1, 3] and found.mean[0] == 2.0 and np.isnan(found.mean[1])
    assert not np.isfinite(finite_interval(np.array([1.0])).low)


def test_a_diverged_seed_is_named_in_the_picture_and_its_mean_ends_where_it_does():
    scores = np.array([[4.0, 2.0, 1.0], [4.0, 8.0, np.nan]])
    traces = {"sgd": Trace(np.array([0, 1, 2]), np.zeros((2, 3)), scores, 0.1)}
    _, (ax,) = new_figure()
    draw_traces(ax, traces)
    assert ax.get_legend().get_texts()[0].get_text() == "sgd (1 of 2 diverged)"
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[0, 4], [1, 4]])
    assert summarise_traces(traces)["sgd"]["diverged"] == 1 and summarise_traces(traces)["sgd"][
        "mean"
    ] == pytest.approx(1)


def test_compare_follows_a_contender_as_a_loop_of_updates_does():
    loop = influence_loop()
    contender = Contender(rtrl(loop, 1, 1, 1000, stagger=False), optax.sgd(1e-4), 6)
    traces = compare_estimators({"rtrl": contender}, jnp.array(START), final_loss, seeds=2, seed=0, every=2)
    state, slope, theta, thetas = np.ones(23), np.zeros(23), START, [START]
    signs = np.where(np.arange(23) < 10, 1.0, -1.0)
    for _ in range(6):
        slope = (slope + np.append(slope[1:], 0)) / 2 + signs
        state = (state + np.append(state[1:], 0)) / 2 + theta * signs
        theta -= 1e-4 * (state[0] - 1) * slope[0]
        thetas.append(theta)
    assert traces["rtrl"].updates.tolist() == [0, 2, 4, 6]
    np.testing.assert_allclose(traces["rtrl"].theta, [thetas[::2]] * 2, rtol=1e-6)
    np.testing.assert_allclose(traces["rtrl"].score[0, 0], 8, rtol=1e-4)


def test_compare_refuses_checkpoints_further_apart_than_its_updates():
    contender = Contender(rtrl(influence_loop(), 1, 1, 10, stagger=False), optax.sgd(1e-4), 6)
    with pytest.raises(ValueError, match="rtrl makes 6 updates, but checkpoints are 10 apart"):
        compare_estimators({"rtrl": contender}, jnp.array(START), final_loss, seeds=1, seed=0, every=10)
    with pytest.raises(ValueError, match="at least 1 seed, got 0"):
        compare_estimators({"rtrl": contender}, jnp.array(START), final_loss, seeds=0, seed=0, every=1)


def test_influence_balancing_goes_down_by_unbiased_and_up_by_truncated_estimators(tmp_path):
    config = influence_balancing.InfluenceBalancingConfig(
        pairs=50, updates=300, every=100, seeds=2, many_seeds=4, estimators=TOY, out=tmp_path
    )
    found = influence_balancing.run(config)
    check_files(tmp_path, found, "influence_balancing")
    last = {name: run["mean"] for name, run in found["runs"].items()}
    assert set(last) == set(TOY)
    assert last["PES"] < 1 and last["TBPTT-1"] > 9
    assert last["truncated ES"] == pytest.approx(last["TBPTT-1"], rel=0.02)
    assert f"{last['TBPTT-1']:.4g}" in influence_balancing.format_result(found)
    few = found["few_pairs"]
    # frozen noise multiplies the exact gradient by the mean of its squares: the dots lie on the curve
    on_curve = np.exp(np.interp(np.log(few["multiplier"]), np.log(few["rates"]), np.log(few["exact"])))
    np.testing.assert_allclose(few["loss"], on_curve, rtol=0.3)


def test_schedule_2d_improves_and_knows_the_grids_best(tmp_path):
    config = schedule_2d.Schedule2DExperimentConfig(
        pairs=10, updates=700, every=100, seeds=2, estimators=("NRES", "TBPTT"), out=tmp_path
    )
    found = schedule_2d.run(config)
    check_files(tmp_path, found, "schedule_2d")
    assert found["grid"]["theta"] == [2.75, -1.75] and found["grid"]["loss"] == pytest.approx(556, abs=2)
    assert found["start"] == pytest.approx(2487.8, abs=1)
    last = {name: run["mean"] for name, run in found["runs"].items()}
    assert last["NRES"] < 2200 and last["TBPTT"] > 2400
    assert f"{last['NRES']:.4g} [" in schedule_2d.format_result(found)


def test_lorenz_gets_nearer_to_the_truth(tmp_path):
    config = lorenz.LorenzExperimentConfig(
        pairs=20, updates=60, every=30, seeds=2, test_starts=8, length=400, estimators=("NRES", "NRES-A"), out=tmp_path
    )
    found = lorenz.run(config)
    check_files(tmp_path, found, "lorenz")
    start = float(np.linalg.norm(np.array(lorenz.START) - np.asarray(lorenz.true_theta())))
    for name in ("NRES", "NRES-A"):
        assert found["theta_error"][name]["mean"] < start, name
        first, *_, last = found["runs"][name]["curve"]["mean"]
        assert last < first
        assert f"{name} {found['theta_error'][name]['mean']:.2f}" in lorenz.format_result(found)


def test_measured_moments_of_all_estimators_are_those_of_the_formulas(tmp_path):
    config = estimator_variance.EstimatorVarianceConfig(
        length=4, windows=(2,), trajectories=500, seeds=4, estimators=MEASURED, out=tmp_path
    )
    found = estimator_variance.run(config)
    check_files(tmp_path, found, "estimator_variance")
    assert set(found["moments"]) == set(MEASURED)
    table = estimator_variance.format_result(found).splitlines()
    assert [line.split("  ")[0] for line in table[2:-1]] == ["PES", "full ES", "TBPTT"]
    for name, dots in found["moments"].items():
        for windows, dot in dots.items():
            assert dot["mean"] == pytest.approx(dot["exact_variance"], rel=0.25, abs=1e-20), (name, windows)
            assert abs(dot["error"] - dot["exact_error"]) < 3 * dot["chance"] + 1e-12, (name, windows)
    assert found["moments"]["full ES"]["1"]["exact_variance"] == pytest.approx(6)
    assert found["moments"]["TBPTT"]["2"]["exact_error"] > 0.05


def test_windows_that_do_not_divide_the_trajectory_are_refused(tmp_path):
    config = estimator_variance.EstimatorVarianceConfig(windows=(5,), out=tmp_path)
    with pytest.raises(ValueError, match="12 steps cannot be cut into 5 equal windows"):
        estimator_variance.run(config)


def test_an_estimator_that_is_not_there_is_refused_by_name(tmp_path):
    config = influence_balancing.InfluenceBalancingConfig(estimators=("TBPTT-2",), out=tmp_path)
    with pytest.raises(UnknownNameError, match=r"unknown estimator 'TBPTT-2'\. Did you mean 'TBPTT-1"):
        influence_balancing.run(config)


def test_population_shaping_reports_when_each_reaches_the_level(tmp_path):
    config = population_shaping.PopulationShapingConfig(20, 8, 0.1, (0.001, 0.1), 80, 2, evosax=False, out=tmp_path)
    found = population_shaping.run(config)
    check_files(tmp_path, found, "population_shaping")
    assert {row["rate"] for row in found["runs"].values()} == {0.1}  # the other one gets nowhere
    raw = found["runs"][population_shaping.RAW]
    assert raw["ratio"] == {"mean": 1, "low": 1, "high": 1} and all(len(c) == 8 for c in raw["curves"])
    assert "over those of raw differences" in population_shaping.format_result(found)


def test_generations_to_a_level_count_from_one_and_may_be_none():
    curve = np.array([9.0, 5.0, 4.0, 6.0])
    found = [population_shaping._reached(curve, level) for level in (10, 5, 4, 1)]
    assert found == [1, 2, 3, None]
    low, high = np.exp(np.log(2) + np.array([-1, 1]) * stats.t.ppf(0.975, 1) * np.log(4) / 2)
    assert population_shaping._ratio([20, 40], [20, 10]) == pytest.approx({"mean": 2, "low": low, "high": high})
    assert population_shaping._ratio([20, None], [20, 10]) is None
