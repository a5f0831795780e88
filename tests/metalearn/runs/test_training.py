"""The training loop on a toy outer step. Run as a script, this file is the process that the tests below kill.

test_training.py FOLDER MOMENT...   one life per moment: each resumes the run and dies at its moment
"""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metalearn.runs.checkpoint_files as files_module
import metalearn.runs.checkpoints as checkpoints_module
from metalearn.errors import RunError
from metalearn.runs.checkpoints import checkpoint_steps, restore_checkpoint
from metalearn.runs.folder import Run, create_run, open_run, resume_run
from metalearn.runs.metrics import MetricsWriter, read_metrics
from metalearn.runs.progress import Bar, Lines, Quiet, duration
from metalearn.runs.training import train
from metalearn.runs.weights import theta_sha256

K, STEPS, EVERY = 5, 60, 10
CONFIG = {"seed": 1, "steps": STEPS, "rate": 0.01}


class State(NamedTuple):
    theta: Any
    momentum: Any
    key: Any
    step: Any


def start() -> State:
    theta = {"w": jnp.ones((4,)), "layers": [jnp.zeros((2, 2), jnp.bfloat16)]}
    return State(theta, jax.tree.map(jnp.zeros_like, theta), jax.random.key(1), jnp.int32(0))


def one_step(state: State, nan_at: Any) -> tuple[State, dict[str, Any]]:
    """A noisy quadratic; the loss of outer step `nan_at` (counted from 1) and all after it are NaN."""

    def loss(theta: Any) -> Any:
        target = jax.random.normal(jax.random.fold_in(state.key, state.step), (4,))
        return jnp.sum((theta["w"] - target) ** 2) + jnp.sum(theta["layers"][0] - 1).astype(jnp.float32) ** 2

    value, gradient = jax.value_and_grad(loss)(state.theta)
    momentum = jax.tree.map(lambda m, g: 0.9 * m + g, state.momentum, gradient)
    theta = jax.tree.map(lambda x, m: x - 0.01 * m, state.theta, momentum)
    value = jnp.where(state.step + 1 >= nan_at, jnp.nan, value)
    metrics = {"loss": value, "score": 1 / (1 + value), "grad_norm": jnp.abs(gradient["w"]).max()}
    return State(theta, momentum, state.key, state.step + 1), metrics


step = jax.jit(lambda state, data: jax.lax.scan(lambda s, _: one_step(s, data), state, length=K), donate_argnums=0)
NEVER = np.int32(2**30)  # not an array of JAX, which would start JAX before `live` forks


def evaluate(theta: Any) -> dict[str, Any]:
    return {"norm": jnp.linalg.norm(theta["w"])}


def go(run: Run, state: Any = None, data: Any = NEVER, **options: Any) -> State:
    state = restore_checkpoint(run, start()) if state is None else state
    defaults = {
        "steps": STEPS,
        "steps_per_call": K,
        "log_every": 2,
        "checkpoint_every": EVERY,
        "progress": Quiet(),
    }
    return train(step, state, data, run, **{"evaluate": evaluate, "evaluate_every": 20, **defaults, **options})


# ---- the process that dies


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_when(moment: str) -> None:
    """Arrange the death of this process at a moment inside the library."""
    from orbax.checkpoint import Checkpointer

    rename, save, append = Path.rename, Checkpointer.save, files_module.write_atomically

    def renaming(self: Path, target: Path) -> Path:
        if moment == "before the rename" and self.name == "saving-40":
            die()
        renamed = rename(self, target)
        if moment == "amid the deletion" and Path(target).name.startswith("dropped"):
            next(p for p in Path(target).rglob("*") if p.is_file()).unlink()
            die()
        return renamed

    def saving(self: Any, directory: Path, *args: Any, **kwargs: Any) -> None:
        if moment == "amid orbax" and "saving-20" in str(directory):
            directory.with_name("state.orbax-checkpoint-tmp").mkdir()
            die()
        save(self, directory, *args, **kwargs)

    def manifest(path: Path, content: bytes) -> None:
        if moment == "amid the manifest" and "saving-30" in str(path):
            path.with_name("manifest.json.tmp").write_bytes(content[:100])
            die()
        append(path, content)

    class Writer(MetricsWriter):
        def write(self, lines: list[dict[str, Any]]) -> None:
            if moment == "amid a line" and lines[-1]["step"] > 50:
                self._file.write(json.dumps(lines[0]).encode()[:20])
                die()
            super().write(lines)

    Path.rename, Checkpointer.save, files_module.write_atomically = renaming, saving, manifest  # pyright: ignore
    sys.modules["metalearn.runs.training"].MetricsWriter = Writer  # pyright: ignore


