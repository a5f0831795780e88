"""The phase diagram: cells, configurations, phases by rule, summaries of hand-made rows, pictures of partial ones."""

import dataclasses
import json
import math

import numpy as np
import pytest

from experiments.in_context.phase_diagram import experiment as phase_diagram
from experiments.in_context.phase_diagram.experiment import PRESETS, Settings, phase, summarise
from experiments.in_context.settings import small_config
from experiments.suite import run as suite
from experiments.suite.experiment import Trained
from metalearn.runs.json_values import as_json, finite_or_null
from metalearn.sweeps import cell_name
from metalearn_models.learners.contextless import MLPConfig
from tests.experiments.in_context.toys import tiny_config
from tests.metalearn.sweeps.sweep_cells import Recorded


@pytest.mark.parametrize(
    "preset, count",
    [
        ("quick", 2 * 4 * 9 + 2 * 9),
        ("standard", 2 * 3 * 7 + 2 * 7),
        ("long", 3 * 2 * 4 + 2 * 4),
        ("paper", 3 * 9 * 12 + 5 * 12),
    ],
)
def test_presets_have_a_cell_a_seed_and_one_of_the_control(preset, count):
    settings = PRESETS[preset]
    found = phase_diagram.cells(settings)
    assert len(found) == len({tuple(c.items()) for c in found}) == count
    assert {c["seed"] for c in found if c["learner"] == "mlp"} == {0}
    assert [c["seed"] for c in found] == sorted(c["seed"] for c in found)
    without = phase_diagram.cells(Settings(mlp_widths=()))
    assert {c["learner"] for c in without} == {"transformer"} and len(without) == 2 * 3 * 7


def test_configurations():
    cell = {"learner": "transformer", "width": 16, "exponent": 7, "seed": 1}
    found = phase_diagram.config(Settings(), cell)
    plain = small_config(1, 8000, 16, 128)
    assert found.outer_optimizer.learning_rate == phase_diagram.RATE
    assert dataclasses.replace(found, outer_optimizer=plain.outer_optimizer) == plain
    assert (found.seed, found.family.seed, found.family.num_tasks, found.learner.width) == (1, 1, 128, 16)
    control = phase_diagram.config(Settings(), {**cell, "learner": "mlp"})
    assert control.learner == MLPConfig(hidden=16)
    assert (control.seed, control.family, control.steps, control.outer_optimizer) == (
        1,
        plain.family,
        8000,
        plain.outer_optimizer,
    )
    paper = phase_diagram.config(PRESETS["paper"], {**cell, "width": 512})
    assert (paper.learner.width, paper.data.source, paper.family.num_tasks, paper.steps) == (512, "mnist", 128, 50_000)


def test_what_is_measured():
    scores = {"seen": np.full((2, 20), 0.8), "unseen": np.full((2, 20), 0.3)}
    found = phase_diagram.measure(Settings(), {}, Trained(small_config(0, 5), scores, [], None))  # pyright: ignore
    assert found["value"] == found["unseen_last"] == pytest.approx(0.3)
    assert found["seen_last"] == pytest.approx(0.8) and found["unseen_improvement"] == pytest.approx(0)


@pytest.mark.parametrize(
    ("seen_last", "seen_gain", "unseen_gain", "name"),
    [
        (0.14, 0.04, 0.04, "nothing learned"),
        (0.16, 0.04, 0.0, "task memorisation"),
        (0.99, 0.04, 0.04, "task memorisation"),
        (0.99, 0.06, 0.0, "task identification"),
        (0.7, 0.6, 0.29, "task identification"),  # less than half of what is learned on seen tasks
        (0.7, 0.6, 0.31, "learning to learn"),
        (0.16, 0.06, 0.06, "learning to learn"),
        (0.99, 0.0, 0.3, "task memorisation"),
    ],
)
def test_phases_by_the_rule(seen_last, seen_gain, unseen_gain, name):
    assert phase({"seen_last": seen_last, "seen_improvement": seen_gain, "unseen_improvement": unseen_gain}) == name


def row(learner, width, exponent, seed, seen, seen_gain, unseen):
    return {
        "learner": learner, "width": width, "exponent": exponent, "seed": seed, "seen_last": seen,
        "seen_first": seen - seen_gain, "seen_improvement": seen_gain, "unseen_first": 0.1, "unseen_last": unseen,
        "unseen_improvement": unseen - 0.1,
    }  # fmt: skip


