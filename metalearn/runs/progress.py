"""Progress of a run for people: a bar on a terminal, lines in a log, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from io import StringIO
from typing import Any, Protocol, TextIO, runtime_checkable

__all__ = ["Bar", "Lines", "Progress", "Quiet", "Silent", "default_progress", "duration"]


@runtime_checkable
class Progress(Protocol):
    """What `train` calls as it advances."""

    def start(self, done: int, steps: int) -> None:
        """Begin at `done` of `steps` outer steps."""
        ...

    def update(self, done: int, metrics: Mapping[str, float]) -> None:
        """Show that `done` outer steps are done.

        Args:
            done: outer steps done.
            metrics: means over the last call: `"loss"`, and `"score"` if the outer step returns one.
        """
        ...

    def note(self, text: str) -> None:
        """Show a sentence that a person should read."""
        ...

    def close(self) -> None:
        """End, whether or not the run succeeded."""
        ...


def default_progress(score: str = "accuracy", stream: TextIO | StringIO | None = None) -> Progress:
    """A bar if `stream` is a terminal, otherwise plain lines.

    Args:
        score: name of the score: "accuracy" for classes, "squared error" for regression.
        stream: where to write. None: stderr.
    """
    terminal = (sys.stderr if stream is None else stream).isatty()
    return Bar(score, stream) if terminal else Lines(score, stream)


class Bar:
    """A tqdm bar with loss, score and remaining time."""

    def __init__(self, score: str = "accuracy", stream: TextIO | StringIO | None = None):
        self._score, self._stream, self._bar = score, sys.stderr if stream is None else stream, None

    def start(self, done: int, steps: int) -> None:
        """See `Progress`."""
        from tqdm import tqdm

        self._bar: Any = tqdm(total=steps, initial=done, unit="step", dynamic_ncols=True, file=self._stream)

    def update(self, done: int, metrics: Mapping[str, float]) -> None:
        """See `Progress`."""
        self._bar.set_postfix_str("  ".join(_format_metrics(metrics, self._score)), refresh=False)
        self._bar.update(done - self._bar.n)

    def note(self, text: str) -> None:
        """See `Progress`."""
        if self._bar is None:
            print(text, file=self._stream, flush=True)
        else:
            self._bar.write(text, file=self._stream)

    def close(self) -> None:
        """See `Progress`."""
        if self._bar is not None:
            self._bar.close()


class Lines:
    """About twenty lines per run and at least one per minute: `step 500/1500  loss 1.234  ...  1m05s left`."""

    def __init__(self, score: str = "accuracy", stream: TextIO | StringIO | None = None):
        self._score, self._stream = score, sys.stderr if stream is None else stream
        self._steps = self._next = self._first = 0
        self._began = self._last = 0.0
        self._calls = 0

    def start(self, done: int, steps: int) -> None:
        """See `Progress`."""
        self._steps, self._next, self._first, self._calls = steps, 0, done, 0
        self.note(f"step {done}/{steps}: compiling, which can take a minute")

    def update(self, done: int, metrics: Mapping[str, float]) -> None:
        """See `Progress`."""
        now = time.monotonic()
        if self._calls < 2:
            # The first call compiles, and the second was dispatched meanwhile: the clock starts after both.
            self._calls += 1
            self._first, self._began = done, now
        if done < self._next and done < self._steps and now - self._last < 60:
            return
        self._last, self._next = now, done + max(1, self._steps // 20)
        rate = (done - self._first) / (now - self._began) if now > self._began and done > self._first else 0.0
        speed = [f"{rate:.3g} steps/s", f"{duration((self._steps - done) / rate)} left"] if rate else []
        self.note("  ".join([f"step {done}/{self._steps}", *_format_metrics(metrics, self._score), *speed]))

    def note(self, text: str) -> None:
        """See `Progress`."""
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """See `Progress`."""


class Quiet(Lines):
    """Shows notes only."""

    def start(self, done: int, steps: int) -> None:
        """See `Progress`."""

    def update(self, done: int, metrics: Mapping[str, float]) -> None:
        """See `Progress`."""


class Silent:
    """Shows nothing, for runs whose progress is shown elsewhere."""

    def start(self, done: int, steps: int) -> None:
        """See `Progress`."""

    def update(self, done: int, metrics: Mapping[str, float]) -> None:
        """See `Progress`."""

    def note(self, text: str) -> None:
        """See `Progress`."""

    def close(self) -> None:
        """See `Progress`."""


def duration(seconds: float) -> str:
    """A length of time for people: `42s`, `1m05s`, `3h07m`."""
    whole = round(seconds)
    minutes, hours = whole // 60, whole // 3600
    if hours:
        return f"{hours}h{minutes % 60:02d}m"
    return f"{minutes}m{whole % 60:02d}s" if minutes else f"{whole}s"


def _format_metrics(metrics: Mapping[str, float], score: str) -> list[str]:
    names = {"loss": "loss", "score": score}
    return [f"{names[k]} {metrics[k]:.4g}" for k in names if k in metrics]
