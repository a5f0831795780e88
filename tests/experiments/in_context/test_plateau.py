"""The plateau: configurations, lengths that are known and that are not, the summary of hand-made rows, pictures."""

import dataclasses
import json
import math
from collections import Counter

import numpy as np
import pytest

from experiments.in_context.plateau import experiment as plateau
from experiments.in_context.plateau.experiment import CONDITIONS, PRESETS, Settings, summarise
from experiments.in_context.plateau.lengths import (
    format_ends,
    format_steps,
    lengths,
    median,
    power_law,
    resample_lengths,
)
from experiments.in_context.settings import published_config, small_config
from experiments.suite import run as suite
from experiments.suite.experiment import Trained, read_evaluations
from metalearn.recipes.in_context.config import CurriculumConfig
from metalearn.runs.folder import open_run
from metalearn.runs.json_values import as_json, finite_or_null
from metalearn.runs.metrics import read_metrics
from metalearn_models.learners.contextless import MLPConfig
from tests.metalearn.sweeps.sweep_cells import Recorded

INF = math.inf


@pytest.mark.parametrize("preset, count", [("quick", 3 * 3), ("standard", 8 * 3 + 4 * 3), ("paper", 8 * 3 + 4 * 3)])
def test_presets_have_a_cell_a_seed_and_one_seed_of_everything_first(preset, count):
    settings = PRESETS[preset]
    found = plateau.cells(settings)
    assert len(found) == len({tuple(c.items()) for c in found}) == count
    assert [c["seed"] for c in found] == sorted(c["seed"] for c in found)
    assert Counter(c["batch"] for c in found if c["condition"] != "unbiased") == {
        settings.batch: settings.seeds * (len(settings.conditions) - 1)
    }
    assert len({plateau.config(settings, c).steps for c in found}) == len({settings.steps, *settings.batch_steps})


def configured(condition="unbiased", batch=64, seed=3, settings=None):
    return plateau.config(settings or Settings(), {"condition": condition, "batch": batch, "seed": seed})


def test_the_control_is_the_paper_token_on_unbiased_tasks():
    found = configured()
    assert (found.seed, found.family.seed, found.steps, found.batch, found.learner.width) == (3, 3, 10_000, 64, 64)
    assert (found.family.permute_prob, found.family.anneal_steps, found.family.num_tasks) == (1.0, 0, None)
    assert (found.learner.token, found.curriculum.steps) == ("paper", 0)
    assert (found.outer_optimizer.eps, found.outer_optimizer.eps_root, found.outer_optimizer.learning_rate) == (
        1e-8,
        0.0,
        1e-3,
    )
    base = small_config(3, 10_000)
    assert found.data == base.data and found.learner == dataclasses.replace(base.learner, token="paper")
    paper = configured(batch=16, settings=PRESETS["paper"])
    base = published_config(3, 50_000, 256)
    assert (paper.batch, paper.sequences, paper.steps) == (16, 32, 50_000)
    assert (paper.data, paper.learner, paper.family) == (base.data, base.learner, base.family)


@pytest.mark.parametrize(
    ("condition", "part", "changes"),
    [
        ("biased", "family", {"permute_prob": 0.1}),
        ("annealed", "family", {"permute_prob": 0.1, "anneal_steps": 400}),
        ("pair", "learner", {"token": "pair"}),
        ("curriculum", "curriculum", {"first": 10, "steps": 2000}),
        ("eps-root-1e-8", "outer_optimizer", {"eps_root": 1e-8}),
        ("eps-1e-6", "outer_optimizer", {"eps": 1e-6}),
        ("eps-1e-4", "outer_optimizer", {"eps": 1e-4}),
    ],
)
def test_each_intervention_changes_one_thing(condition, part, changes):
    control = configured()
    one = dataclasses.replace(getattr(control, part), **changes)
    assert configured(condition) == dataclasses.replace(control, **{part: one}) != control
    assert set(CONDITIONS) == {*Settings().conditions} and isinstance(control.curriculum, CurriculumConfig)


def test_batches_have_their_own_number_of_steps():
    assert [(configured(batch=b).batch, configured(batch=b).steps) for b in (16, 64, 256)] == [
        (16, 40_000), (64, 10_000), (256, 7_000)
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"unknown condition 'bised'. Did you mean 'biased' or 'unbiased'?"):
        plateau.cells(Settings(("bised",)))
    with pytest.raises(ValueError, match="--batch-steps needs one number per number of --batches: got 4 for 1"):
        plateau.cells(Settings(batches=(16,)))


