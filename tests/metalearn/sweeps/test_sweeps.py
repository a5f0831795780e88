"""Sweeps in one process: plans, what a storage refuses, failures, halving, what a person sees."""

import contextlib
import datetime
import io
import os
import sqlite3
import subprocess
import sys
import threading
import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from metalearn.errors import RunError, RunLockedError
from metalearn.runs.json_values import as_json
from metalearn.sweeps import (
    Cell,
    Halving,
    Plan,
    Range,
    Record,
    cell_name,
    grid,
    open_sweep,
    random_search,
    read_records,
    run_sweep,
    study,
)
from metalearn.sweeps import watch as watching
from metalearn.sweeps.plan import cells_by_name
from metalearn.sweeps.storage import open_storage, storage_errors, storage_url
from metalearn.sweeps.study import RETRIES, enqueue_missing
from metalearn.sweeps.watch import Lines, Table, default_watch
from tests.metalearn.sweeps import sweep_cells as cells


def swept(folder, run, plan=None, **options):
    options = {"workers": 0, "watch": cells.Recorded(), **options}
    return run_sweep(cells.plan(3) if plan is None else plan, cells.url(folder), run, **options)


@contextlib.contextmanager
def database(folder):
    """The sweep's file as SQLite sees it; what is changed within is committed."""
    with contextlib.closing(sqlite3.connect(folder / "sweep.db")) as connection, connection:
        yield connection


def study_without_plan(folder, name):
    import optuna

    return optuna.create_study(storage=open_storage(cells.url(folder), 10, 60), study_name=name, direction="maximize")


def test_grid_is_every_combination_in_order():
    found = grid({"a": [1, 2], "b": ["x", "y"]})
    assert [list(c.values()) for c in found] == [[1, "x"], [1, "y"], [2, "x"], [2, "y"]]
    with pytest.raises(ValueError, match="the axis b of the grid has no values"):
        grid({"a": [1], "b": []})
    with pytest.raises(ValueError, match="has a value twice: 1, 2, 1"):
        grid({"a": [1, 2, 1]})


def test_random_draws_stay_in_their_ranges_and_more_of_them_go_on_from_fewer():
    axes = {"rate": Range(1e-4, 1e-1, log=True), "width": Range(2, 5, integer=True), "kind": ["x", "y"]}
    found = random_search(axes, 400, seed=3)
    assert found[:50] == random_search(axes, 50, seed=3) != random_search(axes, 50, seed=4)
    rates = np.asarray([c["rate"] for c in found])
    assert 1e-4 <= rates.min() and rates.max() <= 1e-1
    assert abs(np.log10(rates).mean() + 2.5) < 3 * 3 / 12**0.5 / 20  # uniform in the logarithm
    assert {c["width"] for c in found} == {2, 3, 4, 5} and {c["kind"] for c in found} == {"x", "y"}
    for axis, words in [
        (Range(2, 1), "from a lower to a higher number, got 2..1"),
        (Range(0, 1, log=True), "logarithms must begin above 0, a begins at 0"),
        (Range(0.5, 2, integer=True), "must have integer ends, a goes from 0.5 to 2"),
        ([], "the axis a has no values"),
    ]:
        with pytest.raises(ValueError, match=words):
            random_search({"a": axis}, 1, 0)
    with pytest.raises(ValueError, match="at least 1 trial, got 0"):
        random_search(axes, 0, 0)


def test_names_are_folders_and_tell_cells_apart():
    assert cell_name({"task.num_tasks": 64, "seed": 3, "on": True}) == "num_tasks-64,seed-3,on-true"
    near: list[Cell] = [{"rate": 0.1}, {"rate": 0.1 + 1e-12}]  # what `:g` rounds away
    assert len(set(map(cell_name, near))) == 2 and cell_name(near[0]) == "rate-0.1"
    odd = [cell_name({"path": value}) for value in ("a/b", "a:b", "x" * 300, "x" * 301)]
    assert len(set(odd)) == 4 and all(len(n) <= 100 and "/" not in n for n in odd)
    with pytest.raises(ValueError, match="no cells"):
        cells_by_name([])
    with pytest.raises(ValueError, match="two cells are called a-1"):
        cells_by_name([{"a": 1}, {"a": 1}])


