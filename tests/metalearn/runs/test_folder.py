"""A run's folder: configuration, checkpoints, metrics, and everything that can be wrong with them."""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import tree_flatten_with_path

import metalearn.runs.checkpoint_files
import metalearn.runs.folder
from metalearn.errors import RunError
from metalearn.runs.checkpoints import checkpoint_steps, restore_checkpoint, save_checkpoint
from metalearn.runs.environment import git_commit
from metalearn.runs.files import write_atomically
from metalearn.runs.folder import Run, create_run, open_run, resume_run, write_result
from metalearn.runs.metrics import MetricsWriter, read_metrics

CONFIG = {"seed": 7, "steps": 100, "optimizer": {"name": "adam", "rate": 0.1}}


class State(NamedTuple):
    theta: Any
    keys: Any
    step: Any


def state_of(number: int) -> State:
    odd = jax.lax.bitcast_convert_type(jnp.uint32(0x7FC12345), jnp.float32)  # a NaN with a payload
    theta = {
        "w": jnp.arange(6.0).reshape(2, 3) + number,
        "half": [jnp.full((3,), 1 / 3, jnp.bfloat16), jnp.float16(0.1)],
        "none": None,
        "empty": jnp.zeros((0, 4)),
        "odd": jnp.stack([odd, jnp.float32(-0.0), jnp.float32(jnp.inf)]),
        "flags": jnp.array([True, False]),
        "bytes": jnp.arange(5, dtype=jnp.uint8),
        "large": jax.random.normal(jax.random.key(number), (64, 64)),
    }
    keys = (jax.random.key(number), jax.random.split(jax.random.key(number, impl="rbg"), 3))
    return State(theta, keys, jnp.int32(number))