class Dying(Quiet):
    def __init__(self, at: int):
        super().__init__()
        self.at = at

    def update(self, done: int, metrics: Any) -> None:
        if done == self.at:
            die()


class Slow(Quiet):
    def update(self, done: int, metrics: Any) -> None:
        time.sleep(0.05)


def live(folder: str, moment: str) -> None:
    run = resume_run(folder, CONFIG) if (Path(folder) / "config.json").exists() else create_run(folder, CONFIG)
    die_when(moment)
    progress = Slow() if moment == "slowly" else Dying(25 if moment == "amid training" else -1)
    go(run, progress=progress)


def live_forked(folder: str, moment: str) -> int:
    """A life in a process that is forked before JAX has started, so that nothing is imported again; its exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            warnings.simplefilter("error")
            live(folder, moment)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(folder: str, *moments: str) -> None:
    if len(moments) == 1:
        live(folder, *moments)
    else:
        import orbax.checkpoint  # noqa: F401  # once for all lives
        import tensorboardX  # noqa: F401

        print(json.dumps({moment: live_forked(folder, moment) for moment in moments}))


def child(folder: Path, *moments: str, **settings: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **settings}
    command = [sys.executable, *(["-W", "error"] if len(moments) == 1 else []), __file__, str(folder), *moments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """Hash of theta and metrics of a run that was never interrupted."""
    run = create_run(tmp_path_factory.mktemp("uninterrupted") / "run", CONFIG)
    return theta_sha256(go(run).theta), run.metrics.read_bytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the lives are forked")
def test_a_run_killed_at_any_moment_resumes_to_the_same_bits(tmp_path: Path, uninterrupted: tuple[str, bytes]):
    folder = tmp_path / "run"
    moments = [
        "amid orbax",
        "amid training",
        "amid the manifest",
        "before the rename",
        "amid the deletion",
        "amid a line",
    ]
    with child(folder, *moments, "never") as process:
        out, error = process.communicate(timeout=120)
    assert json.loads(out) == {**dict.fromkeys(moments, -signal.SIGKILL), "never": 0}, error
    run = open_run(folder)
    theta = restore_checkpoint(run, start()).theta
    assert (theta_sha256(theta), run.metrics.read_bytes()) == uninterrupted
    assert not [p.name for p in run.checkpoints.iterdir() if not p.name.isdigit()]


@pytest.mark.slow
def test_a_run_killed_at_random_resumes_to_the_same_bits(tmp_path: Path, uninterrupted: tuple[str, bytes]):
    folder, random = tmp_path / "run", np.random.default_rng(0)
    kills = 0
    for _ in range(60):
        # Without the cache that tests share, in which it could leave half a program.
        with child(folder, "slowly", JAX_ENABLE_COMPILATION_CACHE="0") as process:
            try:
                process.communicate(timeout=random.uniform(1.5, 2.5))
                break
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
    with child(folder, "never") as process:
        process.communicate(timeout=60)
    run = open_run(folder)
    assert kills >= 1
    theta = restore_checkpoint(run, start()).theta
    assert (theta_sha256(theta), run.metrics.read_bytes()) == uninterrupted


def test_ctrl_c_saves_and_the_run_resumes_to_the_same_bits(tmp_path: Path, uninterrupted: tuple[str, bytes]):
    folder = tmp_path / "run"
    with child(folder, "slowly") as process:
        while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").stat().st_size:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 130), error
    run = open_run(folder)
    stopped = int(re.findall(r"stopped at step (\d+) of 60, saved in .*; continue with --resume", error)[0])
    assert 0 < stopped < STEPS and checkpoint_steps(run)[-1] == stopped
    assert theta_sha256(go(run).theta) == uninterrupted[0]


def test_sigterm_saves_and_exits_with_143(tmp_path: Path):
    class Killed(Quiet):
        def update(self, done: int, metrics: Any) -> None:
            if done == 10:  # the call up to step 15, which no interval saves, is under way
                os.kill(os.getpid(), signal.SIGTERM)

    run, before = create_run(tmp_path / "run", CONFIG), signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        go(run, progress=Killed())
    assert stopped.value.code == 143 and signal.getsignal(signal.SIGTERM) is before
    assert checkpoint_steps(run) == [10, 15] and int(restore_checkpoint(run, start()).step) == 15
    assert [line["step"] for line in read_metrics(run) if "loss" in line] == list(range(2, 16, 2))


def test_the_next_call_is_dispatched_before_the_last_is_read(tmp_path: Path):
    events = []

    class Lazy:
        shape = (1,)

        def __init__(self, number: int):
            self.number = number

        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            events.append(("read", self.number))
            return np.ones(1, np.float32)

    def fake(state: State, data: Any) -> tuple[State, dict[str, Any]]:
        number = int(state.step) + 1
        events.append(("dispatch", number))
        return state._replace(step=jnp.int32(number)), {"loss": Lazy(number)}

    train(fake, start(), None, create_run(tmp_path / "run", {}), steps=3, progress=Quiet())
    assert events == [
        ("dispatch", 1),
        ("dispatch", 2),
        ("read", 1),
        ("dispatch", 3),
        ("read", 2),
        ("read", 3),
    ]


@pytest.mark.parametrize("bad", [23, 25, 26])
def test_a_nan_is_named_with_its_step_and_the_last_good_checkpoint_stays(
    tmp_path: Path, bad: int, uninterrupted: tuple[str, bytes]
):
    run = create_run(tmp_path / "run", CONFIG)
    with pytest.raises(FloatingPointError, match=rf"loss is nan at outer step {bad}\. .*checkpoint is step 20 in"):
        go(run, data=jnp.int32(bad))
    assert checkpoint_steps(run) == [10, 20]
    last = read_metrics(run)[-1]
    assert last["step"] == bad and np.isnan(last["loss"])
    assert theta_sha256(go(run).theta) == uninterrupted[0]  # without the NaN it goes on as if never


def test_a_theta_that_overflows_after_a_finite_loss_is_not_saved(tmp_path: Path):
    def overflow(state: State, data: Any) -> tuple[State, dict[str, Any]]:
        theta = jax.tree.map(lambda x: x * jnp.where(state.step == 9, jnp.inf, 1).astype(x.dtype), state.theta)
        return state._replace(theta=theta, step=state.step + 1), {"loss": jnp.ones(1)}

    run = create_run(tmp_path / "run", CONFIG)
    with pytest.raises(FloatingPointError, match="theta is not finite after the update of outer step 10"):
        train(overflow, start(), None, run, steps=20, checkpoint_every=5, progress=Quiet())
    assert checkpoint_steps(run) == [5]


def test_the_intervals_change_no_number(tmp_path: Path):
    expected = start()
    for _ in range(STEPS // K):
        expected, _ = step(expected, NEVER)
    often = go(create_run(tmp_path / "often", CONFIG), checkpoint_every=5, evaluate_every=5, log_every=1)
    seldom = go(create_run(tmp_path / "seldom", CONFIG), checkpoint_every=0, evaluate=None, log_every=7)
    assert theta_sha256(often) == theta_sha256(seldom) == theta_sha256(expected)


def test_a_weakly_typed_state_is_resumed_as_it_would_have_gone_on(tmp_path: Path):
    def weak() -> State:  # as a weak float32 x * bfloat16 would be bfloat16, as a strong one an error or float32
        return State({"x": jnp.asarray(1 / 3) * 1}, (), jax.random.key(0), jnp.int32(0))

    @jax.jit
    def shrink(state: State, data: Any) -> tuple[State, dict[str, Any]]:
        with jax.numpy_dtype_promotion("standard"):
            theta = {"x": state.theta["x"] * jnp.bfloat16(0.9)}
        return state._replace(theta=theta, step=state.step + 1), {"loss": theta["x"][None]}

    assert weak().theta["x"].weak_type
    whole = train(shrink, weak(), None, create_run(tmp_path / "whole", {}), steps=4, progress=Quiet())
    run = create_run(tmp_path / "run", {})
    train(shrink, weak(), None, run, steps=2, progress=Quiet())
    resumed = train(shrink, restore_checkpoint(run, weak()), None, run, steps=4, progress=Quiet())
    assert theta_sha256(resumed.theta) == theta_sha256(whole.theta)


def test_a_callback_sees_every_step_once_and_in_order(tmp_path: Path, uninterrupted: tuple[str, bytes]):
    seen: list[tuple[int, dict[str, np.ndarray]]] = []
    run = create_run(tmp_path / "run", CONFIG)
    state = go(run, callback=lambda done, metrics: seen.append((done, metrics)), log_every=1)
    assert [done for done, _ in seen] == list(range(K, STEPS + 1, K))
    losses = np.concatenate([metrics["loss"] for _, metrics in seen])
    np.testing.assert_array_equal(losses, [line["loss"] for line in read_metrics(run) if "loss" in line])
    assert theta_sha256(state.theta) == uninterrupted[0]


def test_saved_is_called_with_each_state_once_it_can_be_restored(tmp_path: Path):
    run, seen = create_run(tmp_path / "run", CONFIG), []

    def saved(done: int, state: State) -> None:
        assert theta_sha256(restore_checkpoint(run, start())) == theta_sha256(state)
        seen.append(done)
        if done == 40:
            os.kill(os.getpid(), signal.SIGTERM)  # stops after a call that no interval saves

    with pytest.raises(SystemExit):
        go(run, checkpoint_every=20, saved=saved)
    assert seen == [20, 40, 45] and checkpoint_steps(run) == seen
    go(run, checkpoint_every=0, saved=saved)
    assert seen == [20, 40, 45, STEPS]


def test_lines_hold_the_steps_own_numbers_and_evaluations(tmp_path: Path):
    run = create_run(tmp_path / "run", CONFIG)
    final = go(run, evaluate_every=25)
    state, losses = start(), []
    for _ in range(STEPS // K):
        state, metrics = step(state, NEVER)
        losses += np.asarray(metrics["loss"]).tolist()
    lines = read_metrics(run)
    assert {e["step"]: e["loss"] for e in lines if "loss" in e} == {i: losses[i - 1] for i in range(2, STEPS + 1, 2)}
    assert [e["step"] for e in lines if "eval/norm" in e] == [25, 50, STEPS]
    assert lines[-1]["eval/norm"] == float(jnp.linalg.norm(final.theta["w"]))


def test_a_longer_run_goes_on_from_a_finished_one(tmp_path: Path, uninterrupted: tuple[str, bytes]):
    run = create_run(tmp_path / "run", CONFIG)
    go(run, steps=30)
    run = resume_run(run.folder, {**CONFIG, "steps": 61})
    assert theta_sha256(go(run).theta) == uninterrupted[0]


def test_a_finished_run_is_left_alone_and_says_so(tmp_path: Path):
    run, out = create_run(tmp_path / "run", CONFIG), io.StringIO()
    final = go(run)
    before = {p: p.stat().st_mtime_ns for p in run.folder.rglob("*")}
    assert theta_sha256(go(run, progress=Quiet(stream=out)).theta) == theta_sha256(final.theta)
    assert "is at step 60 of 60: nothing to do" in out.getvalue()
    assert before == {p: p.stat().st_mtime_ns for p in run.folder.rglob("*")}


def test_steps_that_do_not_divide_are_refused_with_those_that_do(tmp_path: Path):
    with pytest.raises(ValueError, match="choose steps=60 or 65"):
        go(create_run(tmp_path / "run", CONFIG), steps=62)


def test_metrics_of_another_number_of_steps_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"has shape \(5,\), but a call of 10 steps must return"):
        go(create_run(tmp_path / "run", CONFIG), steps_per_call=10)


def test_a_full_disk_while_saving_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: tuple[str, bytes]
):
    resource = pytest.importorskip("resource")
    run, real = create_run(tmp_path / "run", CONFIG), checkpoints_module.write_arrays
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def write(folder: Path, run: Run, step: int, state: Any) -> None:
        if step == 30:  # from here on no file grows past 100 bytes, as if the disk were full
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        try:
            real(folder, run, step, state)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(checkpoints_module, "write_arrays", write)
    with pytest.raises(RunError, match=r"could not save step 30 .*last good checkpoint is step 20"):
        go(run)
    assert sorted(p.name for p in run.checkpoints.iterdir()) == ["00000010", "00000020"]
    monkeypatch.undo()
    assert (theta_sha256(go(run).theta), run.metrics.read_bytes()) == uninterrupted


def test_a_full_disk_while_logging_leaves_whole_lines_and_the_checkpoints(
    tmp_path: Path, uninterrupted: tuple[str, bytes]
):
    resource = pytest.importorskip("resource")
    run, limits = create_run(tmp_path / "run", CONFIG), resource.getrlimit(resource.RLIMIT_FSIZE)

    class Full(Quiet):
        def update(self, done: int, metrics: Any) -> None:
            if done == 25:
                resource.setrlimit(resource.RLIMIT_FSIZE, (run.metrics.stat().st_size + 30, limits[1]))

    try:
        with pytest.raises(
            RunError, match=r"could not write .*metrics.jsonl: .*\. The last good checkpoint is step 20"
        ):
            go(run, progress=Full())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert run.metrics.read_bytes().endswith(b"\n") and read_metrics(run)[-1]["step"] == 24
    assert theta_sha256(go(run).theta) == uninterrupted[0]


# ---- what a person sees


def test_without_a_terminal_there_are_about_twenty_lines_with_loss_accuracy_and_time_left():
    out = io.StringIO()
    lines = Lines(stream=out)
    lines.start(0, 1500)
    for done in range(1, 1501):
        if done == 2:
            time.sleep(0.01)
        lines.update(done, {"loss": 1.2344, "score": 0.3452})
    shown = out.getvalue().splitlines()[1:]
    assert 15 <= len(shown) <= 25
    pattern = r"step \d+/1500  loss 1\.234  accuracy 0\.3452  \S+ steps/s  \S+s left"
    assert all(re.fullmatch(pattern, line) for line in shown[1:]), shown
    assert shown[-1].startswith("step 1500/1500")


@pytest.mark.parametrize("done", [0, 7])
def test_the_first_speed_is_that_of_steps_and_not_of_what_was_dispatched_while_one_compiled(monkeypatch, done):
    now = 100.0
    monkeypatch.setattr("metalearn.runs.progress.time.monotonic", lambda: now)
    out = io.StringIO()
    lines = Lines(stream=out)
    lines.start(done, done + 40)
    for seconds in (30.0, 0.004, *[2.0] * 6):  # calls of 5 steps: one compiles, one was dispatched meanwhile
        now, done = now + seconds, done + 5
        lines.update(done, {"loss": 1.0})
    speeds = re.findall(r"(\S+) steps/s", out.getvalue())
    assert len(speeds) == 6 and set(speeds) == {"2.5"}


def test_the_bar_shows_loss_score_and_place():
    out = io.StringIO()
    bar = Bar("squared error", out)
    bar.start(100, 200)
    bar.update(150, {"loss": 0.5, "score": 0.25})
    bar.note("a note")
    bar.close()
    shown = out.getvalue()
    assert "150/200" in shown and "loss 0.5  squared error 0.25" in shown and "a note\n" in shown


def test_durations_read_well():
    assert [duration(s) for s in (4.4, 65, 3600 * 3 + 7 * 60 + 5)] == ["4s", "1m05s", "3h07m"]


if __name__ == "__main__":
    main(*sys.argv[1:])
