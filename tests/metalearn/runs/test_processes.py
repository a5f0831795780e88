"""Runs and searches that two processes drive: numbers, stop, what ends or refuses them; one process continues them."""

import contextlib
import importlib.metadata
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

from metalearn.cli import processes, search_loss, train, train_gpt
from metalearn.cli.processes import connect
from metalearn.errors import RunError, UsageError
from metalearn.gradients import nres, pes
from metalearn.inner import InnerLoop
from metalearn.recipes.driving import MetaTraining, compile_outer_loop, drive, initial_state
from metalearn.runs.checkpoints import restore_for_all
from metalearn.runs.folder import Run
from metalearn.runs.metrics import read_metrics
from metalearn.runs.processes import add_up, agree_on, all_do, check_folder, exchange, share_out
from metalearn.runs.progress import Silent
from metalearn.runs.weights import save_weights
from metalearn_models.losses.search.evolution import SEEDS, EvolutionConfig
from metalearn_models.losses.search.population import LossTask, TrainingConfig
from metalearn_models.losses.search.search import SearchConfig, SearchResult, search
from tests.two_processes import run_two_processes

STEPS, PAIRS = 12, 8
OTHERS = ("jaxlib", "numpy", "optax", "flax")
NAMES = ["nres", "pes", "search", "search stopped", "stopped"]


def training(estimator: str = "pes", seed: int = 0) -> MetaTraining:
    """Meta-train the two numbers of a noisy linear recurrence of 6 steps."""

    def init(theta, data, key):
        del theta
        return data + jax.random.normal(key, (3,))

    def step(theta, state, t, key, data):
        del t, data
        state = jax.numpy.tanh(theta * state + 0.1 * jax.random.normal(key, (3,)))
        return state, ((state - 0.5) ** 2).mean(), {}

    loop = InnerLoop(init, step, None, 6)
    make = {"pes": pes, "nres": nres}[estimator]
    return MetaTraining(
        {"steps": STEPS, "seed": seed},
        ("steps",),
        lambda: np.float32([0.3, 0.2, 0.1]),
        jax.random.key(3),
        np.float32(0.2),
        make(loop, 0.1, PAIRS, 2),
        optax.adam(0.05),
        STEPS,
        2,
        dict,
        lambda path, theta, step: save_weights(path, {"theta": theta}, {"step": step}),
    )


class Interrupting(Silent):
    """Sends this process a signal once so many steps are done."""

    def __init__(self, at: int):
        self.at = at

    def update(self, done, metrics):
        if done == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


class Failing(Silent):
    """Cannot show that so many steps are done."""

    def __init__(self, at: int):
        self.at = at

    def update(self, done, metrics):
        if done == self.at:
            raise OSError("no space left on the screen")


def signalling(request: Path, process: int) -> Any:
    """An evaluation by process 0, the last of which asks process 1 for a signal to itself and waits until it came."""

    def wait_for_request() -> None:
        while not request.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        request.unlink()

    if process == 1:
        threading.Thread(target=wait_for_request, daemon=True).start()
    evaluations = []

    def evaluate(theta):
        evaluations.append(theta)
        if len(evaluations) == 3:
            request.touch()
            while request.exists():
                time.sleep(0.01)
        return {"norm": 0.0}

    return evaluate


def run(
    folder: Path, progress: Any = None, evaluate=lambda theta: {"norm": float(abs(theta).sum())}, **more: Any
) -> Any:
    own = training(more.pop("estimator", "pes"), more.pop("seed", 0))
    return drive(
        own, folder, evaluate=evaluate, evaluate_every=4, checkpoint_every=4, progress=progress or Silent(), **more
    )


def hunt(folder: Path, progress: Any = None, data_seed: int = 0) -> SearchResult:
    """Search three generations for a loss that a linear classifier of three blobs learns by."""
    rng = np.random.default_rng(data_seed)
    ys = np.arange(48, dtype=np.int32) % 3
    xs = (2 * np.eye(3)[ys] + rng.normal(size=(48, 3))).astype(np.float32)

    def init(key):
        return 0.1 * jax.random.normal(key, (3, 3))

    task = LossTask("blobs", (xs[:24], ys[:24]), (xs[24:], ys[24:]), "classification", 3, init, lambda w, x: x @ w)
    steps = TrainingConfig(steps=6, batch=8, learning_rates=(0.01, 0.1), seeds=2, candidates=2)
    evolution = EvolutionConfig(population=8, seeds=SEEDS["classification"])
    return search([task], SearchConfig(evolution, steps, generations=3, climbs=0, seed=1), folder, progress)