def bits(state: Any) -> list[tuple]:
    def of(x: Any) -> tuple:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return str(jax.random.key_impl(x)), np.asarray(jax.random.key_data(x)).tobytes(), x.shape
        return x.dtype, np.asarray(x).tobytes(), x.shape

    return [(path, *of(x)) for path, x in tree_flatten_with_path(state)[0]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return create_run(tmp_path / "run", CONFIG)


# ---- the folder and its configuration


def test_the_folder_says_how_the_run_was_made(tmp_path: Path):
    @dataclass(frozen=True)
    class Part:
        path: Path
        sizes: tuple[int, ...]

    config = {"seed": 3, "part": Part(Path("a/b"), (1, 2)), "rate": np.float32(0.5)}
    run = create_run(tmp_path / "deep" / "run", config)
    content = json.loads((run.folder / "config.json").read_text())
    assert content["config"] == {"seed": 3, "part": {"path": "a/b", "sizes": [1, 2]}, "rate": 0.5}
    assert content["seed"] == 3 and open_run(run.folder) == run
    made = content["environments"][0]
    assert made["jax"] == jax.__version__ and made["command"] == sys.argv and "metalearn" in made and "commit" in made


def test_a_config_without_json_form_is_refused_before_anything_is_written(tmp_path: Path):
    with pytest.raises(TypeError, match="has no JSON form"):
        create_run(tmp_path / "run", {"f": object()})
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_not_written_over(run: Run):
    save_checkpoint(run, 1, state_of(1))
    with pytest.raises(
        RunError,
        match=r"already holds a run: continue it with --resume .*, replace it with --overwrite",
    ):
        create_run(run.folder, CONFIG)
    assert checkpoint_steps(run) == [1]


def test_overwrite_removes_a_run_and_nothing_else(run: Run):
    save_checkpoint(run, 1, state_of(1))
    write_result(run, {"accuracy": 1.0})
    with MetricsWriter(run, 0) as writer:
        writer.write([{"step": 1, "loss": 1.0}])
    (run.folder / "result.json.host-7.tmp").write_bytes(b"{")  # of a writer that was killed
    again = create_run(run.folder, {"seed": 8}, overwrite=True)
    assert sorted(p.name for p in run.folder.iterdir()) == ["config.json", "lock"] and again.config == {"seed": 8}
    (run.folder / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"holds notes.txt beside its run"):
        create_run(run.folder, CONFIG, overwrite=True)
    assert (run.folder / "notes.txt").read_text() == "mine"


def test_a_folder_of_other_files_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(RunError, match=r"not a run folder but holds notes.txt"):
            create_run(tmp_path, CONFIG, overwrite=overwrite)


def test_a_run_killed_before_its_config_was_whole_can_be_created_again(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json.tmp").write_text('{"conf')
    assert create_run(tmp_path / "run", CONFIG).config == CONFIG


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"config": {}}'])
def test_a_folder_without_readable_config_is_no_run(tmp_path: Path, content: str | None):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(RunError, match=r"config\.json"):
        open_run(tmp_path)


def test_resume_names_every_field_that_differs(run: Run):
    other = {"seed": 7, "steps": 200, "optimizer": {"name": "lion"}, "batch": 4}
    with pytest.raises(RunError) as error:
        resume_run(run.folder, other)
    for part in ("batch: absent -> 4", "optimizer.name: 'adam' -> 'lion'", "optimizer.rate: 0.1 -> absent"):
        assert part in str(error.value)
    assert "steps" not in str(error.value)


def test_resume_allows_free_fields_and_keeps_the_history(run: Run):
    changed = {**CONFIG, "steps": 200, "optimizer": {"name": "lion", "rate": 0.1}}
    again = resume_run(run.folder, changed, free=("steps", "optimizer"))
    assert open_run(run.folder) == again and again.config == changed
    assert len(json.loads((run.folder / "config.json").read_text())["environments"]) == 2


def test_a_nan_in_a_config_equals_itself(tmp_path: Path):
    create_run(tmp_path, {"bound": math.nan})
    resume_run(tmp_path, {"bound": math.nan})


def test_resume_under_another_jax_is_said(run: Run, monkeypatch: pytest.MonkeyPatch):
    now = {**metalearn.runs.folder.environment(), "jax": "99.0"}
    monkeypatch.setattr(metalearn.runs.folder, "environment", lambda: now)
    notes: list[str] = []
    resume_run(run.folder, CONFIG, note=notes.append)
    assert notes == [f"jax was {jax.__version__} and is now 99.0: the result may differ in the last bits"]


def test_git_commit_is_of_tracked_folders_only(tmp_path: Path):
    assert git_commit(tmp_path) is None

    def git(*command: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *identity, *command], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init")
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "a.py").touch()
    (tmp_path / "code.py").write_text("1")
    git("add", "code.py")
    git("commit", "--no-verify", "-m", "first")
    assert git_commit(tmp_path) == git("rev-parse", "HEAD") and git_commit(tmp_path / "site-packages") is None
    (tmp_path / "code.py").write_text("2")
    assert git_commit(tmp_path) == git("rev-parse", "HEAD") + "-dirty"


def test_import_metalearn_loads_no_checkpoint_library():
    code = "import sys, metalearn.runs.training; print({'orbax', 'tensorboardX', 'tqdm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# ---- checkpoints


def test_a_checkpoint_gives_back_every_bit_and_type(run: Run):
    state, template = state_of(3), state_of(4)
    save_checkpoint(run, 3, state)
    restored = restore_checkpoint(run, template)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert bits(restored) == bits(state) != bits(template)


def test_a_restored_state_can_be_donated(run: Run):
    state = state_of(3)
    save_checkpoint(run, 3, state)
    template = state_of(4)
    before = bits(template)
    restored = restore_checkpoint(run, template)
    moved = jax.jit(lambda s: s, donate_argnums=0)(restored)
    assert bits(moved) == bits(state) and bits(template) == before


def test_no_checkpoint_yet_gives_the_template(run: Run):
    template = state_of(0)
    assert restore_checkpoint(run, template) is template


def test_the_last_ones_are_kept(run: Run):
    for number in (1, 2, 10, 11):
        save_checkpoint(run, number, {"x": jnp.int32(number)}, keep=2)
    assert checkpoint_steps(run) == [10, 11]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def damages(folder: Path) -> list[tuple[str, Any]]:
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
    return [(f"{damage.__name__} {f}", (f, damage)) for f in files for damage in (truncate, flip, Path.unlink)]