SETTINGS = Settings((4, 16), (0, 4, 6, 8, 10), 2, (8, 64))
SEEN = {0: 0.9, 4: 0.9, 6: 0.9, 8: 0.7, 10: 0.7}
GAIN = {0: 0.0, 4: 0.3, 6: 0.5, 8: 0.6, 10: 0.6}
SHARES = {4: {0: 0, 4: 0.25, 6: 0.75, 8: 1, 10: 1}, 16: {0: 0, 4: 0, 6: 0.2, 8: 0.8, 10: 1}}


def hand_made(shares=SHARES, gain=GAIN, control=0.1, spread=0.0, more=0.0):
    """Of what is learned a share holds on unseen tasks, half of it at 2^5 tasks at width 4 and at 2^7 at width 16."""
    rows = []
    for c in phase_diagram.cells(SETTINGS):
        learner, width, e, seed = c["learner"], c["width"], c["exponent"], c["seed"]
        if learner == "mlp":
            rows.append(row(learner, width, e, seed, 0.9 if width == 64 else 0.12, 0.0, control if e >= 6 else 0.1))
        else:
            middle = 0 < shares[width][e] < 1
            share = shares[width][e] + (spread + more * (width == 16)) * (2 * seed - 1) * middle
            rows.append(row(learner, width, e, seed, SEEN[e], gain[e], 0.1 + share * (SEEN[e] - 0.1)))
    return rows


def test_summary_of_hand_made_rows():
    found = summarise(SETTINGS, hand_made(spread=0.05))
    assert found["verdict"] == "reproduced"
    assert found["transitions"][4][0] == pytest.approx(5) and found["transitions"][16][0] == pytest.approx(7)
    # both seeds at 2^4 and 2^6 drawn alike moves the place of width 4 by a fifth of a power: 2 * .05 / .5
    assert found["transitions"][4][1:] == pytest.approx([4.8, 5.2])
    # seed by seed: both places move alike with the seed where both curves are as steep, and width 16's is steeper
    slopes = {4: 0.25, 16: 0.3}  # share gained a power of two around the place
    half = 12.706 * abs(0.05 / slopes[4] - 0.05 / slopes[16])  # Student's t, two values this far from their mean
    assert found["apart"] == pytest.approx([2, 2 - half, 2 + half], abs=2e-3)
    maps = found["maps"]["transformer"]
    assert maps["widths"] == [4, 16] and maps["exponents"] == [0, 4, 6, 8, 10]
    assert maps["seen_last"][1] == pytest.approx([0.9, 0.9, 0.9, 0.7, 0.7])
    assert maps["unseen_last"][1] == pytest.approx([0.1, 0.1, 0.1 + 0.2 * 0.8, 0.1 + 0.8 * 0.6, 0.7])
    names = {"M": "task memorisation", "I": "task identification", "L": "learning to learn", "-": "nothing learned"}
    assert maps["phase"] == [[names[x] for x in "MILLL"], [names[x] for x in "MIILL"]]
    assert found["maps"]["mlp"]["phase"] == [5 * [names["-"]], 5 * [names["M"]]]
    for text in (
        "2^5.0 tasks [2^4.8, 2^5.2] at width 4, 2^7.0 tasks",
        "the phases of width 16 with ever more tasks are M I I L L",
        "from width 4 to 16 this moves by +2.00 powers of two [+1.", "is 0.100, chance 0.1",
    ):  # fmt: skip
        assert text in found["words"]


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"control": 0.14}, "reproduced"),
        ({"control": 0.16}, "not reproduced"),  # the control is better than chance on unseen tasks
        ({"shares": {**SHARES, 16: SHARES[4]}}, "open"),  # larger models memorise no more, and no less
        ({"shares": {**SHARES, 16: {**SHARES[4], 4: 0.125, 6: 0.625}}}, "reproduced"),  # apart by half a power
        ({"shares": {**SHARES, 16: {**SHARES[4], 4: 0.135, 6: 0.635}}}, "open"),  # by less
        ({"shares": {4: SHARES[16], 16: SHARES[4]}}, "not reproduced"),
        ({"more": 0.05}, "open"),  # apart by 2 in the mean, but two seeds that differ cannot say so
        ({"shares": {**SHARES, 16: dict.fromkeys(GAIN, 0)}}, "not reproduced"),  # never learns to learn
        ({"gain": {**GAIN, 0: 0.3}}, "not reproduced"),  # nothing is memorised
        ({"gain": {**GAIN, 0: 0.3, 4: 0.0}}, "not reproduced"),  # all phases, out of order
    ],
)
def test_each_part_of_the_rule_decides(changes, verdict):
    assert summarise(SETTINGS, hand_made(**changes))["verdict"] == verdict


