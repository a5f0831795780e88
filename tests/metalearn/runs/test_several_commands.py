"""Commands in one, two and four processes of one machine: the same numbers, kills, resumes. Minutes: `pytest -m slow`.

With -s, each test prints the figures that docs/scaling.md quotes.
"""

import json
import multiprocessing
import shutil
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from metalearn.recipes.driving import drive
from metalearn.runs.progress import Silent
from tests.metalearn.runs.several_commands import COMMANDS, OTHER_COMMANDS, codes, free_port, start
from tests.metalearn.runs.test_processes import training

pytestmark = pytest.mark.slow
STEPS, KILLED_STEPS, KILLS, SECONDS = 200, 120, 10, 30
FREQUENT = {"tables": ("--checkpoint-every", "2"), "gpt": ("--checkpoint-every", "1", "--steps-per-call", "1")}
"""So that a run that is killed after its first checkpoint has not ended."""


def theta(run: Path) -> np.ndarray:
    """All meta-parameters of a run, as one vector."""
    values = load_file(run / "theta.safetensors")
    return np.concatenate([values[name].astype(np.float64).ravel() for name in sorted(values)])


def losses(run: Path) -> np.ndarray:
    """The loss of each outer step; every step is there once, in order."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [line for line in lines if "loss" in line]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return np.array([row["loss"] for row in rows])


def finish(words, count: int, logs: Path) -> None:
    """Run a command to its end."""
    logs.mkdir(exist_ok=True)
    found = codes(start(words, count, logs), 220)
    assert found == [0] * count, (logs / "0.log").read_text()[-2000:]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of a run of one process, by the name of its command and its outer steps."""
    runs: dict[tuple[str, int], Path] = {}

    def get(kind: str, steps: int = STEPS) -> Path:
        if (kind, steps) not in runs:
            folder = tmp_path_factory.mktemp(kind)
            finish((*COMMANDS[kind], "--steps", str(steps), "--run", str(folder / "run")), 1, folder / "logs")
            runs[kind, steps] = folder / "run"
        return runs[kind, steps]

    return get


def compare(run: Path, with_run: Path, what: str) -> None:
    """Theta and all losses are equal to 1e-6, the losses in units of the largest."""
    apart, ours, theirs = np.abs(theta(run) - theta(with_run)).max(), losses(run), losses(with_run)
    apart_losses = np.abs(ours - theirs).max() / np.abs(theirs).max()
    print(f"\n{what}: {len(ours)} steps, theta within {apart:.2g}, losses within {apart_losses:.2g}")
    assert len(ours) == len(theirs) and apart <= 1e-6 and apart_losses <= 1e-6


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("kind", list(COMMANDS))
def test_several_processes_give_the_numbers_of_one(kind, count, alone, tmp_path):
    finish((*COMMANDS[kind], "--steps", str(STEPS), "--run", str(tmp_path / "run")), count, tmp_path / "logs")
    compare(tmp_path / "run", alone(kind), f"{kind}, {count} processes against one")


@pytest.mark.parametrize("kind", list(OTHER_COMMANDS))
def test_two_and_four_processes_train_tables_and_gpt_as_one_does(kind, tmp_path):
    for count in (1, 2, 4):
        finish((*OTHER_COMMANDS[kind], "--run", str(tmp_path / f"run-{count}")), count, tmp_path / f"logs-{count}")
    for count in (2, 4):
        compare(tmp_path / f"run-{count}", tmp_path / "run-1", f"{kind}, {count} processes against one")


@pytest.mark.parametrize("kind", list(OTHER_COMMANDS))
def test_tables_and_gpt_name_a_killed_process_and_any_number_of_processes_continues(kind, tmp_path):
    words = (*OTHER_COMMANDS[kind], *FREQUENT[kind])
    finish((*words, "--run", str(tmp_path / "alone")), 1, tmp_path / "logs")
    begun, logs = tmp_path / "begun", tmp_path / "logs-begun"
    logs.mkdir()
    running = start((*words, "--run", str(begun)), 2, logs)
    end = time.monotonic() + 200
    while time.monotonic() < end and not list((begun / "checkpoints").glob("[0-9]*")):
        time.sleep(0.02)
    running[1].kill()
    found = codes(running, SECONDS)
    assert found[0] not in (0, None) and not (begun / "result.json").exists(), found
    assert "ask 1 heartbeat timeout" in (logs / "0.log").read_text(), (logs / "0.log").read_text()[-3000:]
    command = OTHER_COMMANDS[kind][:1]
    for count in (1, 2, 4):
        run = shutil.copytree(begun, tmp_path / f"run-{count}")
        finish((*command, "--resume", str(run), "--quiet"), count, tmp_path / f"logs-{count}")
        compare(run, tmp_path / "alone", f"{kind}, two processes of which one was killed, continued by {count}")