def test_a_run_ends_above_the_level_and_without_a_bias_that_is_annealed_away():
    def finished(condition, step, score):
        return plateau.is_finished(Settings(), {"condition": condition}, step, {"unseen_score": score})

    assert finished("biased", 50, 0.26) and not finished("biased", 50, 0.25)
    assert finished("annealed", 4000, 0.26) and not finished("annealed", 3999, 0.9)


def measured(scores, every=50):
    lines = [{"step": every * (i + 1), "eval/unseen_score": s} for i, s in enumerate(scores)]
    lines.insert(1, {"step": every + 1, "loss": 2.3})
    return plateau.measure(Settings(), {}, Trained(small_config(0, 5000), {}, lines, None))  # pyright: ignore


def test_what_is_measured():
    found = measured([0.1, 0.25, 0.26, 0.2])
    assert (found["left"], found["value"], found["maximum"], found["last"]) == (150, 150, 5000, 0.2)
    assert found["curve_steps"] == [50, 100, 150, 200] and found["curve"] == [0.1, 0.25, 0.26, 0.2]
    found = measured([0.1, 0.25])
    assert (found["left"], found["value"], found["maximum"]) == (None, 5000, 5000)
    found = measured(np.linspace(0, 0.2, 1000).tolist())
    assert len(found["curve"]) == 201 and found["curve_steps"][-1] == 50_000 and found["curve"][-1] == 0.2


def test_lengths_and_medians_of_censored_runs():
    rows = [{"left": left, "maximum": 900} for left in (300, None, 100)]
    assert lengths(rows) == [300, INF, 100] and lengths(rows, censored="maximum") == [300, 900, 100]
    assert median([300, INF, 100]) == 300 and median([300, INF, INF]) == INF and median([100, 300]) == 200
    assert median([100, INF]) == INF, "halfway to a length that is not known"
    assert math.isnan(median([]))
    assert format_steps(1234.4, 9) == "1,234" and format_steps(INF, 9000) == format_steps(None, 9000) == "> 9,000"
    assert format_ends([1, 0.5, 2.0]) == " [0.50, 2.00]" and format_ends([1, 0.5, INF]) == format_ends([1, 0.5, None])
    assert (
        format_ends([1, 0.5, INF]) == " [0.50, inf]"
        and format_ends([1, -INF, INF]) == format_ends([1, None, None]) == ""
    )


def test_a_ratio_of_a_single_run_has_no_interval():
    ratio = lambda a, b: median(a) / median(b)  # noqa: E731
    assert resample_lengths([[300.0], [800.0, 1000.0]], ratio) == [300 / 900, -INF, INF]
    # each median is at an end in 7 of 27 draws, both at once in 7 %: more often than 2.5 %
    assert resample_lengths([[300, 400, 450], [800, 1000, 1400]], ratio) == pytest.approx([0.4, 300 / 1400, 450 / 800])


def law(batches, exponent=0.7, factor=5e4, spread=(0.5, 1.0, 2.0)):
    return {b: [factor * b**-exponent * s for s in spread] for b in batches}


def test_a_power_law_is_recovered():
    found = power_law(law((4, 16, 32, 256)))
    value, low, high = found["exponent"]
    assert value == pytest.approx(0.7) and low < 0.7 < high and low > 0
    assert found["factor"] == pytest.approx(5e4) and found["off"] == pytest.approx(1)
    assert found["batches"] == [4, 16, 32, 256] and found["left_out"] == []
    exact = power_law(law((256, 4, 16), spread=(1.0,)))
    assert exact["exponent"] == pytest.approx([0.7, -INF, INF]) and exact["batches"] == [4, 16, 256]


def test_how_far_off_a_power_law_is():
    found = power_law({1: [8.0], 2: [8.0], 4: [2.0]})  # the line through 3, 3, 1 at 0, 1, 2 is 10/3 - x
    assert found["exponent"][0] == pytest.approx(1) and found["factor"] == pytest.approx(2 ** (10 / 3))
    assert found["off"] == pytest.approx(2 ** (2 / 3))