def test_a_plan_is_compared_as_json():
    found = cells.plan(2)._replace(config={"halving": Halving(1), "path": ("a", 1)}).as_json()
    assert found == as_json(found) and found["config"] == {"halving": [1, 3], "path": ["a", 1]}
    assert (found["format"], found["name"], found["cells"]["count"]) == (1, "cells", 2)
    backwards = cells.plan(2)._replace(cells=cells.plan(2).cells[::-1]).as_json()
    assert backwards["cells"] != found["cells"] == cells.plan(2).as_json()["cells"]


def taken(sweep):
    """A trial that was taken, of which nothing is heard any more."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Heartbeat of storage")
        return sweep.study.ask()


def test_a_cell_whose_workers_vanish_is_given_up_until_the_next_call(tmp_path):
    import optuna

    sweep = open_sweep(cells.plan(1), cells.url(tmp_path))
    for _ in range(2):
        for lost in range(RETRIES + 1):
            assert read_records(sweep)[0].state == "waiting", lost
            sweep.study.tell(taken(sweep), state=optuna.trial.TrialState.FAIL)
            assert enqueue_missing(sweep) == (lost < RETRIES)
        [found] = read_records(sweep)
        assert (found.state, found.error) == ("failed", f"its worker vanished {RETRIES + 1} times")
        joined = open_sweep(cells.plan(1), cells.url(tmp_path), again=False)
        assert read_records(joined)[0].state == "failed"
        open_sweep(cells.plan(1), cells.url(tmp_path))


def test_a_try_that_vanished_before_its_first_sign_of_life_counts_as_dead_after_the_grace(tmp_path):
    sweep = open_sweep(cells.plan(1), cells.url(tmp_path), grace=60)
    taken(sweep)
    assert enqueue_missing(sweep) == 0
    earlier = (datetime.datetime.now() - datetime.timedelta(seconds=61)).isoformat(" ")
    with database(tmp_path) as base:
        base.execute("update trials set datetime_start = ?", (earlier,))
    assert enqueue_missing(sweep) == 1


def test_a_cell_is_run_after_its_first_sign_of_life(tmp_path, monkeypatch):
    """A worker that is killed before it would never count as dead, and its cell never end."""
    from optuna.storages import RDBStorage

    record, signs = RDBStorage.record_heartbeat, []

    def late(storage, trial_id):  # optuna's own thread comes too late
        if threading.current_thread() is threading.main_thread():
            record(storage, trial_id)

    monkeypatch.setattr(RDBStorage, "record_heartbeat", late)

    def run(cell, report):
        with database(tmp_path) as base:
            signs.extend(base.execute("select count(*) from trial_heartbeats").fetchone())
        return {"value": 0.0}

    swept(tmp_path, run)
    assert signs == [1, 2, 3]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are counted under /proc")
def test_no_connection_to_the_file_stays_open(tmp_path):
    def opened():
        links = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
        return [os.readlink(link) for link in links if os.path.islink(link) and "sweep.db" in os.readlink(link)]

    sweep = open_sweep(cells.plan(2), cells.url(tmp_path))
    assert opened() == []
    assert [r.state for r in swept(tmp_path, partial(cells.run, tmp_path, ()), cells.plan(2))] == ["done"] * 2
    assert len(read_records(sweep)) == 2 and opened() == []


def test_of_two_plans_of_one_cell_the_first_counts(tmp_path):
    """As of two that planned at the same moment."""
    sweep = open_sweep(cells.plan(2), cells.url(tmp_path))
    for name, cell in sweep.cells.items():
        sweep.study.enqueue_trial(cell, user_attrs={"cell": name})
    assert [r.state for r in swept(tmp_path, partial(cells.run, tmp_path, ()), cells.plan(2))] == ["done"] * 2
    assert cells.ended(tmp_path) == [0, 1]
    assert [t.state.name for t in sweep.study.get_trials()] == ["COMPLETE"] * 2 + ["PRUNED"] * 2


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


def test_a_cell_that_another_process_writes_waits_ever_longer_and_costs_no_try(tmp_path, monkeypatch):
    tried, slept, told = [], [], []
    watch = cells.Recorded(
        lambda found: told.extend((r.name, r.error) for r in found if r.state == "waiting" and r.error)
    )
    monkeypatch.setattr(sys.modules["metalearn.sweeps.work"], "time", SimpleNamespace(sleep=slept.append))

    def run(cell, report):
        tried.append(cell["a"])
        if cell["a"] == 0 and tried.count(0) <= RETRIES + 3:
            raise RunLockedError("written by another process (pid 7)")
        return {"value": cell["a"]}

    found = swept(tmp_path, run, watch=watch, grace=20)
    assert [(r.state, r.value) for r in found] == [("done", 0.0), ("done", 1.0), ("done", 2.0)]
    assert tried == [0, 1, 2] + [0] * (RETRIES + 3)
    assert slept == [2.0, 2.0, 4.0, 8.0, 16.0, 20]
    assert {reason for name, reason in told if name == "a-0"} == {"written by another process (pid 7)"}


def test_ctrl_c_gives_the_cell_back(tmp_path):
    tried = []

    def run(cell, report):
        tried.append(cell["a"])
        if len(tried) == 2:
            raise KeyboardInterrupt
        return {"value": 0.0}

    with pytest.raises(KeyboardInterrupt):
        swept(tmp_path, run)
    assert [r.state for r in swept(tmp_path, run)] == ["done"] * 3
    assert tried == [0, 1, 2, 1]
    trials = open_sweep(cells.plan(3), cells.url(tmp_path)).study.get_trials()
    assert [t.user_attrs.get("stopped") for t in trials] == [None, True, None, None]


def test_two_sweeps_of_one_name_with_different_configurations_or_cells(tmp_path):
    run = partial(cells.run, tmp_path, ())
    swept(tmp_path, run)
    other = cells.plan(3)._replace(config={"of": "others"})
    with pytest.raises(RunError) as error:
        swept(tmp_path, run, other)
    assert str(error.value) == (
        "there is a sweep 'cells' with another plan, old -> new: config.of: 'tests' -> 'others'. "
        "Use the old values, or another folder"
    )
    with pytest.raises(RunError) as error:
        swept(tmp_path, run, cells.plan(7)._replace(cells=cells.plan(7).cells[1:]))
    assert "cells: '3 cells, 1 of them gone: a-0' -> '6 cells, 4 of them new: a-3, a-4, a-5, ...'. Use" in str(
        error.value
    )
    with pytest.raises(RunError, match="halving: None -> "):
        swept(tmp_path, run, halving=Halving(1))
    assert sorted(cells.ended(tmp_path)) == [0, 1, 2]


def test_another_version_and_a_study_that_is_no_sweep(tmp_path):
    swept(tmp_path, partial(cells.run, tmp_path, ()))
    study_without_plan(tmp_path, "plain").optimize(lambda trial: 0.0, n_trials=1)
    with pytest.raises(RunError, match="holds a study 'plain' that is not a sweep of metalearn: choose another name"):
        open_sweep(cells.plan(1, "plain"), cells.url(tmp_path))
    with database(tmp_path) as base:
        base.execute(
            """update study_user_attributes set value_json = replace(value_json, '"format": 1', '"format": 0')"""
        )
    with pytest.raises(RunError, match=r"begun by another version of metalearn \(format 0, this version has 1\)"):
        open_sweep(cells.plan(3), cells.url(tmp_path))


def test_of_two_plans_that_come_at_once_one_is_refused(tmp_path, monkeypatch):
    made = study_without_plan(tmp_path, "cells")
    plans = {"halving": None, **cells.plan(4).as_json()}

    def sleep(seconds):  # the other worker goes on while this one waits
        made.set_user_attr("plan", plans)

    monkeypatch.setattr(study.time, "sleep", sleep)
    with pytest.raises(RunError, match="there is a sweep 'cells' with another plan"):
        open_sweep(cells.plan(3), cells.url(tmp_path))
    open_sweep(cells.plan(4), cells.url(tmp_path))


def test_who_made_the_study_and_slept_takes_the_plan_that_was_put_there_meanwhile(tmp_path, monkeypatch):
    import optuna

    create = optuna.create_study

    def stalled(**options):
        made = create(**options)
        made.set_user_attr("plan", {"halving": None, **cells.plan(4).as_json()})
        return made

    monkeypatch.setattr(optuna, "create_study", stalled)
    with pytest.raises(RunError, match="another plan"):
        open_sweep(cells.plan(3), cells.url(tmp_path))
    assert len(read_records(open_sweep(cells.plan(4), cells.url(tmp_path)))) == 4


def test_a_worker_killed_before_it_had_planned_is_replaced(tmp_path, monkeypatch):
    study_without_plan(tmp_path, "cells")
    monkeypatch.setattr(study.time, "sleep", lambda seconds: None)
    assert len(open_sweep(cells.plan(3), cells.url(tmp_path)).study.trials) == 3


def test_storages_that_cannot_be_used_are_named_without_their_password(tmp_path, monkeypatch):
    (tmp_path / "file.db").write_text("no database at all, but long enough to have a header of one" * 20)
    monkeypatch.setitem(sys.modules, "MySQLdb", None)  # not installed
    missing = (
        "the storage mysql://me:***@localhost/x needs a package that is missing: import of MySQLdb halted; None in "
        "sys.modules. Install the database's driver, or omit --storage to use an SQLite file"
    )
    nowhere, file = f"sqlite:///{tmp_path / 'no' / 'x.db'}", f"sqlite:///{tmp_path / 'file.db'}"
    right = (
        ". Use sqlite:///FILE in a writable folder, or the URL of a server that is running; what runs have saved in "
        "their folders is safe"
    )
    bad = {
        "mysql://me:secret@localhost/x": missing,
        "me:secret@host": "the storage me:***@host cannot be used: Could not parse SQLAlchemy URL",
        "postgresql://me:secret@host:port/x": "the storage postgresql://me:***@host:port/x cannot be used: ",
        "no://me:secret@host/x": "the storage no://me:***@host/x cannot be used: Can't load plugin",
        nowhere: f"the storage {nowhere} cannot be used: unable to open database file{right}",
        file: f"the storage {file} cannot be used: file is not a database{right}",
    }
    for url, words in bad.items():
        with pytest.raises(RunError) as error:
            open_sweep(cells.plan(1), url)
        assert str(error.value).startswith(words) and "secret" not in str(error.value)
    with pytest.raises(RunError, match=r"cannot create the folder of the sweep: .*Not a directory"):
        storage_url(None, tmp_path / "file.db" / "folder")
    assert storage_url("a URL", tmp_path / "not made") == "a URL" and not (tmp_path / "not made").exists()


def test_a_folder_may_have_any_name(tmp_path):
    folder = tmp_path / "what? 20%20 {x} #ä"
    open_sweep(cells.plan(1), storage_url(None, folder))
    assert list(tmp_path.rglob("*.db")) == [folder / "sweep.db"]


def test_a_server_that_refuses_is_named_without_its_password():
    import sqlalchemy.exc

    with pytest.raises(RunError) as error, storage_errors("postgresql://me:secret@host/x"):
        try:
            raise ConnectionRefusedError("connection to host failed\nIs it running?")
        except ConnectionRefusedError as cause:
            raise sqlalchemy.exc.OperationalError("select 1", {}, cause) from cause
    assert str(error.value).startswith(
        "the storage postgresql://me:***@host/x cannot be used: connection to host failed. Use sqlite:///FILE"
    )


def test_halving_stops_what_is_behind_and_keeps_what_it_reported(tmp_path):
    def run(cell, report):
        for step in (1, 3, 9):
            report(step, float(cell["a"] * step), {"loss": -step}, final=step == 9)
        return {"value": float(cell["a"])}

    # 8 and 9 are the best so far at each rung; 7 is among the best third of the six that came to the first rung by
    # then, and not the better of the two that came to the second; the others are behind at the first
    plan = Plan("halving", {}, grid({"a": [8, 5, 4, 3, 2, 7, 1, 0, 9]}))
    found = swept(tmp_path, run, plan, halving=Halving(1, 3))
    assert [(r.cell["a"], r.value) for r in found if r.state == "done"] == [(8, 8.0), (9, 9.0)]
    assert {r.state for r in found} == {"done", "stopped early"}
    assert [(r.cell["a"], r.value) for r in found if r.step == 3] == [(7, 21.0)]
    assert found[7].result == {"step": 1, "value": 0.0, "loss": -1, "stopped_early": True} and found[7].step == 1
    trials = open_sweep(plan, cells.url(tmp_path), halving=Halving(1, 3)).study.get_trials()
    assert [t.intermediate_values for t in trials][:2] == [{1: 8.0, 3: 24.0, 9: 72.0}, {1: 5.0}]


def test_nobody_is_stopped_at_the_end(tmp_path):
    def run(cell, report):
        for step in (1, 2):
            report(step, float(cell["a"] if step == 1 else -cell["a"]), final=step == 2)
        return {"value": float(-cell["a"])}

    found = swept(tmp_path, run, halving=Halving(1, 2))  # each begins as the best and ends as the worst
    assert [(r.state, r.step, r.value) for r in found] == [("done", 2, 0.0), ("done", 2, -1.0), ("done", 2, -2.0)]


RECORDS = [
    Record("a-0", {"a": 0}, "done", 0.5, 10, {"value": 0.5}, 61.0, "host:1"),
    Record("a-1", {"a": 1}, "running", 0.25, 5),
    Record("a-2", {"a": 2}, "failed", seconds=3.0, error="OSError: full"),
    Record("a-3", {"a": 3}, "waiting"),
]


def test_lines_tell_each_cell_once(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(watching.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    lines = Lines(out)
    lines.start("x", [RECORDS[0], *(r._replace(state="waiting", error=None) for r in RECORDS[1:])])
    now[0] += 45
    for _ in range(2):
        lines.update(RECORDS)
    now[0] += 45
    further = [RECORDS[0], RECORDS[1]._replace(state="stopped early", seconds=80.0), *RECORDS[2:]]
    lines.update(further)
    lines.update([*further[:3], Record("a-3", {"a": 3}, "done", -1234567.0, seconds=3700.0)])
    waiting = Record("a-3", {"a": 3}, "waiting", error="written by pid 7")
    for _ in range(2):
        lines.update([*further[:3], waiting])
    lines.note("a sentence")
    lines.close()
    assert out.getvalue().splitlines() == [
        "sweep x: 4 cells, 1 of them done before",
        "2/4  a-2: failed, OSError: full; 1m30s left",
        "3/4  a-1: stopped early, 0.25 after 1m20s; 45s left",
        "4/4  a-3: done, -1.235e+06 after 1h01m",
        "a-3 has to wait: written by pid 7",
        "a sentence",
    ]
    assert type(default_watch(io.StringIO())) is Lines


@pytest.mark.parametrize(
    ("found", "title", "rows"),
    [
        ([RECORDS[3]], "x: 0 of 1 done", []),
        (RECORDS, "x: 2 of 4 done, 1 of them failed", ["a-0 done 10 0.5 1m01s", "a-2 failed: OSError: full 3s"]),
        ([RECORDS[0]], "x: 1 of 1 done", ["a-0 done 10 0.5 1m01s"]),
        ([RECORDS[3]._replace(error="pid 7")], "x: 0 of 1 done", ["a-3 waiting: pid 7"]),
    ],
    ids=["nothing", "some", "all", "one that has to wait"],
)
def test_the_live_table_shows_what_runs_and_what_ended(found, title, rows):
    out = io.StringIO()
    table = Table(out)
    table.start("x", [RECORDS[3]] * len(found))
    table.update(found)
    table.note("[a sentence]")
    table.close()
    shown = [" ".join(line.replace("│", " ").split()) for line in out.getvalue().splitlines()]
    assert "[a sentence]" in shown and any(line.startswith(title) for line in shown)
    running = ["a-1 running 5 0.25"] if len(found) == 4 else []
    assert [line for line in shown if line.startswith("a-")] == rows + running


def test_the_command_line_does_not_load_what_only_sweeps_need():
    heavy = ["optuna", "sqlalchemy", "alembic", "rich"]
    code = (
        f"import metalearn, metalearn.cli.main, metalearn.sweeps, sys; print([m for m in {heavy} if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "[]\n"


def test_a_sweep_of_many_cells_lets_few_of_them_wait_and_runs_each_once(tmp_path, monkeypatch):
    """A worker reads all that wait. The storage of a second worker sees what the first one has done."""
    monkeypatch.setattr(sys.modules["metalearn.sweeps.study"], "WAITING", 4)
    other, waited, tried = open_sweep(cells.plan(14), cells.url(tmp_path)), [], []

    def run(cell, report):
        waited.append(sum(trial.state.name == "WAITING" for trial in other.study.get_trials()))
        tried.append(cell["a"])
        assert enqueue_missing(other) <= 1
        return {"value": cell["a"]}

    assert [r.state for r in read_records(other)] == ["waiting"] * 14
    with pytest.raises(RunError, match="has 14 cells, of which 4 have begun or wait: more cells can be added once all"):
        open_sweep(cells.plan(15), cells.url(tmp_path))
    assert [r.state for r in swept(tmp_path, run, cells.plan(14))] == ["done"] * 14
    assert sorted(tried) == list(range(14)) and tried[:3] == [0, 1, 2]
    assert max(waited) <= 4 and waited[0] == 3
    assert [r.state for r in swept(tmp_path, run, cells.plan(15))] == ["done"] * 15
