"""`metalearn sweep`: what it takes, what it refuses before anything is run, and a sweep at toy size."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from metalearn.cli.main import main
from metalearn.cli.sweep import table
from metalearn.pictures import new_figure
from metalearn.recipes.in_context import sweep as sweep_recipe
from metalearn.recipes.in_context.config import to_json
from metalearn.recipes.in_context.presets import PRESETS
from metalearn.recipes.in_context.sweep import SweepConfig, axes, configure_cell, list_cells, run_trial, summarise
from metalearn.sweeps import Range, Record
from metalearn.sweeps.picture import draw_sweep
from metalearn.sweeps.work import Report

DIGITS = PRESETS["digits"][1]


def test_words_become_axes():
    fixed, free = axes(
        ["learner.width=32,64", "--family.num_tasks=16"],
        ["outer-optimizer.learning-rate=1e-4..1e-2:log", "batch=2..8", "x=a,b"],
    )
    assert fixed == {"learner.width": ["32", "64"], "family.num-tasks": ["16"]}
    assert free == {
        "outer-optimizer.learning-rate": Range(1e-4, 1e-2, True, False), "batch": Range(2, 8, False, True),
        "x": ["a", "b"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("grid", "random", "words"),
    [
        (["learner.width"], [], "--grid takes FIELD=VALUE,VALUE,... such as learner.width=32,64, got 'learner.width'"),
        (["batch=1..2"], [], "give it to --random"),
        (["batch=1"], ["batch=2..3"], "the field batch is swept twice"),
        ([], ["batch=1..2:exp"], "a range is LOW..HIGH or LOW..HIGH:log, got 'batch=1..2:exp'"),
        ([], ["batch=few..2"], "the ends of a range are numbers, got 'batch=few..2'"),
    ],
)
def test_words_that_are_no_axes(grid, random, words):
    with pytest.raises(ValueError) as error:
        axes(grid, random)
    assert words in str(error.value)


def test_cells_are_draws_times_grid_times_seeds():
    found = list_cells(DIGITS, SweepConfig(("batch=2,4",), ("learner.width=8..64",), trials=3, seeds=2))
    assert len(found) == 12 and [c["seed"] for c in found] == [0] * 6 + [1] * 6
    assert found[0] == {**found[6], "seed": 0} and found[0]["learner.width"] == found[1]["learner.width"]
    assert len(list_cells(DIGITS, SweepConfig(random=("learner.layers=1..3", "batch=2,4"), trials=50))) == 6
    assert [c["seed"] for c in list_cells(replace(DIGITS, seed=5), SweepConfig(seeds=2))] == [5, 6]
    for wrong, words in [
        (SweepConfig(), "nothing is swept"),
        (SweepConfig(seeds=0), "--seeds must be at least 1, got 0"),
        (SweepConfig(("seed=1,2",)), "seeds are swept with --seeds N"),
    ]:
        with pytest.raises(ValueError, match=words):
            list_cells(DIGITS, wrong)


def test_a_cell_is_read_as_the_command_line_reads_it(capsys):
    built = configure_cell(DIGITS, {"family.num-tasks": "64", "outer-optimizer.learning-rate": 0.01, "seed": 3})
    assert (built.family.num_tasks, built.outer_optimizer.learning_rate, built.seed) == (64, 0.01, 3)
    assert built.learner == DIGITS.learner
    with pytest.raises(ValueError, match=r"the cell depth-3 cannot be configured: unknown option --learner\.depth\. "):
        configure_cell(DIGITS, {"learner.depth": 3})
    with pytest.raises(ValueError, match="the cell batch-many cannot be configured: --batch must be a whole number"):
        configure_cell(DIGITS, {"batch": "many"})
    capsys.readouterr()


def test_the_best_configuration_is_first_and_seeds_are_told_together():
    found = [
        Record("", {"w": 1, "seed": 0}, "done", 0.2), Record("", {"w": 1, "seed": 1}, "done", 0.4),
        Record("", {"w": 2, "seed": 0}, "done", 0.5), Record("", {"w": 2, "seed": 1}, "failed"),
        Record("", {"w": 3, "seed": 0}, "stopped early", 0.9), Record("", {"w": 3, "seed": 1}, "failed"),
    ]  # fmt: skip
    rows = summarise(found)
    assert [(r["name"], r["done"], r["stopped early"], r["failed"]) for r in rows] == [
        ("w-2", 1, 0, 1), ("w-1", 2, 0, 0), ("w-3", 0, 1, 1),
    ]  # fmt: skip
    assert rows[1]["mean"] == pytest.approx(0.3) and rows[2]["mean"] is None
    assert table(rows, regression=False).splitlines() == [
        "configuration accuracy     from       to  done  early  failed",
        "w-2             0.5000   0.5000   0.5000     1      0       1",
        "w-1             0.3000   0.2000   0.4000     2      0       0",
        "w-3                                          0      1       1",
    ]
    errors = [record._replace(value=None if record.value is None else -record.value) for record in found]
    assert table(summarise(errors), regression=True).splitlines()[:3] == [
        "configuration squared error     from       to  done  early  failed",
        "w-1                  0.3000   0.2000   0.4000     2      0       0",
        "w-2                  0.5000   0.5000   0.5000     1      0       1",
    ]
    assert [row["name"] for row in summarise([Record("", {"seed": 3}, "done", 0.2)])] == ["as configured"]


@pytest.mark.parametrize("count", [0, 1, 4])
def test_the_picture_shows_what_there_is(count):
    points = [(str(2**i), 0.1 * i, "done" if i % 2 else "stopped early") for i in range(count)]
    _, [ax] = new_figure(columns=1)
    draw_sweep(ax, "tasks", points)
    drawn = np.concatenate([np.asarray(c.get_offsets()) for c in ax.collections]) if count else np.empty((0, 2))
    assert sorted(map(tuple, drawn.tolist())) == [(2.0**i, pytest.approx(0.1 * i)) for i in range(count)]
    assert (ax.get_legend() is not None) == (count > 0)
    if count:
        assert [tick.get_text() for tick in ax.get_xticklabels()] == [point[0] for point in points]
        assert ax.get_xscale() == ("log" if count == 4 else "linear")


@pytest.mark.parametrize(("task", "score", "sign"), [("digits", "unseen_accuracy", 1), ("linear", "unseen_error", -1)])
def test_a_run_is_compared_by_its_score_and_not_stopped_at_its_last_step(monkeypatch, tmp_path, task, score, sign):
    reported = []

    class Reporting(Report):
        def __call__(self, step, value, numbers=None, *, final=False):
            reported.append((step, value, final))
            self.latest = {"step": step}

    def meta_train(config, folder, *, resume, progress, evaluated):
        assert folder == tmp_path / "cells" / "steps-20" and not resume and config.steps == 20
        evaluated(10, {"unseen_score": 0.25})
        evaluated(20, {"unseen_score": 0.5})
        return {score: 0.5}, {}

    monkeypatch.setattr(sweep_recipe, "meta_train", meta_train)
    result = run_trial(to_json(PRESETS[task][1]), tmp_path, {"steps": "20"}, Reporting(None))
    assert result == {score: 0.5, "step": 20, "value": sign * 0.5}
    assert reported == [(10, sign * 0.25, False), (20, sign * 0.5, True)]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("digtis",), "unknown preset 'digtis'"),
        (("--grid", "learner.depth=1,2"), "the cell depth-1 cannot be configured: unknown option --learner.depth. Did"),
        (("--grid", "batch=4,many"), "the cell batch-many cannot be configured: --batch must be a whole number from 1"),
        (("--grid", "batch=4,4"), "the axis batch of the grid has a value twice: 4, 4"),
        (
            ("--grid", "batch=2,4", "--grid", "steps=1"),
            "--grid is there twice: name all its fields behind one, --grid FIELD=... FIELD=...",
        ),
        (("--grid", "batch=0,4"), "the cell batch-0 cannot be configured: --batch must be a whole number from 1 to"),
        (("--grid", "steps=9,500"), "the cell steps-9,seed-0 cannot be run: --outer-optimizer.warmup must be shorter"),
        (("--seeds", "2", "--workers", "-1"), "--workers must be a whole number from 0 to 4096, or none, got -1"),
    ],
)
def test_what_is_refused_before_anything_is_run(tmp_path, capsys, words, error):
    out = tmp_path / "y"
    assert main(["sweep", *words, "--out", str(out)]) in (1, 2)
    err = capsys.readouterr().err
    assert err.startswith(f"metalearn: {error}") and err.count("\n") == 1
    assert not (out / "cells").exists() and not (out / "sweep.db").exists()


def test_a_sweep_that_does_not_fit_is_refused_before_anything_is_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("metalearn.recipes.in_context.fits.available_bytes", lambda devices: 10**7)
    words = "sweep linear --learner lstm --grid learner.hidden=8,64 --seeds 2 --steps-per-call 1 --workers 0 --out"
    assert main([*words.split(), str(tmp_path / "y")]) == 1
    assert "the largest cell, hidden-64,seed-0, needs" in (err := capsys.readouterr().err), err
    assert "10.0 MB are free" in err and not (tmp_path / "y").exists()


def test_help_tells_what_a_field_is(capsys):
    with pytest.raises(SystemExit) as status:
        main(["sweep", "linear", "--learner", "lstm", "--help"])
    assert status.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for words in (
        "A FIELD is any option of `metalearn train PRESET` without its leading dashes",
        "--grid learner.width=32,64 family.num-tasks=64,512 --seeds 3",
        "FIELD=LOW..HIGH:log uniformly in the logarithm",
        "Presets: digits, lstm, outer-lstm, mnist,",
        "Learners: transformer, lstm,",
        "--learner.hidden INT",
        "--storage {None}|STR",
        "grpc://HOST:PORT for optuna's proxy of a database",
    ):
        assert words in text, words


@pytest.fixture
def cache_left_alone():
    """`compiled` of a sweep in this process is a setting of the whole process."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_a_sweep_at_toy_size_and_the_same_command_again(tmp_path, capsys, cache_left_alone):
    small = "--learner.width 8 --learner.layers 1 --learner.heads 1 --learner.key-size 4 --family.length 6"
    small += " --data.pca 4 --batch 4 --eval-tasks 2 --eval-sequences 1 --steps 4 --steps-per-call 2"
    small += " --outer-optimizer.warmup 0"
    words = ["sweep", "digits", "--grid", "family.num-tasks=2,8", *small.split(), "--references", "1nn"]
    words += ["--out", str(tmp_path / "x"), "--workers", "0", "--json"]
    assert main(words) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [r["state"] for r in first["records"]] == ["done"] * 2
    assert {r["name"] for r in first["configurations"]} == {"num-tasks-2", "num-tasks-8"}
    assert json.loads((tmp_path / "x/sweep.json").read_text()) == first
    assert (tmp_path / "x/sweep.png").stat().st_size > 5_000
    assert sorted(p.name for p in (tmp_path / "x/cells").iterdir()) == ["num-tasks-2,seed-0", "num-tasks-8,seed-0"]
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "x/cells").rglob("*")}
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "x/cells").rglob("*")} == written
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1]) == first and "2 cells, 2 of them done before" in err
    assert main([*words, "--seeds", "2"]) == 0  # more cells extend the sweep
    out, err = capsys.readouterr()
    again = json.loads(out.splitlines()[-1])["records"]
    assert "4 cells, 2 of them done before" in err and [r["state"] for r in again] == ["done"] * 4
    assert [r["value"] for r in again[:2]] == [r["value"] for r in first["records"]]
    assert main(words) == 1  # fewer do not
    assert "2 of them gone" in capsys.readouterr().err
