"""`metalearn sweep`: what it takes, what it refuses before anything is run, and a sweep at toy size."""

import json

import pytest

from metalearn.cli.config import PRESETS
from metalearn.cli.main import main
from metalearn.cli.sweep import SweepCommand, axes, cells_of, configured, summarised
from metalearn.sweeps import Range, Record

DIGITS = PRESETS["digits"][1]


def test_words_become_axes():
    fixed, free = axes(
        ["learner.width=32,64", "--task.num_tasks=16"],
        ["optimizer.learning-rate=1e-4..1e-2:log", "tasks=2..8", "x=a,b"],
    )
    assert fixed == {"learner.width": ["32", "64"], "task.num-tasks": ["16"]}
    assert free == {
        "optimizer.learning-rate": Range(1e-4, 1e-2, True, False), "tasks": Range(2, 8, False, True), "x": ["a", "b"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("grid", "random", "words"),
    [
        (["learner.width"], [], "--grid takes FIELD=VALUE,VALUE,... such as learner.width=32,64, got 'learner.width'"),
        (["tasks=1..2"], [], "give it to --random"),
        (["tasks=1"], ["tasks=2..3"], "the field tasks is swept twice"),
        ([], ["tasks=1..2:exp"], "a range is LOW..HIGH or LOW..HIGH:log, got 'tasks=1..2:exp'"),
        ([], ["tasks=few..2"], "the ends of a range are numbers, got 'tasks=few..2'"),
    ],
)
def test_words_that_are_no_axes(grid, random, words):
    with pytest.raises(ValueError) as error:
        axes(grid, random)
    assert words in str(error.value)


def test_cells_are_draws_times_grid_times_seeds():
    command = SweepCommand(DIGITS, ("tasks=2,4",), ("learner.width=8..64",), trials=3, seeds=2)
    found = cells_of(command)
    assert len(found) == 12 and [c["seed"] for c in found] == [0] * 6 + [1] * 6
    assert found[0] == {**found[6], "seed": 0} and found[0]["learner.width"] == found[1]["learner.width"]
    for wrong, words in [
        (SweepCommand(DIGITS), "nothing is swept"),
        (SweepCommand(DIGITS, seeds=0), "at least 1 seed, got 0"),
        (SweepCommand(DIGITS, ("seed=1,2",)), "seeds are swept with --seeds N"),
    ]:
        with pytest.raises(ValueError, match=words):
            cells_of(wrong)


def test_a_cell_is_read_as_the_command_line_reads_it(capsys):
    built = configured(DIGITS, {"task.num-tasks": "64", "optimizer.learning-rate": 0.01, "seed": 3})
    assert (built.task.num_tasks, built.optimizer.learning_rate, built.seed) == (64, 0.01, 3)
    assert built.learner == DIGITS.learner
    with pytest.raises(ValueError, match=r"cannot be configured: --learner\.depth 3"):
        configured(DIGITS, {"learner.depth": 3})
    with pytest.raises(ValueError, match="cannot be configured: --tasks many"):
        configured(DIGITS, {"tasks": "many"})
    capsys.readouterr()


def test_the_best_configuration_is_first_and_seeds_are_told_together():
    found = [
        Record("", {"w": 1, "seed": 0}, "done", 0.2), Record("", {"w": 1, "seed": 1}, "done", 0.4),
        Record("", {"w": 2, "seed": 0}, "done", 0.5), Record("", {"w": 2, "seed": 1}, "failed"),
        Record("", {"w": 3, "seed": 0}, "stopped early", 0.9), Record("", {"w": 3, "seed": 1}, "failed"),
    ]  # fmt: skip
    rows = summarised(found)
    assert [(r["name"], r["done"], r["stopped early"], r["failed"]) for r in rows] == [
        ("w-2", 1, 0, 1), ("w-1", 2, 0, 0), ("w-3", 0, 1, 1),
    ]  # fmt: skip
    assert rows[1]["mean"] == pytest.approx(0.3) and rows[2]["mean"] is None


def test_a_sweep_at_toy_size_and_the_same_command_again(tmp_path, capsys):
    small = "--learner.width 8 --learner.layers 1 --learner.heads 1 --learner.key-size 4 --task.length 6"
    small += (
        " --data.pca 4 --tasks 4 --eval-tasks 2 --eval-sequences 1 --steps 4 --steps-per-call 2 --optimizer.warmup 0"
    )
    words = ["sweep", "digits", "--grid", "task.num-tasks=2,8", *small.split(), "--references", "1nn"]
    words += ["--out", str(tmp_path / "x"), "--workers", "0", "--json"]
    assert main(words) in (None, 0)
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [r["state"] for r in first["records"]] == ["done"] * 2
    assert {r["name"] for r in first["configurations"]} == {"num-tasks-2", "num-tasks-8"}
    assert json.loads((tmp_path / "x/sweep.json").read_text()) == first
    assert (tmp_path / "x/sweep.png").stat().st_size > 5_000
    assert sorted(p.name for p in (tmp_path / "x/cells").iterdir()) == ["num-tasks-2,seed-0", "num-tasks-8,seed-0"]
    assert main(words) in (None, 0)
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1]) == first and "2 cells, 2 of them done before" in err
    assert main([*words, "--seeds", "2"]) == 1
    assert "4 cells, 2 of them new" in capsys.readouterr().err
    assert main(["sweep", "digits", "--grid", "learner.depth=1,2", "--out", str(tmp_path / "y")]) == 1
    assert not (tmp_path / "y").exists()
