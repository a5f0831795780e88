"""The gallery page and the compute of an experiment, from results made by hand."""

import functools
import json
import shlex

import numpy as np
import pytest

from experiments.catalogue import ROOT
from experiments.in_context.settings import small_config
from experiments.in_context.transition import EXPERIMENT, PRESETS, Settings
from experiments.suite import compute, gallery, results
from experiments.suite.command_line import parse, run_command
from metalearn.errors import RunError
from metalearn.recipes.in_context.config import to_json
from metalearn.runs.folder import create_run
from metalearn.runs.json_values import as_json
from metalearn.sweeps import Record, cell_name


def rows(settings):
    """Runs that learn to learn from 2^7 tasks on, each seed a little different."""
    found = []
    for cell in EXPERIMENT.cells(settings):
        gain = {"seen": 0.6 * (cell["exponent"] >= 5), "unseen": 0.6 * (cell["exponent"] >= 7)}
        row = {"value": gain["unseen"]}
        for kind, g in gain.items():
            last = 0.1 + g + 0.001 * cell["seed"]
            row |= {f"{kind}_first": 0.1, f"{kind}_last": last, f"{kind}_improvement": last - 0.1}
            row[f"{kind}_curve"] = np.linspace(0.1, last, 50).tolist()
        found.append((cell, row))
    return found


def result(settings, preset, time="2026-01-01T00:00:00+0000", failed=()):
    made = json.loads(summary(settings, preset, tuple(failed))) | {"seconds": 90.0, "workers": 2}
    made["environment"] |= {"time": time, "command": ["/home/somebody/x.py"]}
    return made


@functools.cache  # bootstraps take a second
def summary(settings, preset, failed):
    records = [
        Record(
            cell_name(c), c, "failed" if i in failed else "done", 0.5, 10, r, 30.0, error="no" if i in failed else None
        )
        for i, (c, r) in enumerate(rows(settings))
    ]
    return json.dumps(results.make_result(EXPERIMENT, settings, preset, records))


def keep(folder, made):
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(made))


def test_page_shows_each_preset_with_its_words_and_survives_the_runs(tmp_path):
    options = gallery.Options(tmp_path / "runs", tmp_path / "docs")
    keep(tmp_path / "runs/transition-quick", result(PRESETS["quick"], "quick", "2026-02-02T00:00:00+0000"))
    keep(tmp_path / "runs/transition-standard", result(Settings(), "standard", failed=[3]))
    keep(tmp_path / "runs/transition-mine", result(Settings(seeds=1), "standard", "2026-03-03T00:00:00+0000"))
    notes = []
    page = gallery.write_page(options, notes.append).read_text()
    assert notes == ["transition: quick, reproduced", "transition: standard, reproduced"]
    words = result(Settings(), "standard", failed=[3])["summary"]["words"]
    assert f"**Reproduced.** {words[0].upper()}{words[1:]}." in page
    assert page.index("experiments transition quick`; ") < page.index("experiments transition standard`; 61 runs, 1 of")
    assert "- Time: 1m30s; 30m30s of single workers in all" in page
    assert page.count(f"Claim: {EXPERIMENT.claim}.") == page.count("## From memorising") == 1
    assert "Not run yet: phase_diagram, state_size, plateau, generalisation, recurrent, mechanism." in page
    for preset in ("quick", "standard"):
        assert f"(transition-{preset}.png)" in page
        assert (tmp_path / f"docs/transition-{preset}.png").read_bytes()[:4] == b"\x89PNG"
        assert "somebody" not in (tmp_path / f"docs/results/transition-{preset}.json").read_text()
    (tmp_path / "runs").rename(tmp_path / "gone")  # from the copies alone, the same page
    assert gallery.write_page(options).read_text() == page


def test_of_two_results_the_newer_is_shown(tmp_path):
    options = gallery.Options(tmp_path / "runs", tmp_path / "docs")
    made = result(Settings(), "standard", failed=[3])
    for day, cells in ((3, 63), (2, 62)):
        time = {**made["environment"], "time": f"2026-02-0{day}T00:00:00+0000"}
        keep(tmp_path / f"runs/transition-{day}", {**made, "environment": time, "cells": cells})
    page = gallery.write_page(options).read_text()
    assert "; 63 runs" in page and "62 runs" not in page


def test_settings_of_ones_own_are_said(tmp_path):
    options = gallery.Options(tmp_path / "runs", tmp_path / "docs")
    keep(tmp_path / "runs/transition-mine", result(Settings(seeds=1), "standard"))
    keep(tmp_path / "runs/transition-quick", result(PRESETS["quick"], "quick"))
    page = gallery.write_page(options).read_text()
    assert "`python -m experiments transition standard --seeds 1`; 47 runs." in page and "transition quick`; " in page
    made = result(PRESETS["quick"], "quick")
    assert gallery.changed_options(
        {**made, "settings": {**made["settings"], "first_seed": 7, "exponents": [0, 8]}}
    ) == (" --exponents 0 8 --first-seed 7")
    assert gallery.changed_options({**made, "settings": {**made["settings"], "exponents": []}}) == " --exponents"