def test_any_damage_to_any_file_is_seen_and_the_one_before_is_used(run: Run, tmp_path: Path):
    for number in (10, 20):
        save_checkpoint(run, number, state_of(number))
    newest, copy = run.checkpoints / "00000020", tmp_path / "copy"
    shutil.copytree(newest, copy)
    first, second = bits(state_of(10)), bits(state_of(20))
    template = state_of(0)
    tried = damages(newest)
    assert len(tried) > 20
    for what, (file, damage) in tried:
        notes: list[str] = []
        damage(newest / file)
        restored = bits(restore_checkpoint(run, template, notes.append))
        if notes:
            assert "checkpoint of step 20 is damaged" in notes[0] and restored == first, what
        else:  # one flipped bit of the manifest may hit what it does not need
            assert file.name == "manifest.json" and restored == second, what
        shutil.rmtree(newest)
        shutil.copytree(copy, newest)


def test_after_a_fall_back_the_damaged_one_is_moved_aside(run: Run):
    for number in (10, 20, 30):
        save_checkpoint(run, number, {"x": jnp.int32(number)})
    (run.checkpoints / "00000030" / "manifest.json").unlink()
    save_checkpoint(run, 25, {"x": jnp.int32(25)}, keep=2)  # the run went on from 20
    assert checkpoint_steps(run) == [20, 25]
    assert (run.checkpoints / "unreadable-30").exists()


def test_no_readable_checkpoint_is_an_error(run: Run):
    for number in (10, 20):
        flip(save_checkpoint(run, number, {"x": jnp.int32(0)}) / "state" / "_METADATA")
    with pytest.raises(RunError, match=r"is damaged, step 20: .*_METADATA has changed.*; step 10: .*Start a new run"):
        restore_checkpoint(run, {"x": jnp.int32(0)}, lambda _: None)


def test_a_whole_checkpoint_that_cannot_be_read_is_not_called_damaged(run: Run, monkeypatch: pytest.MonkeyPatch):
    import orbax.checkpoint as ocp

    def restore(*args: Any, **options: Any) -> None:
        raise UnicodeEncodeError("ascii", "\xfc", 0, 1, "ordinal not in range(128)")

    for number in (10, 20):
        save_checkpoint(run, number, {"x": jnp.int32(number)})
    notes: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(ocp.Checkpointer, "restore", restore)
        with pytest.raises(
            RunError, match=r"00000020 is whole, its checksums agree, but Orbax cannot read it"
        ) as error:
            restore_checkpoint(run, {"x": jnp.int32(0)}, notes.append)
    with monkeypatch.context() as patch:  # as of another user's file; the tests may run as root, who may read all
        patch.setattr(
            metalearn.runs.checkpoint_files, "file_sha256", lambda path: (_ for _ in ()).throw(OSError(13, "no", path))
        )
        with pytest.raises(RunError, match=r"cannot read .*: no\. Nothing is lost"):
            restore_checkpoint(run, {"x": jnp.int32(0)}, notes.append)
    assert "new run" not in str(error.value) and not notes
    assert int(restore_checkpoint(run, {"x": jnp.int32(0)})["x"]) == 20


def test_a_checkpoint_of_another_config_is_refused(run: Run, tmp_path: Path):
    other = create_run(tmp_path / "other", {**CONFIG, "seed": 8, "steps": 5})
    save_checkpoint(other, 5, {"x": jnp.int32(0)})
    shutil.copytree(other.checkpoints, run.checkpoints)
    with pytest.raises(RunError, match=r"has another configuration, old -> new: seed: 8 -> 7\. "):
        restore_checkpoint(run, {"x": jnp.int32(0)})


