"""Sweeps in one process: plans, what a storage refuses, failures, halving, what a person sees."""

import io
import sqlite3
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from metalearn.errors import RunError
from metalearn.sweeps import Halving, Plan, Range, Record, cell_name, grid, open_sweep, run_sweep, sampled
from metalearn.sweeps.plan import named_cells
from metalearn.sweeps.watch import Lines, Table
from tests.metalearn import sweep_cells as cells


def swept(folder, run, plan=None, **options):
    options = {"workers": 0, "watch": cells.Recorded(), **options}
    return run_sweep(cells.plan(3) if plan is None else plan, cells.url(folder), run, **options)


def test_grid_is_every_combination_in_order():
    found = grid({"a": [1, 2], "b": ["x", "y"]})
    assert [list(c.values()) for c in found] == [[1, "x"], [1, "y"], [2, "x"], [2, "y"]]
    with pytest.raises(ValueError, match="the axis b of the grid has no values"):
        grid({"a": [1], "b": []})
    with pytest.raises(ValueError, match="names a value twice: 1, 2, 1"):
        grid({"a": [1, 2, 1]})


def test_random_draws_stay_in_their_ranges_and_more_of_them_go_on_from_fewer():
    axes = {"rate": Range(1e-4, 1e-1, log=True), "width": Range(2, 5, integer=True), "kind": ["x", "y"]}
    found = sampled(axes, 400, seed=3)
    assert found[:50] == sampled(axes, 50, seed=3) != sampled(axes, 50, seed=4)
    rates = np.asarray([c["rate"] for c in found])
    assert 1e-4 <= rates.min() and rates.max() <= 1e-1
    assert abs(np.log10(rates).mean() + 2.5) < 3 * 3 / 12**0.5 / 20  # uniform in the logarithm
    assert {c["width"] for c in found} == {2, 3, 4, 5} and {c["kind"] for c in found} == {"x", "y"}
    for axis, words in [
        (Range(2, 1), "from a lower to a higher number, got 2..1"),
        (Range(0, 1, log=True), "logarithms begins above 0, a begins at 0"),
        (Range(0.5, 2, integer=True), "has whole ends, a goes from 0.5 to 2"),
        ([], "the axis a has no values"),
    ]:
        with pytest.raises(ValueError, match=words):
            sampled({"a": axis}, 1, 0)
    with pytest.raises(ValueError, match="at least 1 trial, got 0"):
        sampled(axes, 0, 0)


def test_names_are_folders_and_tell_cells_apart():
    assert cell_name({"task.num_tasks": 64, "seed": 3, "on": True}) == "num_tasks-64,seed-3,on-true"
    near = [{"rate": 0.1}, {"rate": 0.1 + 1e-12}]  # what `:g` rounds away
    assert len(set(map(cell_name, near))) == 2 and cell_name(near[0]) == "rate-0.1"
    odd = [cell_name({"path": value}) for value in ("a/b", "a:b", "x" * 300, "x" * 301)]
    assert len(set(odd)) == 4 and all(len(n) <= 100 and "/" not in n for n in odd)
    with pytest.raises(ValueError, match="no cells"):
        named_cells([])
    with pytest.raises(ValueError, match="two cells are called a-1"):
        named_cells([{"a": 1}, {"a": 1}])


def test_a_cell_that_fails_stops_nobody_and_is_tried_again_by_the_next_call(tmp_path):
    tried = []

    def run(cell, report):
        tried.append(cell["a"])
        if cell["a"] == 1 and len(tried) <= 3:
            raise OSError("the disk is full")
        return {"value": 1.0, "loss": float("inf")}

    watch = cells.Recorded()
    found = swept(tmp_path, run, watch=watch)
    assert [(r.state, r.error) for r in found] == [
        ("done", None), ("failed", "OSError: the disk is full"), ("done", None),
    ]  # fmt: skip
    assert "a-1 failed: OSError: the disk is full" in watch.notes
    assert found[0].result == {"value": 1.0, "loss": None}  # JSON has no infinity
    assert [r.state for r in swept(tmp_path, run)] == ["done"] * 3
    assert [r.state for r in swept(tmp_path, run)] == ["done"] * 3 and tried == [0, 1, 2, 1]


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (None, "a run must return a mapping with a value, got NoneType"),
        ({"loss": 1.0}, "a run must return a finite number as its value, got None"),
        ({"value": float("nan")}, "a run must return a finite number as its value, got nan"),
    ],
)
def test_a_run_without_a_value_has_failed(tmp_path, returned, words):
    found = swept(tmp_path, lambda cell, report: returned, cells.plan(1))
    assert found[0].state == "failed" and words in str(found[0].error)