def test_of_two_phases_the_one_of_most_seeds_counts_and_of_equally_many_the_lesser():
    gains = (0.6, 0.6, 0.0)
    rows = [row("transformer", 16, 8, seed, 0.7, 0.6, 0.1 + gain) for seed, gain in enumerate(gains)]
    assert summarise(SETTINGS, rows)["maps"]["transformer"]["phase"] == [["learning to learn"]]
    assert summarise(SETTINGS, rows[1:])["maps"]["transformer"]["phase"] == [["task identification"]]


def test_memory_ends_where_accuracy_on_seen_tasks_falls_to_one_half():
    seen = {8: (0.9, 0.7, 0.4, 0.2), 16: (1.0, 0.9, 0.6, 0.55), 4: (0.4, 0.3, 0.2, 0.1)}
    rows = [
        row("mlp", width, e, seed, value + spread, 0.0, 0.1)
        for width, values in seen.items()
        for e, value in zip((0, 2, 4, 6), values, strict=True)
        for seed, spread in enumerate((-0.03, 0.03))
    ]
    found = summarise(SETTINGS, rows)
    memory = found["memory"]["mlp"]
    assert memory[8] == pytest.approx([2 + 2 * 0.2 / 0.3, 2 + 2 * 0.17 / 0.3, 2 + 2 * 0.23 / 0.3])
    assert memory[16][0] == math.inf and memory[4][0] == -math.inf
    words = (
        "half is right on seen tasks of the control up to 2^3.3 tasks [2^3.1, 2^3.5] at width 8, everywhere at width 16"
    )
    assert words in found["words"]


def test_a_width_that_learns_nothing_has_no_transition():
    rows = hand_made()
    for r in rows:
        if r["learner"] == "transformer" and r["width"] == 4:
            r.update(seen_last=0.14, seen_improvement=0.04, unseen_last=0.13, unseen_improvement=0.03)
    found = summarise(SETTINGS, rows)
    assert found["transitions"][4][0] == math.inf and found["transitions"][16][0] == pytest.approx(7)
    assert np.isnan(found["apart"]).all() and found["verdict"] == "open"
    assert "nowhere at width 4" in found["words"]


PARTIAL = {
    "all": lambda r: True,
    "one seed": lambda r: r["seed"] == 0,
    "no control": lambda r: r["learner"] == "transformer",
    "control alone": lambda r: r["learner"] == "mlp",
    "a hole": lambda r: (r["width"], r["exponent"]) not in ((16, 4), (64, 4)),
    "the narrow alone": lambda r: r["width"] in (4, 8),
    "one row": lambda r: (r["width"], r["exponent"], r["seed"]) == (16, 6, 0),
}


@pytest.mark.parametrize("what", PARTIAL)
def test_partial_results_have_a_verdict_a_table_and_a_picture(what, tmp_path):
    rows = [r for r in hand_made(spread=0.05) if PARTIAL[what](r)]
    result = as_json({"rows": rows, "summary": summarise(SETTINGS, rows)})
    result = json.loads(json.dumps(finite_or_null(result), allow_nan=False))
    verdict, words = result["summary"]["verdict"], result["summary"]["words"]
    assert verdict == ("reproduced" if what in ("all", "a hole") else "open")
    assert "nan" not in words and "inf" not in words
    assert ("; no control" in words) == (what in ("no control", "one row"))
    table = phase_diagram.table(result)
    cells = {(r["learner"], r["width"], r["exponent"]) for r in rows}
    assert table.count("/") == len(cells) + len({learner for learner, _, _ in cells})  # and one in each heading
    assert (what == "a hole") == (" " * 11 in table.splitlines()[-1])
    phase_diagram.draw(result, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_runs_end_to_end_at_toy_size(tmp_path, monkeypatch, shared_programs):
    monkeypatch.setattr(phase_diagram, "small_config", tiny_config)
    settings = Settings((8,), (0, 3), 1, (), steps=2)
    result = suite.run(
        "experiments.in_context.phase_diagram.experiment", settings, tmp_path, workers=0, watch=Recorded()
    )
    assert not result["failed"] and result["summary"]["verdict"] in ("open", "not reproduced")
    found = {(r["learner"], r["width"], r["exponent"]) for r in result["rows"]}
    assert found == {("transformer", 8, 0), ("transformer", 8, 3)}
    for r in result["rows"]:
        scores = json.loads((tmp_path / "cells" / cell_of(r) / "result.json").read_text())["curves"]
        assert r["unseen_last"] == pytest.approx(np.mean(scores["unseen"]["mean"][-10:]), abs=1e-6)
        assert r["seen_improvement"] == pytest.approx(r["seen_last"] - scores["seen"]["mean"][0], abs=1e-6)
    assert (tmp_path / "phase_diagram.png").stat().st_size > 10_000


def cell_of(row):
    return cell_name({key: row[key] for key in ("learner", "width", "exponent", "seed")})