@pytest.mark.parametrize("kind", list(COMMANDS))
def test_what_two_processes_began_one_and_two_and_four_continue(kind, alone, tmp_path):
    begun = tmp_path / "begun"
    finish((*COMMANDS[kind], "--steps", str(STEPS // 2), "--run", str(begun)), 2, tmp_path / "logs")
    for count in (1, 2, 4):
        run = shutil.copytree(begun, tmp_path / f"run-{count}")
        words = (COMMANDS[kind][0], "--resume", str(run), "--steps", str(STEPS), "--quiet")
        finish(words, count, tmp_path / f"logs-{count}")
        compare(run, alone(kind), f"{kind}, begun by two, continued by {count}")


def wait_for_a_step(run: Path, running, before: int) -> None:
    """Wait until a run has logged more steps than before, or a process has ended."""
    end = time.monotonic() + 200
    while time.monotonic() < end and all(one.poll() is None for one in running):
        if (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_bytes().count(b"\n") > before:
            return
        time.sleep(0.02)


@pytest.mark.parametrize("victim", [2, 0])
def test_a_killed_one_of_four_processes_ends_the_others_with_its_name(victim, tmp_path):
    run, logs = tmp_path / "run", tmp_path / "logs"
    logs.mkdir()
    running = start((*COMMANDS["nres"], "--steps", "4000", "--run", str(run)), 4, logs)
    try:
        wait_for_a_step(run, running, 0)
        assert [one.poll() for one in running] == [None] * 4
        running[victim].kill()
        began, ended = time.monotonic(), {}
        while len(ended) < 4 and time.monotonic() < began + SECONDS:
            ended |= {
                i: time.monotonic() - began for i, p in enumerate(running) if i not in ended and p.poll() is not None
            }
            time.sleep(0.05)
    finally:
        codes(running, 0)
    print(f"\nprocess {victim} killed: the others ended after {[round(ended.get(i, -1), 1) for i in range(4)]} s")
    assert len(ended) == 4
    for i in {0, 1, 2, 3} - {victim}:
        log = logs / f"{i}.log"
        end = time.monotonic() + SECONDS - max(ended.values())
        while not victim and "process 0 is gone" not in log.read_text() and time.monotonic() < end:
            time.sleep(0.05)  # its witness outlives it for a moment
        said = log.read_text()
        assert ("ask 2 heartbeat timeout" if victim else "process 0 is gone") in said, said[-3000:]
        assert not victim or "process 0 is gone" not in said, said[-3000:]


def work(folder: Path, process: int, count: int, port: int) -> None:
    """What one process of a small run does: begin it, or continue what is there."""
    jax.config.update("jax_num_cpu_devices", 1)
    if count > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", count, process)
    own = training("nres")._replace(steps=KILLED_STEPS)
    resume = (folder / "config.json").exists()
    every = {"evaluate_every": 20, "checkpoint_every": 4}
    drive(
        own, folder, evaluate=lambda theta: {"norm": float(abs(theta).sum())}, progress=Silent(), resume=resume, **every
    )


def begin(folder: Path, count: int) -> list[Any]:
    """Begin `work` in processes that find all modules imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    port = free_port()
    running = [context.Process(target=work, args=(folder, i, count, port)) for i in range(count)]
    for one in running:
        one.start()
    return running


@pytest.mark.parametrize("seed", [0, 1])
def test_ten_kills_at_random_instants_lose_nothing(seed, tmp_path):
    """Half of the instants are counted from the start of two processes, half from the first step that they log.

    The other process gets one more second. How long it lives without the first is not tested here.
    """
    rng, run, reached = np.random.default_rng(seed), tmp_path / "run", []
    [alone] = begin(tmp_path / "alone", 1)
    alone.join(SECONDS)
    assert alone.exitcode == 0
    for kill in range(KILLS):
        logged = (run / "metrics.jsonl").read_bytes().count(b"\n") if (run / "metrics.jsonl").exists() else 0
        running = begin(run, 2)
        end = time.monotonic() + SECONDS
        while kill % 2 and time.monotonic() < end and running[0].is_alive():
            if (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_bytes().count(b"\n") > logged:
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5 if kill % 2 else 4))
        assert all(one.is_alive() for one in running), [one.exitcode for one in running]
        running[rng.integers(2)].kill()
        time.sleep(1)
        for one in running:
            one.kill()
            one.join()
        reached.append(max((int(path.name) for path in (run / "checkpoints").glob("[0-9]*")), default=0))
    print(f"\n{KILLS} kills, the newest checkpoints after them: {reached}")
    assert 0 < reached[-1] < KILLED_STEPS
    running = begin(run, 2)
    for one in running:
        one.join(2 * SECONDS)
    assert [one.exitcode for one in running] == [0, 0]
    compare(run, tmp_path / "alone", f"after {KILLS} kills, against one process without any")