def as_numbers(found: SearchResult) -> list[Any]:
    """What a search found, as JSON values."""
    rows = [(str(e.expr), e.fitness, list(e.errors), list(e.rates)) for e in (*found.best, *found.trained)]
    return json.loads(json.dumps([*rows, *[(g.rejected, g.known, g.trained, g.best) for g in found.generations]]))


def restore_what_differs(process: int, whole: Path) -> tuple[list[Any], str]:
    """The step and theta that a process restores where checkpoint 12 is damaged for process 1; then 4 and 8 for 0."""
    own = training("nres")
    loop, _ = compile_outer_loop(own, STEPS)
    with tempfile.TemporaryDirectory() as place:
        seen = Run(Path(shutil.copytree(whole, f"{place}/run")), own.config, own.free, own.upgrade)

        def damage(*steps: int) -> None:
            for step in steps:
                (seen.checkpoints / f"{step:08d}" / "manifest.json").unlink()

        damage(*[12] * (process == 1))
        notes: list[str] = []
        state = restore_for_all(seen, initial_state(own, loop), notes.append)
        damage(*[4, 8] * (process == 0))
        with pytest.raises(RunError) as refused:
            restore_for_all(seen, initial_state(own, loop))
    return [int(state.step), np.asarray(state.theta).tolist(), notes], str(refused.value)