def test_batches_with_a_censored_run_are_left_out_as_a_whole():
    runs = law((4, 16, 32, 256)) | {8: [1.0, 2.0, INF], 64: [INF]}
    found = power_law(runs)
    assert found["exponent"] == power_law(law((4, 16, 32, 256)))["exponent"]
    assert found["batches"] == [4, 16, 32, 256] and found["left_out"] == [8, 64]
    found = power_law(law((4, 16)) | {8: [INF, 3.0]})
    assert found == {"exponent": None, "factor": None, "batches": [4, 16], "left_out": [8], "off": None}


RUNS = {"unbiased": [800, 1400, 1000], "biased": [400, 300, 450], "pair": [220, 150, 180]}


def hand_made(batches=(), **changes):
    """Rows of the runs above, with changes: None for a run still at chance, no list for a condition that is missing."""
    runs = [(c, 64, left) for c, group in {**RUNS, **changes}.items() for left in enumerate(group or [])]
    runs += [("unbiased", b, left) for b, group in dict(batches).items() for left in enumerate(group)]
    found = []
    for condition, batch, (seed, left) in runs:
        curve = {"curve_steps": [50, left or 10_000], "curve": [0.1, 0.3 if left else 0.12]}
        row = {"condition": condition, "batch": batch, "seed": seed, "left": left, "maximum": 10_000, **curve}
        found.append({**row, "value": left or 10_000, "last": curve["curve"][-1]})
    return found


def test_summary_of_hand_made_rows():
    found = summarise(Settings(), hand_made())
    assert found["verdict"] == "beyond" and not found["ratio_is_bound"] and found["power_law"] is None
    points = found["conditions"]
    assert {c: p["median"] for c, p in points.items()} == {"unbiased": 1000, "biased": 400, "pair": 180}
    assert points["biased"]["lengths"] == [300, 400, 450] and points["biased"]["last"] == pytest.approx(0.3)
    assert points["biased"]["ratio"] == pytest.approx([0.4, 300 / 1400, 450 / 800])
    assert points["pair"]["ratio"] == pytest.approx([0.18, 150 / 1400, 220 / 800])
    assert found["words"] == (
        "median steps until unseen accuracy exceeds .25: unbiased 1,000; 90 % biased 400 (0.40 [0.21, 0.56] of the "
        "unbiased); pair token 180 (0.18 [0.11, 0.28] of the unbiased)"
    )


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"biased": [500] * 3, "pair": [200] * 3}, "beyond"),
        ({"biased": [501] * 3}, "not reproduced"),  # whatever the pair token does
        ({"pair": [201] * 3}, "reproduced"),
        ({"pair": None}, "reproduced"),
        ({"pair": [None, None, 150]}, "reproduced"),
        ({"biased": [300, 400, None]}, "beyond"),  # the median is known
        ({"biased": [None, 400, None]}, "not reproduced"),  # known to be longer than the unbiased ones
        ({"biased": None}, "open"),
        ({"unbiased": None}, "open"),
        ({"unbiased": [1000], "biased": [450], "pair": [300]}, "reproduced"),
    ],
)
def test_each_part_of_the_rule_decides(changes, verdict):
    assert summarise(Settings(), hand_made(**changes))["verdict"] == verdict


def test_a_control_still_at_chance_bounds_the_ratios():
    found = summarise(Settings(), hand_made(unbiased=[None, 9000, None]))
    assert found["ratio_is_bound"] and found["conditions"]["unbiased"]["median"] == INF
    assert found["conditions"]["unbiased"]["at_chance"] == 2
    assert found["conditions"]["biased"]["ratio"][0] == pytest.approx(400 / 10_000)
    assert "unbiased > 10,000, 2 of 3 still at chance; 90 % biased 400 (at most 0.04 " in found["words"]
    found = summarise(Settings(), hand_made(unbiased=[None, 9000, 8000]))
    assert not found["ratio_is_bound"] and "at most" not in found["words"]
    assert found["conditions"]["biased"]["ratio"][0] == pytest.approx(400 / 9000)


BATCHES = {b: [round(64_000 / b * s) for s in (0.8, 1, 1.25)] for b in (16, 32, 128)}


