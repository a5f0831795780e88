"""What a person sees of a run while it goes: a bar on a terminal, lines in a log, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, Protocol, TextIO


class Progress(Protocol):
    """Told by `train` how far it is. `metrics` has `"loss"`, and `"score"` where the outer step gives one."""

    def start(self, done: int, steps: int) -> None:
        """Begin at `done` of `steps` outer steps."""
        ...

    def update(self, done: int, metrics: Mapping[str, float]) -> None:
        """`done` outer steps are done, with these means over the last call."""
        ...

    def note(self, text: str) -> None:
        """Say a sentence that a person should read."""
        ...

    def close(self) -> None:
        """The run has ended, well or not."""
        ...


def default_progress(score: str = "accuracy", stream: TextIO | None = None) -> Progress:
    """A bar where `stream` is a terminal, plain lines where it is not.

    Args:
        score: what the score is called: "accuracy" of classes, "squared error" of regression.
        stream: stderr when None.
    """
    terminal = (sys.stderr if stream is None else stream).isatty()
    return Bar(score, stream) if terminal else Lines(score, stream)


class Bar:
    """A tqdm bar with loss, score and time left."""

    def __init__(self, score: str = "accuracy", stream: TextIO | None = None):
        self._score, self._stream, self._bar = score, sys.stderr if stream is None else stream, None

    def start(self, done: int, steps: int) -> None:
        """See `Progress`."""
        from tqdm import tqdm

        self._bar: Any = tqdm(total=steps, initial=done, unit="step", dynamic_ncols=True, file=self._stream)

    def update(self, done: int, metrics: Mapping[str, float]) -> None:
        """See `Progress`."""
        self._bar.set_postfix_str("  ".join(_shown(metrics, self._score)), refresh=False)
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
    """About twenty lines a run, and at least one a minute: `step 500/1500  loss 1.234  ...  1m05s left`."""

    def __init__(self, score: str = "accuracy", stream: TextIO | None = None):
        self._score, self._stream = score, sys.stderr if stream is None else stream
        self._steps = self._next = self._first = 0
        self._began = self._last = 0.0

    def start(self, done: int, steps: int) -> None:
        """See `Progress`."""
        self._steps, self._next, self._first, self._began = steps, 0, done, 0.0
        self.note(f"step {done}/{steps}: compiling, which can take a minute")

    def update(self, done: int, metrics: Mapping[str, float]) -> None:
        """See `Progress`."""
        now = time.monotonic()
        if not self._began:  # the first call compiled: the clock starts after it
            self._first, self._began, self._last = done, now, now
        if done < self._next and done < self._steps and now - self._last < 60:
            return
        self._last, self._next = now, done + max(1, self._steps // 20)
        rate = (done - self._first) / (now - self._began) if now > self._began and done > self._first else 0.0
        speed = [f"{rate:.3g} steps/s", f"{duration((self._steps - done) / rate)} left"] if rate else []
        self.note("  ".join([f"step {done}/{self._steps}", *_shown(metrics, self._score), *speed]))

    def note(self, text: str) -> None:
        """See `Progress`."""
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """See `Progress`."""


class Quiet(Lines):
    """Notes only."""

    def start(self, done: int, steps: int) -> None:
        """See `Progress`."""

    def update(self, done: int, metrics: Mapping[str, float]) -> None:
        """See `Progress`."""


class Silent:
    """Nothing at all, for runs of which something else says how far they are."""

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


def _shown(metrics: Mapping[str, float], score: str) -> list[str]:
    names = {"loss": "loss", "score": score}
    return [f"{names[k]} {metrics[k]:.4g}" for k in names if k in metrics]