def test_ctrl_c_gives_the_cell_back(tmp_path):
    tried = []

    def run(cell, report):
        tried.append(cell["a"])
        if len(tried) == 2:
            raise KeyboardInterrupt
        return {"value": 0.0}

    with pytest.raises(KeyboardInterrupt):
        swept(tmp_path, run)
    assert ([r.state for r in swept(tmp_path, run)] == ["done"] * 3 and tried == [0, 1, 1, 2]) or tried == [0, 1, 2, 1]


def test_two_sweeps_of_one_name_with_different_configurations_or_cells(tmp_path):
    run = partial(cells.run, tmp_path, None)
    swept(tmp_path, run)
    other = cells.plan(3)._replace(config={"of": "others"})
    with pytest.raises(RunError, match=r"there is a sweep 'cells' with another plan.*(?s:.)*config\.of.*tests.*others"):
        swept(tmp_path, run, other)
    with pytest.raises(RunError, match="5 cells, 2 of them new: a-3, a-4"):
        swept(tmp_path, run, cells.plan(5))
    assert sorted(cells.ended(tmp_path)) == [0, 1, 2]


def test_another_version_and_a_study_that_is_no_sweep(tmp_path):
    import optuna

    swept(tmp_path, partial(cells.run, tmp_path, None))
    optuna.create_study(storage=cells.url(tmp_path), study_name="plain").optimize(lambda trial: 0.0, n_trials=1)
    with pytest.raises(RunError, match="holds a study 'plain' that is no sweep of metalearn: name yours another"):
        open_sweep(cells.plan(1, "plain"), cells.url(tmp_path))
    with sqlite3.connect(tmp_path / "sweep.db") as base:
        base.execute(
            """update study_user_attributes set value_json = replace(value_json, '"format": 1', '"format": 0')"""
        )
    with pytest.raises(RunError, match=r"begun by another version of metalearn \(format 0, this one has 1\)"):
        open_sweep(cells.plan(3), cells.url(tmp_path))


def test_storages_that_cannot_be_used_are_named_without_their_password(tmp_path):
    (tmp_path / "file.db").write_text("no database at all, but long enough to have a header of one" * 20)
    bad = {
        "nonsense": "cannot be used",
        "postgresql+nodriver://me:secret@localhost/x": "missing|cannot be used",
        f"sqlite:///{tmp_path / 'no' / 'folder' / 'x.db'}": "unable to open database file",
        f"sqlite:///{tmp_path / 'file.db'}": "file is not a database",
    }
    for url, words in bad.items():
        with pytest.raises(RunError, match=words) as error:
            open_sweep(cells.plan(1), url)
        assert "secret" not in str(error.value)


def test_halving_stops_what_is_behind_and_keeps_what_it_reported(tmp_path):
    def run(cell, report):
        for step in (1, 3, 9):
            report(step, float(cell["a"] * step), {"loss": -step})
        return {"value": float(cell["a"])}

    plan = Plan("halving", {}, grid({"a": [8, 7, 6, 5, 4, 3, 2, 1, 0]}))
    found = swept(tmp_path, run, plan, halving=Halving(1, 3))
    states = [r.state for r in found]
    assert states[0] == "done" and states.count("stopped early") >= 6 and set(states) == {"done", "stopped early"}
    stopped = found[-1]
    assert stopped.result == {"step": 1, "value": 0.0, "loss": -1, "stopped_early": True} and stopped.step == 1


RECORDS = [
    Record("a-0", {"a": 0}, "done", 0.5, 10, {"value": 0.5}, 61.0, "host:1"),
    Record("a-1", {"a": 1}, "running", 0.25, 5),
    Record("a-2", {"a": 2}, "failed", seconds=3.0, error="OSError: full"),
    Record("a-3", {"a": 3}, "waiting"),
]


def test_lines_tell_each_cell_once():
    out = io.StringIO()
    watch = Lines(out)
    watch.start("x", [r._replace(state="waiting") for r in RECORDS])
    for _ in range(2):
        watch.update(RECORDS)
    watch.close()
    first, *rest = out.getvalue().splitlines()
    assert first == "sweep x: 4 cells, 0 of them done before"
    assert rest[0] == "1/4  a-0: done, 0.5 after 1m01s"
    assert rest[1].startswith("2/4  a-2: failed, OSError: full after 3s; ") or rest[1].startswith("2/4  a-2: failed")
    assert len(rest) == 2


@pytest.mark.parametrize("found", [[RECORDS[3]], RECORDS, [RECORDS[0]]])
def test_the_live_table_shows_what_runs_and_what_ended(found):
    out = io.StringIO()
    watch = Table(out)
    watch.start("x", [RECORDS[3]] * len(found))
    watch.update(found)
    watch.note("a sentence")
    watch.close()
    text = out.getvalue()
    assert "a sentence" in text and all(r.name in text for r in found if r.state != "waiting")


def test_the_command_line_does_not_load_what_only_sweeps_need():
    code = "import metalearn, metalearn.cli.main, metalearn.sweeps, sys; print('optuna' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "False\n"