@pytest.mark.parametrize("path", sorted((ROOT / "docs/results").glob("*.json")), ids=lambda path: path.stem)
def test_results_in_the_documentation_are_read_and_their_command_gives_their_settings(path):
    made = results.read_result(path)
    name, preset = made["experiment"], made["preset"]
    command = f"python -m experiments {name} {preset}{gallery.changed_options(made)}"
    assert path.stem == f"{name}-{preset}" and f"`{command}`; " in (ROOT / "docs/gallery.md").read_text()
    assert parse(name, shlex.split(command)[4:]).options.settings == results.read_settings(made)


def test_the_page_says_what_todays_code_makes_of_the_rows(tmp_path):
    options = gallery.Options(tmp_path / "runs", tmp_path / "docs")
    made = result(PRESETS["quick"], "quick")
    old = {**made["summary"], "verdict": "beyond", "words": "as an older version said it"}
    keep(tmp_path / "runs/transition-quick", {**made, "summary": old})
    page = gallery.write_page(options).read_text()
    assert "older version" not in page and "**Reproduced.**" in page
    assert json.loads((tmp_path / "docs/results/transition-quick.json").read_text())["summary"] == made["summary"]


def test_nothing_to_show_and_another_version(tmp_path):
    options = gallery.Options(tmp_path / "runs", tmp_path / "docs")
    with pytest.raises(RunError, match=r"run one first, such as python -m experiments transition quick"):
        gallery.write_page(options)
    keep(tmp_path / "runs/transition-quick", {**result(PRESETS["quick"], "quick"), "format": 0})
    with pytest.raises(RunError, match="another version \\(format 0, this one reads 1\\)"):
        gallery.write_page(options)
    assert not (tmp_path / "docs").exists()


def test_operations_of_all_cells(tmp_path, monkeypatch):
    settings = Settings((0, 3), 1, (7,), 2)
    made = as_json(result(settings, "quick"))
    made["rows"].pop()  # a cell that failed
    keep(tmp_path / "x", made)
    for cell in EXPERIMENT.cells(settings)[:-1]:
        run = create_run(tmp_path / "x/cells" / cell_name(cell), to_json(EXPERIMENT.config(settings, cell)))
        run.metrics.write_text("".join(json.dumps({"step": s, "loss": 1.0}) + "\n" for s in (50, 100)))
    monkeypatch.setattr(compute, "flops_per_step", lambda config: 1e3 if config.family.num_tasks > 1 else None)
    monkeypatch.setattr(compute, "peak_flops", lambda dtype: 1e4)
    found = compute.compute_cost(tmp_path / "x")
    assert found["flops"] == 2 * 100 * 1e3 and found["uncounted"] == 1
    assert found["share"] == pytest.approx(2e5 / (4 * 30.0 / 2) / 1e4)
    assert (
        compute.format_compute(found)
        == "2e+05 operations in 1m00s of 2 workers, 33.3 % of the machine's peak; 1 runs are not counted"
    )


def test_of_a_copy_the_peak_is_measured_once_more(tmp_path, monkeypatch, capsys):
    made = as_json(result(Settings((0,), 1, (), 1), "quick"))
    path = tmp_path / "transition-quick.json"
    path.write_text(json.dumps(made))
    words = [str(path)]
    assert (
        run_command("compute", words) == 1
        and "were never counted: name the folder with its runs" in capsys.readouterr().err
    )
    old = {"flops": 3e5, "uncounted": 0, "seconds": 1.0, "workers": 1, "peak": 1.0, "share": 3.0}
    path.write_text(json.dumps({**made, "compute": old}))
    monkeypatch.setattr(compute, "peak_flops", lambda dtype: 1e5)
    assert run_command("compute", words) == 0
    found = json.loads(path.read_text())["compute"]
    assert (found["flops"], found["peak"]) == (3e5, 1e5)
    assert found["share"] == pytest.approx(3e5 / (30.0 / 2) / 1e5)


def test_a_share_above_one_is_refused_and_nothing_is_kept(tmp_path, monkeypatch, capsys):
    settings = Settings((0,), 1, (), 1)
    keep(tmp_path / "x", as_json(result(settings, "quick")))
    before = (tmp_path / "x/result.json").read_bytes()
    for cell in EXPERIMENT.cells(settings):
        run = create_run(tmp_path / "x/cells" / cell_name(cell), to_json(EXPERIMENT.config(settings, cell)))
        run.metrics.write_text(json.dumps({"step": 90, "loss": 1.0}) + "\n")
    monkeypatch.setattr(compute, "flops_per_step", lambda config: 1e3)
    monkeypatch.setattr(compute, "peak_flops", lambda dtype: 1e3)
    words = [str(tmp_path / "x")]
    assert run_command("compute", words) == 1
    assert "would be 600 % of this machine's peak, so the peak was measured too low" in capsys.readouterr().err
    assert (tmp_path / "x/result.json").read_bytes() == before


def test_configurations_that_differ_in_data_alone_are_counted_once():
    compute._flops_per_step.cache_clear()
    flops = {
        compute.flops_per_step(small_config(seed, 100, width=8, num_tasks=tasks)) for seed, tasks in ((0, 2), (1, 64))
    }
    assert len(flops) == 1 and compute._flops_per_step.cache_info().misses == 1
    # 64 sequences of 50 tokens: at least the products with the weights, thrice for forward and backward
    weights = 42 * 8 + 2 * (4 * 8 * 16 + 8 * 8 * 8) + 8 * 10
    assert flops.pop() > 3 * 2 * 64 * 50 * 0.9 * weights
