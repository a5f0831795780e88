"""What all experiments on in-context learners share, with the transition at toy size: one tiny program for all runs."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from experiments.in_context import transition
from experiments.in_context.settings import small_config
from experiments.in_context.transition import Settings
from experiments.suite import command_line, results
from experiments.suite import run as suite
from experiments.suite.experiment import read_evaluations
from metalearn.errors import NotEnoughMemoryError, RunError
from metalearn.recipes.in_context import fits
from metalearn.recipes.in_context.fits import check_largest, largest
from metalearn.runs.folder import open_run
from metalearn.runs.metrics import read_metrics
from metalearn_models.learners.contextless import MLPConfig
from metalearn_models.learners.transformer import TransformerConfig
from tests.metalearn.sweeps.sweep_cells import Recorded

MODULE = "experiments.in_context.transition"
TWO = Settings((0, 2), 1, (), 0, steps=4)
ONE = dataclasses.replace(TWO, exponents=(2,))


def tiny(settings, cell):
    """An evaluation after each of four steps, a checkpoint after every other."""
    base = small_config(cell["seed"], settings.steps, num_tasks=2 ** cell["exponent"])
    return dataclasses.replace(
        base, family=dataclasses.replace(base.family, length=6), learner=MLPConfig(4), batch=2, eval_tasks=2,
        eval_sequences=2, outer_optimizer=dataclasses.replace(base.outer_optimizer, warmup=0),
        steps_per_call=1, evaluate_every=1, checkpoint_every=2,
    )  # fmt: skip


TOY = transition.EXPERIMENT._replace(config=tiny, presets={"toy": TWO, "other": ONE})


@pytest.fixture(autouse=True)
def toy(monkeypatch, shared_programs):
    """A function that makes the experiment that is loaded another one."""

    def use(**changes):
        monkeypatch.setattr(suite, "load", lambda module: TOY._replace(**changes))

    use()
    return use


def run(settings, out):
    return suite.run(MODULE, settings, out, preset="toy", workers=0, watch=Recorded())


@pytest.fixture(scope="module")
def finished_folder(tmp_path_factory, shared_programs):
    """A folder in which the experiment was run to its end, and what the call returned. Not to be written to."""
    out = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite, "load", lambda module: TOY)
        return out, run(TWO, out)


@pytest.fixture
def whole(finished_folder, tmp_path):
    """A copy of such a folder, to be spoiled."""
    return shutil.copytree(finished_folder[0], tmp_path / "out"), finished_folder[1]


@pytest.fixture
def no_training(monkeypatch):
    def train(*args, **kwargs):
        raise AssertionError("something was meta-trained")

    monkeypatch.setattr(suite, "meta_train", train)


def test_an_experiment_ends_with_rows_runs_and_a_picture(finished_folder):
    out, result = finished_folder
    assert results.read_result(out / "result.json") == result
    assert [(r["exponent"], r["seed"]) for r in result["rows"]] == [(0, 0), (2, 0)]
    assert result["cells"] == 2 and result["failed"] == {} and result["preset"] == "toy"
    assert result["summary"]["verdict"] == "not reproduced" and result["settings"]["exponents"] == [0, 2]
    for row in result["rows"]:
        folder = out / "cells" / f"exponent-{row['exponent']},seed-0"
        lines = read_metrics(open_run(folder))
        assert [step for step, _ in read_evaluations(lines)] == [1, 2, 3, 4]
        unseen = read_evaluations(lines)[-1][1]["unseen_score"]
        assert row["unseen_last"] == pytest.approx(unseen) and row["value"] == row["unseen_improvement"]
        assert len(row["unseen_curve"]) == 6
    assert (out / "transition.png").read_bytes()[:4] == b"\x89PNG"
    assert 0 < result["cell_seconds"] <= result["seconds"] + 1


def test_a_second_call_runs_nothing_and_says_the_same(finished_folder, no_training):
    out, first = finished_folder
    again = run(TWO, out)
    differing = {key for key in first if first[key] != again[key]}
    assert differing <= {"environment"}, "its time and its command"


@pytest.mark.parametrize(("folder", "name"), [("transition-toy", "transition-toy"), ("mine", "transition-mine")])
def test_a_sweep_is_called_by_experiment_and_folder(folder, name, tmp_path, no_training):
    watch = Recorded()
    with pytest.raises(RunError):
        suite.run(MODULE, TWO, tmp_path / folder, workers=0, watch=watch)
    assert watch.notes[0] == f"{name}: 0 of 2"


def test_times_of_measuring_again_are_not_those_of_training(whole):
    out, first = whole
    for path in out.glob("sweep.db*"):
        path.unlink()
    again = run(TWO, out)
    assert (again["rows"], again["seconds"], again["cell_seconds"]) == tuple(
        first[key] for key in ("rows", "seconds", "cell_seconds")
    )
    changed = {**first, "rows": first["rows"][:1]}
    (out / "result.json").write_text(json.dumps(changed))
    assert run(TWO, out)["seconds"] > first["seconds"]


def test_a_killed_cell_goes_on_to_the_same_numbers(finished_folder, tmp_path, toy):
    def kill(settings, cell, step, numbers):
        if step == 3:
            raise KeyboardInterrupt
        return False

    toy(is_finished=kill)
    with pytest.raises(KeyboardInterrupt):
        run(ONE, tmp_path / "out")
    assert not (tmp_path / "out" / "result.json").exists()
    folder = tmp_path / "out" / "cells" / "exponent-2,seed-0"
    assert [step for step, _ in read_evaluations(read_metrics(open_run(folder)))] == [1, 2, 3]
    assert [path.name for path in open_run(folder).checkpoints.iterdir() if path.is_dir()] != []
    toy()
    assert run(ONE, tmp_path / "out")["rows"] == [r for r in finished_folder[1]["rows"] if r["exponent"] == 2]
    assert [step for step, _ in read_evaluations(read_metrics(open_run(folder)))] == [1, 2, 3, 4]
    assert len(json.loads((folder / "config.json").read_text())["environments"]) == 2


def test_a_run_that_has_shown_what_it_was_for_ends_and_stays_ended(tmp_path, toy, monkeypatch):
    def measure(settings, cell, trained):
        steps = [step for step, _ in read_evaluations(trained.lines)]
        return {"value": len(steps), "steps": steps, "scored": sorted(trained.scores)}

    def summarise(settings, rows):
        return {"verdict": "open", "words": ""}

    seen = []

    def finished(settings, cell, step, numbers):
        seen.append(sorted(numbers))
        return step == 2

    changes = {"measure": measure, "summarise": summarise, "draw": lambda result, path: None, "is_finished": finished}
    toy(**changes)
    row = {"exponent": 2, "seed": 0, "value": 2, "steps": [1, 2], "scored": []}
    assert run(ONE, tmp_path)["rows"] == [row]
    assert seen == 2 * [["seen_score", "unseen_score"]]

    def train(*args, **kwargs):
        raise AssertionError("it went on")

    monkeypatch.setattr(suite, "meta_train", train)
    for path in (*tmp_path.glob("sweep.db*"), tmp_path / "result.json"):  # as if killed before either said so
        path.unlink()
    assert run(ONE, tmp_path)["rows"] == [row]


SPOILED = {
    "settings": (lambda r: r["settings"].update(steps=7), "results of other settings.*steps: 7 -> 4"),
    "experiment": (lambda r: r.update(experiment="plateau"), "results of plateau, not of transition"),
    "version": (lambda r: r.update(format=0), r"another version \(format 0, this one reads 1\)"),
    "no result": (lambda r: r.pop("rows"), "no result of an experiment: it lacks rows"),
    "corrupt": (None, "cannot read .*result.json"),
    "a list": ([1], "another version .format list"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_folder_with_something_else_is_refused_and_left_alone(what, whole, no_training):
    out, result = whole
    change, message = SPOILED[what]
    changed = json.loads(json.dumps(result))
    if callable(change):
        change(changed)
    content = b"{" if change is None else json.dumps(change if isinstance(change, list) else changed).encode()
    (out / "result.json").write_bytes(content)
    (out / "transition.png").write_bytes(b"old")
    with pytest.raises(RunError, match=message):
        run(TWO, out)
    assert (out / "result.json").read_bytes() == content and (out / "transition.png").read_bytes() == b"old"


def test_a_sweep_that_was_begun_with_other_settings_is_refused(whole, no_training):
    (whole[0] / "result.json").unlink()
    with pytest.raises(RunError, match=r"exponent-0,seed-0 was run with another configuration.*: steps: 4 -> 5\."):
        run(dataclasses.replace(TWO, steps=5), whole[0])
    shutil.rmtree(whole[0] / "cells")
    with pytest.raises(RunError, match=r"another plan.*config.settings.steps: 4 -> 5"):
        run(dataclasses.replace(TWO, steps=5), whole[0])
    assert not (whole[0] / "result.json").exists()


def test_runs_that_the_code_of_today_configures_in_another_way_are_refused(whole, toy, no_training):
    toy(config=lambda settings, cell: dataclasses.replace(tiny(settings, cell), learner=MLPConfig(5)))
    before = (whole[0] / "result.json").read_bytes()
    with pytest.raises(RunError, match=r"exponent-0,seed-0 was run with another.*learner\.hidden: 4 -> 5"):
        run(TWO, whole[0])
    assert (whole[0] / "result.json").read_bytes() == before
    toy(config=lambda settings, cell: dataclasses.replace(tiny(settings, cell), checkpoint_every=1))
    assert run(TWO, whole[0])["rows"] == whole[1]["rows"], "how often is saved changes no number"


def refusing(*exponents):
    def config(settings, cell):
        if cell["exponent"] in exponents:
            raise ValueError(f"no {cell['exponent']} today")
        return tiny(settings, cell)

    return config


def test_the_first_reason_is_told_when_every_cell_fails(tmp_path, monkeypatch):
    def train(*args, **kwargs):
        raise ValueError(f"no {next(numbers)} today")

    numbers = iter(range(9))
    monkeypatch.setattr(suite, "meta_train", train)
    with pytest.raises(RunError, match="no cell of transition was run to its end: ValueError: no 0 today"):
        run(TWO, tmp_path)
    assert not (tmp_path / "result.json").exists()


def test_settings_of_which_no_cell_can_be_configured_leave_nothing_behind(tmp_path, toy):
    toy(config=refusing(0, 2))
    with pytest.raises(ValueError, match="no 0 today"):
        run(TWO, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def words(*given):
    return command_line.run_command("transition", list(map(str, given)))


def test_a_failed_cell_leaves_the_rest_and_an_exit_status(tmp_path, toy, capsys, finished_folder):
    toy(config=refusing(0))
    assert words("--out", tmp_path, "--workers", 0, "--json") == 1
    printed = capsys.readouterr()
    assert "failed:  exponent-0,seed-0: ValueError: no 0 today" in printed.err
    result = json.loads(printed.out.splitlines()[-1])
    assert result["failed"] == {"exponent-0,seed-0": "ValueError: no 0 today"} and result["cells"] == 2
    assert result["rows"] == finished_folder[1]["rows"][1:]
    toy()
    assert words("--out", tmp_path, "--workers", 0) == 0  # what failed is tried again
    assert results.read_result(tmp_path / "result.json")["rows"] == finished_folder[1]["rows"]


def test_the_command_prints_table_claim_verdict_and_json(finished_folder, capsys, no_training):
    out, first = finished_folder
    assert words("toy", "--out", out, "--workers", 0, "--json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1])["rows"] == first["rows"]
    printed = "\n".join(lines[:-1])
    assert transition.table(first) in printed and f"claim:   {TOY.claim}" in printed
    assert "verdict: not reproduced: improvement on unseen" in printed and f"picture: {out}/transition.png" in printed
    assert words("--out", out, "--workers", 0, "--steps", 6) == 1
    assert "transition: " in (err := capsys.readouterr().err) and "steps: 4 -> 6" in err


def test_the_command_names_the_presets(capsys):
    assert words("othr") == 1
    assert "unknown preset 'othr'. Did you mean 'other'? Known: other, toy." in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        words("other", "--help")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for text in (
        "python -m experiments transition [toy|other]",
        "Defaults below: other.",
        "arXiv 2212.04458",
        "--storage",
    ):
        assert text in shown
    assert "Outer steps per meta-training." in shown and "default: 4" in shown


def test_an_interrupted_command_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(suite, "meta_train", interrupt)
    assert words("--out", tmp_path, "--workers", 0) == 130
    assert "stopped; the same command continues" in capsys.readouterr().err


def with_learner(learner, **changes):
    return dataclasses.replace(tiny(TWO, {"exponent": 2, "seed": 0}), learner=learner, **changes)


def test_the_largest_cells_are_found_without_running_any():
    configs = {
        "narrow": with_learner(MLPConfig(4)),
        "wide": with_learner(MLPConfig(200)),
        "with state": with_learner(TransformerConfig(8, 1, 1, 4)),
        "less state": with_learner(TransformerConfig(8, 1, 1, 2)),
    }
    assert largest(configs) == ["wide", "with state"]
    configs["batch"] = with_learner(MLPConfig(4), batch=2000, sequences=100)
    assert largest(configs) == ["batch", "with state"]


def test_what_does_not_fit_is_refused_before_anything_is_run(tmp_path, toy, monkeypatch, no_training):
    def config(settings, cell):
        return dataclasses.replace(tiny(settings, cell), learner=MLPConfig(4 * 2 ** cell["exponent"]), batch=64)

    toy(config=config)
    monkeypatch.setattr(fits, "available_bytes", lambda devices: 250_000)
    with pytest.raises(NotEnoughMemoryError) as caught:
        run(TWO, tmp_path / "out")
    error = caught.value
    assert error.available == 250_000 < error.needed and 0 < error.largest < 64
    assert "the largest cell, exponent-2,seed-0, needs" in str(error) and "an outer step of 64 tasks" in str(error)
    assert f"250.0 kB are free: {error.largest} of them would fit" in str(error) and not (tmp_path / "out").exists()
    monkeypatch.setattr(fits, "available_bytes", lambda devices: None)
    check_largest({"cell": config(TWO, {"exponent": 2, "seed": 0})}, 0)  # nobody knows: nothing is refused


def test_what_plainly_fits_is_not_compiled_to_say_so(monkeypatch):
    compiled = []
    monkeypatch.setattr(fits, "check_fits", lambda config, available: compiled.append(available))
    cell = {"cell": tiny(TWO, {"exponent": 2, "seed": 0})}
    bound = fits._bound(cell["cell"])
    for free in (bound, bound - 1):
        monkeypatch.setattr(fits, "available_bytes", lambda devices, free=free: free)
        check_largest(cell, 0)
    assert compiled == [bound - 1]


def test_of_cells_with_as_many_parameters_that_with_more_state_is_the_largest():
    windows = {f"window {w}": with_learner(TransformerConfig(8, 1, 1, 4, window=w)) for w in (2, 5, 3)}
    assert largest(windows) == ["window 5"]


def test_a_cell_that_cannot_be_built_is_left_to_say_so_itself():
    good = with_learner(MLPConfig(4))
    assert largest({"no tasks": with_learner(MLPConfig(4), batch=0), "good": good}) == ["good"]


def test_memory_is_checked_while_something_is_left(whole, monkeypatch, tmp_path):
    checked = []
    monkeypatch.setattr(suite, "check_largest", lambda configs, workers: checked.append((sorted(configs), workers)))
    monkeypatch.setattr(suite, "run_sweep", lambda *args, **kwargs: [])
    with pytest.raises(RunError, match="nothing was run"):
        run(TWO, tmp_path / "a")
    assert checked == [(["exponent-0,seed-0", "exponent-2,seed-0"], 0)]
    out, result = whole
    for rows in (result["rows"], result["rows"][1:]):
        (out / "result.json").write_text(json.dumps({**result, "rows": rows}))
        with pytest.raises(RunError, match="nothing was run"):
            run(TWO, out)
    assert checked[1:] == [(["exponent-0,seed-0"], 0)], "of what is left"


def test_workers_leave_the_memory_to_a_process_of_its_own_and_share_it(monkeypatch):
    class Pool:
        def __init__(self, count, context):
            assert (count, context.get_start_method()) == (1, "spawn")

        def __enter__(self):
            return self

        def __exit__(self, *args): ...

        def submit(self, function, *given):
            import concurrent.futures

            future = concurrent.futures.Future()
            future.set_result(function(*given))
            return future

    asked = []
    monkeypatch.setattr(fits, "largest", list)
    monkeypatch.setattr(fits, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(fits, "available_bytes", lambda devices: 1000)
    monkeypatch.setattr(fits, "_bound", lambda config: 251)
    monkeypatch.setattr(fits, "check_fits", lambda config, available: asked.append(available))
    cells = {f"{e}": tiny(TWO, {"exponent": e, "seed": e}) for e in (0, 2)}
    check_largest(cells, 4)
    assert asked == [250], "two cells that differ in seed and number of tasks are one program"


def test_accuracies_at_both_ends_of_a_sequence():
    from experiments.in_context.settings import measure_ends

    curve = np.linspace(0.1, 0.7, 31)
    found = measure_ends({"unseen": np.stack([curve - 0.05, curve + 0.05])})
    last = float(np.mean(curve[-10:]))
    assert found == pytest.approx({"unseen_first": 0.1, "unseen_last": last, "unseen_improvement": last - 0.1})


def test_long_cells_are_timed_before_anything_is_run(no_training, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(fits, "LONG", 4)
    monkeypatch.setattr(fits, "time_step", lambda training: 1800.0)
    with pytest.raises(RunError, match="something was meta-trained"):
        run(TWO, tmp_path / "out")
    said = capsys.readouterr().err
    assert "cells of up to 4 steps: timing one step first" in said
    assert "takes 1.8e+03 s: about 4h00m for 2 cells, 1 at a time" in said
    monkeypatch.setattr(fits, "LONG", 5)
    with pytest.raises(RunError, match="something was meta-trained"):
        run(TWO, tmp_path / "other")
    assert "step" not in capsys.readouterr().err
