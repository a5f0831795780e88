"""The transition: cells, configurations, the summary of hand-made rows, and pictures of partial results."""

import json
import math
from collections import Counter

import numpy as np
import pytest

from experiments.in_context import transition
from experiments.in_context.settings import format_tasks, published_config, small_config
from experiments.in_context.transition import PRESETS, Settings, summarise
from experiments.suite.experiment import Trained
from metalearn.runs.json_values import as_json, finite_or_null


@pytest.mark.parametrize("preset, count", [("quick", 4 + 3 * 3), ("standard", 7 * 3 + 5 * 8), ("paper", 6 * 3 + 5 * 8)])
def test_presets_have_a_cell_a_seed(preset, count):
    settings = PRESETS[preset]
    found = transition.cells(settings)
    assert len(found) == len({tuple(c.items()) for c in found}) == count
    seeds = Counter(c["exponent"] for c in found)
    assert {seeds[e] for e in settings.exponents} == {settings.seeds}
    assert {seeds[e] for e in settings.transition} == {settings.transition_seeds}
    everything = len({*settings.exponents, *settings.transition})
    assert {c["seed"] for c in found[:everything]} == {settings.first_seed}, "one seed of everything comes first"


def test_a_number_of_tasks_that_is_named_twice_has_the_seeds_of_the_transition():
    found = transition.cells(Settings((3, 4), 1, (4, 5), 3, first_seed=10))
    assert Counter(c["exponent"] for c in found) == {3: 1, 4: 3, 5: 3}
    assert {c["seed"] for c in found} == {10, 11, 12}


def test_configurations():
    found = transition.config(Settings(width=32, steps=900), {"exponent": 9, "seed": 5})
    assert (found.seed, found.family.seed, found.family.num_tasks, found.steps) == (5, 5, 512, 900)
    assert (found.learner.width, found.learner.key_size, found.learner.token) == (32, 8, "pair")
    assert found.data.source == "digits" and found.references == ()
    assert found == small_config(5, 900, 32, 512)
    paper = transition.config(PRESETS["paper"], {"exponent": 13, "seed": 2})
    assert (paper.learner.width, paper.learner.layers, paper.learner.token) == (256, 4, "paper")
    assert (paper.data.source, paper.data.size, paper.batch, paper.sequences) == ("mnist", 14, 16, 32)
    assert (paper.seed, paper.family.seed, paper.family.num_tasks, paper.steps) == (2, 2, 2**13, 50_000)
    assert paper.outer_optimizer.eps_root == 1e-8 and paper == published_config(2, 50_000, 256, 2**13)


def test_what_is_measured():
    curve = np.linspace(0, 0.29, 30)
    scores = {"seen": np.stack([curve, curve + 0.2]), "unseen": np.stack([curve, curve])}
    trained = Trained(small_config(0, 5), scores, [], None)  # pyright: ignore[reportArgumentType]
    found = transition.measure(Settings(), {"exponent": 0, "seed": 0}, trained)
    assert found["value"] == found["unseen_improvement"] == pytest.approx(0.245)
    assert found["seen_first"] == pytest.approx(0.1) and found["seen_last"] == pytest.approx(0.345)
    assert found["seen_curve"] == pytest.approx(curve + 0.1) and len(found["unseen_curve"]) == 30


SETTINGS = Settings((0, 2, 10, 12), 2, (4, 5, 6, 7, 8), 4)
SEEN = {0: 0.0, 2: 0.0, 4: 0.2, 5: 0.4, 6: 0.5, 7: 0.6, 8: 0.6, 10: 0.6, 12: 0.6}
UNSEEN = {0: [0], 2: [0], 4: [0], 5: [0], 6: [0.0, 0.0, 0.6, 0.6], 7: [0.6], 8: [0.6], 10: [0.6], 12: [0.6]}


def row(exponent, seed, seen, unseen):
    ends = {"seen_improvement": seen, "seen_first": 0.1, "seen_last": 0.1 + seen, "unseen_last": 0.1 + unseen}
    curves = {kind: np.linspace(0.1, 0.1 + gain, 20).tolist() for kind, gain in (("seen", seen), ("unseen", unseen))}
    curves = {f"{kind}_curve": curve for kind, curve in curves.items()}
    return {"exponent": exponent, "seed": seed, "unseen_improvement": unseen, "unseen_first": 0.1, **ends, **curves}


def hand_made(seen=SEEN, unseen=UNSEEN):
    """At 2^6 tasks two seeds in four have learned to learn, all with more, none with fewer."""
    cells = transition.cells(SETTINGS)
    return [row(c["exponent"], c["seed"], seen[c["exponent"]], np.resize(unseen[c["exponent"]], 4)[c["seed"]])
            for c in cells]  # fmt: skip


