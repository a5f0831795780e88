"""A long run says how long it will take before it writes anything; its numbers stay the same."""

import numpy as np
import pytest

from metalearn.errors import RunError
from metalearn.recipes import driving
from metalearn.recipes.driving import drive
from metalearn.runs.progress import Silent
from tests.metalearn.runs.test_processes import STEPS, training


class Noting(Silent):
    """Keeps notes, each with whether the run's folder was there, and may interrupt at the first estimate."""

    def __init__(self, folder, interrupt=False):
        self.folder, self.interrupt, self.notes = folder, interrupt, []

    def note(self, text):
        self.notes.append((text, self.folder.exists()))
        if self.interrupt and "a step takes" in text:
            raise KeyboardInterrupt


def run(folder, progress, **more):
    kept = {"evaluate": lambda theta: {"norm": 0.0}, "evaluate_every": 0, "checkpoint_every": 6}
    return drive(training("nres"), folder, progress=progress, **kept, **more)[1]


def test_a_long_run_says_how_long_it_takes_before_it_writes(tmp_path, monkeypatch):
    short = Noting(tmp_path / "short")
    expected = run(short.folder, short)
    assert not any("a step takes" in text for text, _ in short.notes)
    monkeypatch.setattr(driving, "LONG", STEPS)
    monkeypatch.setattr(driving, "time_step", lambda training, of=driving.time_step: of(training) * 0 + 3600.0)
    long = Noting(tmp_path / "long")
    np.testing.assert_array_equal(run(long.folder, long).theta, expected.theta)
    [(said, folder_was_there)] = [note for note in long.notes if "a step takes" in note[0]]
    assert "a step takes 3.6e+03 s on " in said and f"about {STEPS}h00m in all" in said and not folder_was_there
    again = Noting(tmp_path / "long")
    run(again.folder, again, resume=True)  # it was told at the beginning
    assert not any("a step takes" in text for text, _ in again.notes)


def test_ctrl_c_at_the_estimate_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(driving, "LONG", STEPS)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", Noting(tmp_path / "run", interrupt=True))
    assert not (tmp_path / "run").exists()


def test_a_used_folder_is_refused_before_anything_is_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(driving, "LONG", STEPS)
    monkeypatch.setattr(driving, "time_step", lambda training: pytest.fail("a step was timed"))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"is not a run folder but holds notes\.txt"):
        run(tmp_path, Noting(tmp_path))


def test_a_step_is_timed_by_itself():
    assert 0 < driving.time_step(training("nres")) < 1
