"""The cost of a sweep at toy size: the storage holds what a worker leaves, and each cell costs the same queries."""

import pytest

from experiments.speed import sweep_storage
from experiments.speed.sweep_storage import SweepStorageConfig, format_result, run
from metalearn.sweeps import Plan, grid, open_sweep, work
from metalearn.sweeps.records import read_records
from metalearn.sweeps.storage import storage_url


def test_queries_of_a_cell_do_not_grow_with_the_cells_that_are_done():
    result = run(SweepStorageConfig((100, 400), 3))
    few, many = result["rows"]
    assert few["storage"] == "sqlite" and (few["cells"], many["cells"]) == (100, 400)
    assert 20 < few["queries"] < 200 and many["queries"] == pytest.approx(few["queries"], abs=10)
    assert 3 < few["table_rows"] < 20 and "| sqlite | 400 |" in format_result(result)


def test_cells_that_are_stored_as_done_look_like_those_of_a_worker(tmp_path):
    cells = grid({"a": range(40), "b": range(2)})
    sweep = open_sweep(Plan("stored", {}, cells), storage_url(None, tmp_path))
    sweep_storage._store_as_done(sweep)
    assert {(r.state, r.value) for r in read_records(sweep)} == {("done", 0.0)}
    assert work(sweep, lambda cell, report: {"value": 1.0}) == 0
    trials = sweep.study.get_trials()
    assert len(trials) == 80 and sorted(t.number for t in trials) == list(range(80))
    assert trials[-1].params == sweep.cells[trials[-1].user_attrs["cell"]]


def test_numbers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"--cells must be multiples of 100 and at least --measured, got \[150\]"):
        run(SweepStorageConfig((100, 150)))
    with pytest.raises(ValueError, match="--proxy must be a proxy of --storage: give its URL too"):
        run(SweepStorageConfig(proxy="grpc://localhost:1"))
    with pytest.raises(ValueError, match="--storage must be the URL of a database, got grpc://localhost:1"):
        run(SweepStorageConfig(storage="grpc://localhost:1"))