def test_summary_of_batch_sizes():
    found = summarise(Settings(), hand_made(BATCHES, unbiased=[800, 1250, 1000]))
    assert list(found["batches"]) == [16, 32, 64, 128]
    assert found["batches"][16] == {"median": 4000, "at_chance": 0, "maximum": 10_000}
    assert found["power_law"]["exponent"][0] == pytest.approx(1) and "Steps fall as batch^-1.00 [" in found["words"]
    assert found["conditions"]["unbiased"]["lengths"] == [800, 1000, 1250], "of its own batch size alone"
    found = summarise(Settings(), hand_made({**BATCHES, 8: [7000, None]}, unbiased=[800, 1250, 1000]))
    assert found["power_law"]["left_out"] == [8] and found["power_law"]["exponent"][0] == pytest.approx(1)
    assert found["words"].endswith("over [16, 32, 64, 128]; no fit of batches [8], where a run was still at chance")


PARTIAL = {
    "all": hand_made(BATCHES, **{c: [600, 700, None] for c in CONDITIONS if c not in RUNS}),
    "one seed": hand_made(unbiased=[1000], biased=[400], pair=[180]),
    "one run": hand_made(unbiased=[1000], biased=None, pair=None),
    "no control": hand_made(unbiased=None),
    "all at chance": hand_made(unbiased=[None] * 3, biased=[None], pair=[None] * 2),
    "two batches": hand_made({16: [None, 4000]}, biased=None),
    "control of other batches": hand_made(BATCHES, unbiased=None, pair=None),
}


@pytest.mark.parametrize("what", PARTIAL)
def test_partial_results_have_a_table_and_a_picture(what, tmp_path):
    rows = PARTIAL[what]
    made = as_json({"rows": rows, "summary": summarise(Settings(), rows), "settings": Settings()})
    result = json.loads(json.dumps(finite_or_null(made), allow_nan=False))
    assert "nan" not in result["summary"]["words"] and "None" not in result["summary"]["words"]
    lines = plateau.table(result).splitlines()
    assert "nan" not in "".join(lines) and "None" not in "".join(lines)
    counts = Counter(r["condition"] for r in rows if r["batch"] == 64)
    for line, c in zip(lines[1:], [c for c in CONDITIONS if c in counts], strict=False):
        assert line.startswith(CONDITIONS[c][0]) and line[22:].split()[0] == str(counts[c])
    assert ("shares are upper bounds" in plateau.table(result)) == (what == "all at chance")
    plateau.draw(result, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def tiny(settings, cell):
    base = plateau.config(settings, cell)
    return dataclasses.replace(
        base, family=dataclasses.replace(base.family, length=6), learner=MLPConfig(4), eval_tasks=2, eval_sequences=2,
        steps_per_call=1, checkpoint_every=2,
    )  # fmt: skip


def test_runs_end_where_they_leave_chance_and_are_not_run_again(tmp_path, monkeypatch, shared_programs):
    monkeypatch.setattr(suite, "load", lambda module: plateau.EXPERIMENT._replace(config=tiny))
    for level, condition, steps, left in ((2.0, "unbiased", [1, 2, 3, 4], None), (-1.0, "biased", [1], 1)):
        settings = Settings((condition,), 1, steps=4, batch=2, batches=(), batch_steps=(), evaluate_every=1)
        monkeypatch.setattr(plateau, "LEVEL", level)
        out = tmp_path / condition
        result = suite.run("experiments.in_context.plateau.experiment", settings, out, workers=0, watch=Recorded())
        lines = read_metrics(open_run(out / "cells" / f"condition-{condition},batch-2,seed-0"))
        found = read_evaluations(lines)
        (row,) = result["rows"]
        assert (row["condition"], row["left"], row["value"]) == (condition, left, steps[-1])
        assert [step for step, _ in found] == row["curve_steps"] == steps
        assert row["last"] == found[-1][1]["unseen_score"] and row["maximum"] == 4
        assert result["summary"]["ratio_is_bound"] == (left is None)
        assert result["summary"]["verdict"] == "open", "one condition alone"
        assert result["failed"] == {} and (out / "plateau.png").exists() and plateau.table(result) != ""

    def never(*args, **kwargs):
        raise AssertionError("a run that has left chance is run again")

    monkeypatch.setattr(suite, "meta_train", never)
    assert suite.run("experiments.in_context.plateau.experiment", settings, out, workers=0, watch=Recorded())[
        "rows"
    ] == [row]
    for path in (*out.glob("sweep.db*"), out / "result.json"):  # as if killed before either said so
        path.unlink()
    again = suite.run("experiments.in_context.plateau.experiment", settings, out, workers=0, watch=Recorded())
    assert again["rows"] == [row] and again["failed"] == {}
