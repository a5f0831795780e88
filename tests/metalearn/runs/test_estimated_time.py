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
        self.folder, self.interrupt, self.notes, self.done = folder, interrupt, [], []

    def update(self, done, metrics):
        self.done.append(done)

    def note(self, text):
        self.notes.append((text, self.folder.exists()))
        if self.interrupt and "a step takes" in text:
            raise KeyboardInterrupt


def run(folder, progress, steps_per_call=2, **more):
    kept = {"evaluate": lambda theta: {"norm": 0.0}, "evaluate_every": 0, "checkpoint_every": 6, **more}
    return drive(training("nres")._replace(steps_per_call=steps_per_call), folder, progress=progress, **kept)[1]


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


@pytest.mark.parametrize(("seconds", "in_a_call"), [(3600.0, 2), (3.0, 3), (0.01, 6)])
def test_calls_of_a_long_run_are_short_enough_to_be_stopped(tmp_path, monkeypatch, seconds, in_a_call):
    """The first half and, resumed, the second: as many steps in a call as 10 seconds allow, and two at least."""
    expected = run(tmp_path / "short", Noting(tmp_path / "short"))
    monkeypatch.setattr(driving, "LONG", STEPS)
    monkeypatch.setattr(driving, "time_step", lambda training: seconds)
    folder = tmp_path / "long"

    def stop(step, numbers):
        raise OSError("stopped in the middle")

    first, second = Noting(folder), Noting(folder)
    with pytest.raises(OSError, match="in the middle"):
        run(folder, first, steps_per_call=6, evaluate_every=STEPS // 2, evaluated=stop)
    theta = run(folder, second, steps_per_call=6, resume=True).theta
    assert first.done == list(range(in_a_call, STEPS // 2 + 1, in_a_call))
    assert second.done == list(range(STEPS // 2 + in_a_call, STEPS + 1, in_a_call))
    np.testing.assert_array_equal(theta, expected.theta)


@pytest.mark.parametrize(
    ("steps", "left", "in_a_call", "seconds", "found"),
    [
        (50_000, 50_000, 25, 17.0, 5),  # the preset `paper`: the fewest that 25 can be cut into
        (6_000, 5_975, 25, 5.0, 5),
        (6_000, 6_000, 24, 1.0, 8),
        (6_000, 5_975, 24, 1e-3, 5),  # the whole call, which divides what is left
        (5_001, 5_001, 2, 0.1, 1),  # it was 1 before
    ],
)
def test_calls_are_parts_of_what_they_were(steps, left, in_a_call, seconds, found):
    """So that evaluations come after the same steps; one step alone is another program than a loop of them."""
    whole = training("nres")._replace(steps=steps, steps_per_call=in_a_call)
    short = driving._with_short_calls(whole, seconds, left)
    before = driving._steps_in_a_call(whole, left)
    assert driving._steps_in_a_call(short, left) == found and before % found == 0


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


def test_a_cell_of_a_sweep_is_not_timed(tmp_path, monkeypatch):
    """Nobody would read how long it takes, and nobody waits for it to stop."""
    monkeypatch.setattr(driving, "LONG", STEPS)
    monkeypatch.setattr(driving, "time_step", lambda training: pytest.fail("a step was timed"))
    run(tmp_path / "cell", Silent())
    run(tmp_path / "cell", Silent(), resume=True)


def test_a_step_is_timed_by_itself():
    assert 0 < driving.time_step(training("nres")) < 1