def test_summary_of_hand_made_rows():
    found = summarise(SETTINGS, hand_made())
    assert found["verdict"] == "reproduced" and found["plateau"] == pytest.approx(0.6)
    place, low, high = found["transition"]
    # the mean at 2^6 is exactly half the plateau; a draw of four may be all of one kind, which moves it by half a power
    assert place == pytest.approx(6) and low == pytest.approx(5.5) and high == pytest.approx(6.5)
    assert found["seen_improves_from"] == pytest.approx([3, 3, 3])  # .1 lies halfway from 0 at 2^2 to .2 at 2^4
    assert found["unseen_improves_from"][0] == pytest.approx(5 + 1 / 3)  # from 0 at 2^5 to .3 at 2^6
    assert found["lead"][0] == pytest.approx(2 + 1 / 3) and found["lead"][1] == pytest.approx(2 + 1 / 6)
    assert set(found["thirds"]) == {5, 6, 7} and found["thirds"][6] == [2, 0, 2]
    assert found["thirds"][5] == [4, 0, 0] and found["thirds"][7] == [0, 0, 4]
    assert found["points"][6]["unseen_improvement"][0] == pytest.approx(0.3)
    half = 3.1824 * 0.3 * (4 / 3) ** 0.5 / 2  # Student's t with 3 degrees of freedom
    assert found["points"][6]["unseen_improvement"][2] == pytest.approx(0.3 + half, abs=1e-4)
    for text in (
        "reaches half its plateau of 0.60 at 2^6.0 tasks [2^5.5, 2^6.5], is at most 0.000 up to 2^4, at least 0.600 "
        "from 2^8 on", "seen tasks improve by 0.1 from 2^3.0 tasks [2^3.0, 2^3.0] on",
        "seeds of one number of tasks end on either side of the middle third (4 below, 0 in, 0 above at 2^5; 2 below, "
        "0 in, 2 above at 2^6; 0 below, 0 in, 4 above at 2^7); those at 2^6 improve by 0.00, 0.00, 0.60, 0.60",
    ):  # fmt: skip
        assert text in found["words"]


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"unseen": {**UNSEEN, 2: [0.06]}}, "not reproduced"),  # learning to learn with few tasks already
        ({"unseen": {**UNSEEN, 2: [0.04]}}, "reproduced"),
        ({"unseen": {**UNSEEN, 10: [0.49]}}, "not reproduced"),  # not all the way with many
        ({"unseen": {**UNSEEN, 10: [0.51]}}, "reproduced"),
        ({"unseen": {e: [0.0] for e in UNSEEN}}, "not reproduced"),  # nowhere
        ({"seen": {e: float(np.mean(v)) for e, v in UNSEEN.items()}}, "open"),  # seen and unseen rise together
        ({"seen": {**dict.fromkeys(SEEN, 0.0), 10: 0.6, 12: 0.6}}, "not reproduced"),  # unseen before seen
    ],
)
def test_each_part_of_the_rule_decides(changes, verdict):
    assert summarise(SETTINGS, hand_made(**changes))["verdict"] == verdict


def test_seeds_in_the_middle_third_are_on_neither_side():
    between = {**UNSEEN, 6: [0.25, 0.3, 0.3, 0.35]}
    found = summarise(SETTINGS, hand_made(unseen=between))
    assert found["thirds"][6] == [0, 4, 0] and "do not end on either side" in found["words"]


def kept(what):
    chosen = {
        "all": lambda r: True, "one seed": lambda r: r["seed"] == 0, "no right": lambda r: r["exponent"] < 7,
        "no left": lambda r: r["exponent"] > 4, "one row": lambda r: r["exponent"] == 6 and r["seed"] == 0,
        "nothing learned": lambda r: r["exponent"] < 4,
    }[what]  # fmt: skip
    return [r for r in hand_made() if chosen(r)]


@pytest.mark.parametrize("what", ["all", "one seed", "no right", "no left", "one row", "nothing learned"])
def test_partial_results_are_open_and_have_a_table_and_a_picture(what, tmp_path):
    rows = kept(what)
    result = as_json({"rows": rows, "summary": summarise(SETTINGS, rows)})
    result = json.loads(json.dumps(finite_or_null(result), allow_nan=False))
    summary = result["summary"]
    assert summary["verdict"] == ("reproduced" if what == "all" else "open")
    assert "nan" not in summary["words"] and "inf" not in summary["words"]
    lines = transition.table(result).splitlines()[1:]
    seeds = Counter(r["exponent"] for r in rows)
    assert [line.split()[:2] for line in lines] == [[f"2^{e}", str(n)] for e, n in sorted(seeds.items())]
    assert ("[" in lines[0]) == (what not in ("one seed", "one row"))
    transition.draw(result, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_numbers_of_tasks_in_words():
    assert format_tasks([7.06, 6.61, math.inf]) == "2^7.1 tasks [2^6.6, ?]"
    assert format_tasks([7.06, -math.inf, math.inf]) == "2^7.1 tasks"
    assert format_tasks([math.inf] * 3) == format_tasks([math.nan] * 3) == "no number of tasks"
    assert format_tasks([-math.inf] * 3) == "the fewest tasks"