def test_a_checkpoint_of_other_shapes_is_refused(run: Run):
    save_checkpoint(run, 5, {"x": jnp.zeros((2,)), "y": jnp.int32(0)})
    with pytest.raises(RunError, match=r"x float32\[2\] -> x float32\[3\]"):
        restore_checkpoint(run, {"x": jnp.zeros((3,)), "y": jnp.int32(0)})


# ---- metrics


def test_reopened_metrics_drop_the_lost_steps_and_the_torn_line(run: Run):
    with MetricsWriter(run, 0) as writer:
        writer.write([{"step": s, "loss": s / 3} for s in (1, 2, 3)])
        writer.write([{"step": 3, "eval/loss": 0.5}])
    with open(run.metrics, "ab") as file:
        file.write(b'{"step": 4, "lo')
    assert [line["step"] for line in read_metrics(run)] == [1, 2, 3, 3]
    with MetricsWriter(run, 2) as writer:
        writer.write([{"step": 3, "loss": 1.0}])
    assert read_metrics(run) == [
        {"step": 1, "loss": 1 / 3},
        {"step": 2, "loss": 2 / 3},
        {"step": 3, "loss": 1.0},
    ]


def test_numbers_that_are_not_finite_stay_valid_json(run: Run):
    with MetricsWriter(run, 0) as writer:
        writer.write([{"step": 1, "loss": math.inf, "curve": [1.0, math.nan]}])
    assert json.loads(run.metrics.read_text()) == {"step": 1, "loss": None, "curve": [1.0, None]}
    assert math.isnan(read_metrics(run)[0]["loss"])


def test_a_bad_line_amid_the_metrics_is_named(run: Run):
    run.metrics.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(RunError, match=r"line 2 of .*metrics\.jsonl"):
        read_metrics(run)


def test_tensorboard_gets_the_same_numbers(run: Run):
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

    with MetricsWriter(run, 0) as writer:
        writer.write([{"step": 1, "loss": 0.5, "score": 0.25, "curve": [1.0]}])
    with MetricsWriter(run, 1) as writer:
        writer.write([{"step": 2, "loss": 0.125}])
    scalars, restarts = [], []
    for path in sorted(run.tensorboard.iterdir(), key=lambda p: p.stat().st_mtime_ns):
        content = path.read_bytes()
        while content:  # a record: length (8 bytes), its checksum (4), the event, its checksum (4)
            length = int.from_bytes(content[:8], "little")
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            scalars += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            restarts += [event.step] * event.HasField("session_log")
    assert sorted(scalars) == [(1, "loss", 0.5), (1, "score", 0.25), (2, "loss", 0.125)] and restarts == [2]


def test_a_result_replaces_an_older_one(run: Run):
    write_result(run, {"accuracy": 0.5})
    write_result(run, {"accuracy": np.float64(0.75)})
    assert json.loads(run.result.read_text()) == {"accuracy": 0.75}


def test_overwriting_refuses_a_folder_with_other_things_before_it_removes_the_run(tmp_path):
    run = create_run(tmp_path / "r", {"seed": 1})
    (run.folder / "thesis.tex").write_text("mine")
    with pytest.raises(RunError, match=r"holds thesis.tex beside its run"):
        create_run(run.folder, {"seed": 2}, overwrite=True)
    assert open_run(run.folder).config == {"seed": 1}
    (run.folder / "thesis.tex").rename(run.folder / "evaluate-wine.json")
    assert create_run(run.folder, {"seed": 2}, overwrite=True).config == {"seed": 2}
    assert not (run.folder / "evaluate-wine.json").exists()


def test_two_writers_of_one_file_do_not_take_each_others_bytes(tmp_path, monkeypatch):
    path, replace, pid = tmp_path / "result.json", os.replace, os.getpid()

    def replacing(source, target):
        monkeypatch.setattr(os, "replace", replace)
        monkeypatch.setattr(os, "getpid", lambda: pid + 1)
        write_atomically(path, b"of another process")
        replace(source, target)

    monkeypatch.setattr(os, "replace", replacing)
    write_atomically(path, b"of this one")
    assert path.read_bytes() == b"of this one" and os.listdir(tmp_path) == ["result.json"]