def worker(process: int) -> dict[str, Any]:
    """What each process finds in a folder that both see."""
    shared = Path(exchange(tempfile.mkdtemp())[0])
    found: dict[str, Any] = {"errors": {}, "folder": str(shared)}

    def refuses(name: str, call: Any) -> None:
        try:
            call()
        except (RunError, OSError, SystemExit, ArithmeticError) as error:
            found["errors"][name] = f"{type(error).__name__}: {error}"

    for estimator in ("pes", "nres"):
        _, state = run(shared / estimator, estimator=estimator)
        found[estimator] = np.asarray(state.theta).tolist()
    found["said"] = said_by_the_command(shared / "command")
    refuses("stop", lambda: run(shared / "stopped", Interrupting(2) if process == 1 else None))
    refuses("failed", lambda: run(shared / "failed", Failing(4) if process == 1 else None))
    refuses("stop at the end", lambda: run(shared / "ended", evaluate=signalling(shared / "signal it", process)))

    def out_of_order(theta):
        raise ZeroDivisionError("nothing to divide by")

    refuses("evaluate", lambda: run(shared / "evaluated", evaluate=out_of_order))

    def diverging(theta):
        if process == 0:
            raise FloatingPointError("a score is nan")

    refuses("diverged", lambda: run(shared / "diverged", evaluate=diverging))
    refuses("alone", lambda: all_do(lambda: 1 // process))
    refuses("there", lambda: run(shared / "pes"))
    refuses("config", lambda: run(shared / "other", seed=process))
    refuses("versions", lambda: agree_on({"learner": {"width": 8 + process}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.metadata, "version", lambda name: f"1.{process}" if name in OTHERS else "1")
        refuses("packages", lambda: agree_on({}))
    refuses("folder", lambda: check_folder(shared / ("here" if process == 0 else "elsewhere") / "run"))
    found["restored"], found["errors"]["nothing common"] = restore_what_differs(process, shared / "nres")
    found["sum"] = jax.tree.map(
        lambda x: x.tolist(), add_up()([np.float32([process, 1 + process]), np.int32(2 + process)])
    )
    found["search"] = as_numbers(hunt(shared / "search"))
    refuses("stop search", lambda: hunt(shared / "search stopped", Interrupting(2) if process == 1 else None))
    refuses("data", lambda: hunt(shared / "other", data_seed=process))
    found["shares"] = share_out(list(range(5)), lambda share: [10 * i + process for i in share])
    refuses("share", lambda: share_out([1, 2, 3], lambda share: [1 // process for _ in share]))
    refuses("other work", lambda: share_out([1, 2 + process], lambda share: share))
    found["there"] = sorted(path.name for path in shared.iterdir())
    return found


def said_by_the_command(folder: Path) -> list[str]:
    """The lines that `metalearn train` prints in this process before it begins; the processes have met before."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        patch.setattr(jax.distributed, "initialize", lambda *where, **options: None)
        patch.setattr(processes, "call_witness", lambda address: None)
        patch.setattr(train, "meta_train", lambda config, folder, **options: sys.exit())
        words = "digits --steps 20 --coordinator here:12 --num-processes 2 --process-id"
        train.main([*words.split(), str(jax.process_index()), "--run", str(folder)])
    return said.getvalue().splitlines()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The findings of both processes; their folder is removed at the end."""
    values = run_two_processes(__file__, "worker", tmp_path_factory.mktemp("processes"), 2)
    yield values
    shutil.rmtree(values[0]["folder"])


@pytest.mark.parametrize("estimator", ["pes", "nres"])
def test_two_processes_give_the_run_of_one(found, tmp_path, estimator):
    alone, state = run(tmp_path / "alone", estimator=estimator)
    for f in found:
        np.testing.assert_allclose(f[estimator], state.theta, atol=1e-6)
    together = Path(found[0]["folder"]) / estimator
    for ours, theirs in zip(read_metrics(alone), _metrics(together), strict=True):
        assert ours.keys() == theirs.keys()
        np.testing.assert_allclose(list(ours.values()), [theirs[name] for name in ours], rtol=1e-5)
    assert (together / "theta.safetensors").exists()


def _metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_only_process_0_prints_and_first_how_many_have_met(found):
    first, second = (f["said"] for f in found)
    assert first[0] == "2 processes, 4 devices" and "the warm-up is 2 outer steps" in first[1], first
    assert second == []


def test_a_signal_to_one_stops_both_at_one_step_which_one_process_continues(found, tmp_path):
    stopped = Path(found[0]["folder"]) / "stopped"
    assert [f["errors"]["stop"] for f in found] == ["SystemExit: 143"] * 2
    assert (stopped / "checkpoints").exists()
    at = max(int(path.name) for path in (stopped / "checkpoints").iterdir())
    assert at == 6  # calls have two steps: the one that ran when step 2 was shown, and one more
    _, state = run(shutil.copytree(stopped, tmp_path / "stopped"), resume=True)
    np.testing.assert_allclose(state.theta, found[0]["pes"], atol=1e-6)


def test_a_signal_to_one_while_the_other_evaluates_the_last_time_ends_both(found):
    assert [f["errors"].get("stop at the end") for f in found] == ["SystemExit: 143"] * 2
    ended = Path(found[0]["folder"]) / "ended"
    assert (ended / "checkpoints" / f"{STEPS:08d}").exists() and _metrics(ended)[-1] == {"step": STEPS, "eval/norm": 0}


def test_processes_go_on_from_the_newest_checkpoint_that_all_can_read(found, tmp_path):
    whole = Path(found[0]["folder"]) / "nres"
    own = training("nres")
    before = shutil.copytree(whole, tmp_path / "run", ignore=shutil.ignore_patterns("00000012"))
    run = Run(before, own.config, own.free, own.upgrade)
    state = restore_for_all(run, initial_state(own, compile_outer_loop(own, STEPS)[0]))
    (step, theta, notes), second = (f["restored"] for f in found)
    assert step == int(state.step) == 8 and theta == np.asarray(state.theta).tolist()
    who = "process 0 reads 4, 8, 12; process 1 reads 4, 8, not 12 (manifest.json is missing)"
    assert notes == [f"going on from step 8, the newest checkpoint that all processes can read: {who}"]
    assert second == [step, theta, []]
    for f in found:
        said = f["errors"]["nothing common"]
        assert "can be read by all processes: process 0 reads 12, not 4 (manifest.json is missing), 8 (man" in said
        assert "process 1 reads 4, 8, not 12 (manifest.json is missing). Are all files where" in said


def test_what_ends_one_process_ends_the_other_with_its_words(found):
    first, second = (f["errors"] for f in found)
    assert second["failed"] == "OSError: no space left on the screen"
    assert first["failed"] == "RunError: process 1 ended the run: no space left on the screen"
    assert first["evaluate"] == "ZeroDivisionError: nothing to divide by"  # process 0 alone evaluates
    assert first["diverged"] == "FloatingPointError: a score is nan"  # seen by one alone, so the other must be told
    assert second["diverged"] == "RunError: process 0 ended the run: a score is nan"
    assert "modulo by zero" in first["alone"]
    assert second["alone"].startswith("RunError: process 0 could not go on: ")
    failed = _metrics(Path(found[0]["folder"]) / "evaluated")
    assert [line["step"] for line in failed] == [1, 2, 3, 4]  # nothing is written after the failure
    assert second["evaluate"] == "RunError: process 0 ended the run: nothing to divide by"


def test_what_only_process_0_does_fails_everywhere(found):
    first, second = (f["errors"] for f in found)
    assert "already holds a run" in first["there"] and first["there"].startswith("RunError: ")
    assert second["there"] == "RunError: process 0 could not go on: " + first["there"].removeprefix("RunError: ")


def test_processes_that_differ_are_refused_by_name_before_a_folder_is_made(found):
    for f in found:
        assert f["errors"]["config"].endswith("same configuration and versions: seed: 0 in process 0, 1 in process 1")
        assert f["errors"]["versions"].endswith("learner.width: 8 in process 0, 9 in process 1")
        for name in OTHERS:
            assert f'{name}: "1.0" in process 0, "1.1" in process 1' in f["errors"]["packages"]
        assert "process 1 does not see what process 0 writes there" in f["errors"]["folder"]
        assert f["there"] == ["diverged", "ended", "evaluated", "failed", "here", *NAMES]


def test_two_processes_search_as_one_does_and_share_the_trainings(found, tmp_path):
    alone = as_numbers(hunt(tmp_path / "alone"))
    assert found[0]["search"] == found[1]["search"] == alone
    assert found[0]["shares"] == found[1]["shares"] == [0, 11, 20, 31, 40]
    assert "modulo by zero" in found[0]["errors"]["share"]
    assert all("process 1 came to other work than process 0" in f["errors"]["other work"] for f in found)
    assert found[1]["errors"]["share"].startswith("RunError: process 0 could not go on: ")


def test_a_signal_to_one_stops_both_searches_and_one_process_continues(found, tmp_path):
    assert [f["errors"]["stop search"] for f in found] == ["SystemExit: 143"] * 2
    stopped = shutil.copytree(Path(found[0]["folder"]) / "search stopped", tmp_path / "stopped")
    assert len(json.loads((stopped / "search.json").read_text())["generations"]) == 2
    assert as_numbers(hunt(stopped)) == found[0]["search"]


def test_processes_with_other_data_may_not_search_together(found):
    for f in found:
        assert "same configuration and versions: tasks.0 blobs: " in f["errors"]["data"]


@pytest.mark.parametrize("command", [train_gpt.main, lambda words: train.main(["tables", *words])])
def test_every_command_of_meta_training_needs_a_folder_for_several_processes(command):
    with pytest.raises(UsageError, match="several processes need --run FOLDER"):
        command("--coordinator here:12 --num-processes 2 --process-id 0".split())


def test_arrays_of_all_processes_are_added_up(found):
    assert [f["sum"] for f in found] == [[[1.0, 3.0], 5]] * 2


ONCE = """
import sys; sys.path[:0] = ["tests/metalearn/runs"]
import pathlib, tempfile
import jax, pytest
import test_processes as t
from metalearn.recipes import driving

def two_steps(step, state, data, *_, **__):
    assert len(data.sharding.device_set) == 8 and data.is_fully_replicated
    with jax.transfer_guard("disallow"):
        for _ in range(2):
            state, _ = step(state, data)
        with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
            step(state, t.training("nres").data)
    return state

with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
    patch.setattr(driving, "train", two_steps)
    t.run(pathlib.Path(place, "run"), estimator="nres")
print("once")
"""


def test_one_process_copies_its_data_to_all_devices_once(on_eight_devices):
    assert on_eight_devices(ONCE) == "once"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--num-processes 2", "go with --coordinator HOST:PORT, which is missing"),
        ("--coordinator here --num-processes 2 --process-id 0", "must be HOST:PORT, such as node-0:1234, got here"),
        ("--coordinator here:12", "needs --num-processes N and --process-id I"),
        ("--coordinator here:12 --num-processes 2 --process-id 2", "from 0 to --num-processes - 1, got 2 of 2"),
        ("--coordinator here:12 --num-processes two --process-id 0", "--num-processes must be a whole number"),
        ("--coordinator here:12 --num-processes 2 --process-id 0", "need --run FOLDER"),
        ("--distributed --coordinator here:12 --num-processes 2 --process-id 0", "leave it out"),
        ("--distributed --steps 4", "need --run FOLDER"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words, said):
    with pytest.raises(UsageError, match=said):
        connect(words.split())


def test_a_search_of_several_processes_needs_its_folder():
    with pytest.raises(UsageError, match="several processes need --out FOLDER"):
        search_loss.main("--coordinator here:12 --num-processes 2 --process-id 0".split())


def test_processes_that_do_not_all_come_end_with_a_sentence(monkeypatch, capsys):
    ended = []
    monkeypatch.setattr(processes, "START", 0.05)
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **options: time.sleep(0.5))
    with pytest.raises(UsageError, match="--num-processes is 2 here, but 1 processes have met"):
        connect("--run x --coordinator here:12 --num-processes 2 --process-id 0".split())
    assert ended == [2]
    said = capsys.readouterr().err
    assert "not all processes have met at here:12 within 0.05 s. Start the same command once for each" in said


def test_a_command_without_these_options_is_alone():
    words = ["digits", "--steps", "4"]
    assert not connect(words) and words == ["digits", "--steps", "4"]
