"""What a person sees of a sweep: a live table on a terminal, a line a finished cell in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any, Protocol, TextIO

from metalearn.runs.progress import duration
from metalearn.sweeps.records import ENDED, Record

_ROWS = 12


class Watch(Protocol):
    """Told by `run_sweep` how far it is."""

    def start(self, name: str, found: Sequence[Record]) -> None:
        """Begin, with the records of earlier calls."""
        ...

    def update(self, found: Sequence[Record]) -> None:
        """The records as they are now."""
        ...

    def note(self, text: str) -> None:
        """Say a sentence that a person should read."""
        ...

    def close(self) -> None:
        """The sweep has ended, well or not."""
        ...


def default_watch(stream: TextIO | None = None) -> Watch:
    """A live table where `stream` (stderr when None) is a terminal, lines where it is not."""
    terminal = (sys.stderr if stream is None else stream).isatty()
    return Table(stream) if terminal else Lines(stream)


class Lines:
    """`12/40  tasks-64,seed-1: done, 0.123 after 45s; 4m10s left`, a line a cell that ended."""

    def __init__(self, stream: TextIO | None = None):
        self._stream = sys.stderr if stream is None else stream
        self._known: set[str] = set()
        self._waiting: set[tuple[str, str]] = set()
        self._clock = _Clock()

    def start(self, name: str, found: Sequence[Record]) -> None:
        """See `Watch`."""
        self._known = {r.name for r in found if r.state in ENDED}
        self._clock.start(found)
        self.note(f"sweep {name}: {len(found)} cells, {len(self._known)} of them done before")

    def update(self, found: Sequence[Record]) -> None:
        """See `Watch`."""
        ended = [r for r in found if r.state in ENDED]
        new = [r for r in ended if r.name not in self._known]
        self._known = {r.name for r in ended}
        left = self._clock.left(found)
        for number, r in enumerate(new, len(ended) - len(new) + 1):
            tail = f"; {left} left" if left and r is new[-1] else ""
            self.note(f"{number}/{len(found)}  {r.name}: {_told(r)}{tail}")
        waiting = {(r.name, r.error) for r in found if r.state == "waiting" and r.error is not None}
        for name, reason in sorted(waiting - self._waiting):
            self.note(f"{name} has to wait: {reason}")
        self._waiting |= waiting

    def note(self, text: str) -> None:
        """See `Watch`."""
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """See `Watch`."""


class Table:
    """A table of what is being run and what ended last, with the time left, redrawn in place."""

    def __init__(self, stream: TextIO | None = None):
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=sys.stderr if stream is None else stream)
        self._live = Live(console=self._console, refresh_per_second=2, transient=False)
        self._clock, self._name = _Clock(), ""

    def start(self, name: str, found: Sequence[Record]) -> None:
        """See `Watch`."""
        self._name = name
        self._clock.start(found)
        self._live.start()
        self.update(found)

    def update(self, found: Sequence[Record]) -> None:
        """See `Watch`."""
        self._live.update(self._drawn(found))

    def note(self, text: str) -> None:
        """See `Watch`."""
        self._console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        """See `Watch`."""
        self._live.stop()

    def _drawn(self, found: Sequence[Record]) -> Any:
        from rich.markup import escape
        from rich.table import Table as RichTable

        running = [r for r in found if r.state == "running" or (r.state == "waiting" and r.error is not None)]
        ended = [r for r in found if r.state in ENDED]
        left = self._clock.left(found)
        failed = sum(r.state == "failed" for r in found)
        title = f"{self._name}: {len(ended)} of {len(found)} done"
        title += (f", {failed} of them failed" if failed else "") + (f", {left} left" if left else "")
        table = RichTable(title=escape(title), title_justify="left", expand=False)
        for heading, justify in (("cell", "left"), ("state", "left"), ("step", "right"), ("value", "right")):
            table.add_column(heading, justify=justify)  # pyright: ignore[reportArgumentType]
        table.add_column("time", justify="right")
        last = sorted((r for r in ended if r.seconds is not None), key=lambda r: self._clock.seen(r))
        for r in [*last[-max(_ROWS - len(running), 3) :], *running]:
            value = "" if r.value is None else f"{r.value:.4g}"
            seconds = "" if r.seconds is None else duration(r.seconds)
            state = r.state if r.error is None else f"{r.state}: {r.error}"[:60]
            table.add_row(escape(r.name), escape(state), "" if r.step is None else str(r.step), value, seconds)
        return table


class _Clock:
    """Time left, from the cells that ended while it was running; and in which order they did."""

    def __init__(self) -> None:
        self._began, self._before = 0.0, 0
        self._order: dict[str, int] = {}

    def start(self, found: Sequence[Record]) -> None:
        self._began, self._before = time.monotonic(), sum(r.state in ENDED for r in found)

    def left(self, found: Sequence[Record]) -> str:
        ended = sum(r.state in ENDED for r in found)
        new = ended - self._before
        if new <= 0 or ended == len(found):
            return ""
        return duration((time.monotonic() - self._began) / new * (len(found) - ended))

    def seen(self, record: Record) -> int:
        return self._order.setdefault(record.name, len(self._order))


def _told(r: Record) -> str:
    if r.error is not None:
        return f"failed, {r.error}"
    value = "" if r.value is None else f" {r.value:.4g}"
    return f"{r.state},{value}" + ("" if r.seconds is None else f" after {duration(r.seconds)}")
