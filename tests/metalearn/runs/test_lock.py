"""One process writes a run: the second is refused, and a process that dies gives the lock back."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import pytest

from metalearn.errors import RunError, RunLockedError
from metalearn.runs.checkpoints import checkpoint_steps
from metalearn.runs.folder import Run, create_run, resume_run
from metalearn.runs.lock import only_writer
from metalearn.runs.progress import Quiet
from metalearn.runs.training import train

pytest.importorskip("fcntl")

HOLD = """
import sys, time
from pathlib import Path
from metalearn.runs.lock import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
CONFIG = {"seed": 1, "steps": 2}


class State(NamedTuple):
    theta: Any
    step: Any


def start() -> State:
    return State({"w": jnp.ones(2)}, jnp.int32(0))


def step(state: State, data: Any) -> tuple[State, dict[str, Any]]:
    return state._replace(step=state.step + 1), {"loss": jnp.ones(1)}


def go(run: Run, evaluate: Callable[[Any], dict[str, Any]] | None = None) -> State:
    return train(step, start(), None, run, steps=2, evaluate=evaluate, progress=Quiet())


def everything(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return create_run(tmp_path / "run", CONFIG)


def test_a_second_process_is_refused_changes_nothing_and_may_write_once_the_first_was_killed(run: Run):
    run.metrics.write_text('{"step": 1, "loss": 1.0}\n')
    with subprocess.Popen([sys.executable, "-c", HOLD, str(run.folder)], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "held\n"
            before = everything(run.folder)
            for write in (
                lambda: go(run),
                lambda: resume_run(run.folder, CONFIG),
                lambda: create_run(run.folder, CONFIG, overwrite=True),
            ):
                with pytest.raises(
                    RunLockedError, match=rf"run is being written by another process \(pid {other.pid}\): "
                ):
                    write()
            assert everything(run.folder) == before
        finally:
            other.kill()
    assert (run.folder / "lock").read_text() == f"{other.pid}\n"  # stale, and no hindrance
    go(resume_run(run.folder, CONFIG, note=lambda _: None))
    assert checkpoint_steps(run) == [2]
    create_run(run.folder, {"seed": 2}, overwrite=True)


def test_training_holds_the_lock_to_its_last_evaluation_and_gives_it_back_also_after_an_error(run: Run):
    def evaluate(theta: Any) -> dict[str, Any]:
        with pytest.raises(RunError, match=rf"another process \(pid {os.getpid()}\)"), only_writer(run.folder):
            pass
        raise ArithmeticError("tried")

    with pytest.raises(ArithmeticError, match="tried"):
        go(run, evaluate)
    with only_writer(run.folder):
        pass


@pytest.mark.parametrize("content", [b"", b"123456\n", b"\xff not a pid"])
def test_a_lock_file_that_nobody_holds_is_no_hindrance(run: Run, content: bytes):
    (run.folder / "lock").write_bytes(content)
    go(resume_run(run.folder, CONFIG))
    assert (run.folder / "lock").read_text() == f"{os.getpid()}\n"
    (run.folder / "config.json").unlink()
    (run.folder / "notes.txt").touch()
    with pytest.raises(
        RunError, match=r"not a run folder but holds checkpoints, metrics\.jsonl, notes.txt, tensorboard:"
    ):
        create_run(run.folder, CONFIG)


def test_a_run_begins_in_a_folder_with_nothing_but_a_lock_file(tmp_path: Path):
    (tmp_path / "lock").touch()
    assert json.loads((create_run(tmp_path, CONFIG).folder / "config.json").read_text())["config"] == CONFIG


def test_a_folder_of_other_things_gets_no_lock_file(tmp_path: Path):
    (tmp_path / "notes.txt").touch()
    for write in (create_run, resume_run):
        with pytest.raises(RunError):
            write(tmp_path, CONFIG)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_that_is_gone_is_said(tmp_path: Path):
    with pytest.raises(RunError, match=r"cannot open .*lock: .*No such file"), only_writer(tmp_path / "gone"):
        pass
