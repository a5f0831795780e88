"""What a person sees of a sweep: a live table on a terminal, one line per finished cell in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from io import StringIO
from typing import Any, Protocol, TextIO, runtime_checkable

from metalearn.runs.progress import duration
from metalearn.sweeps.records import ENDED, Record

__all__ = ["Lines", "Table", "Watch", "default_watch"]

_ROWS = 12  # of finished and running cells in the table


@runtime_checkable
class Watch(Protocol):
    """What `run_sweep` calls as the sweep advances."""

    def start(self, name: str, records: Sequence[Record]) -> None:
        """Begin; `records` are those of earlier calls of `run_sweep`."""
        ...

    def update(self, records: Sequence[Record]) -> None:
        """Show the present records."""
        ...

    def note(self, text: str) -> None:
        """Show a sentence that a person should read."""
        ...

    def close(self) -> None:
        """End, whether or not the sweep succeeded."""
        ...


def default_watch(stream: TextIO | StringIO | None = None) -> Watch:
    """A live table if `stream` (None: stderr) is a terminal, otherwise lines."""
    terminal = (sys.stderr if stream is None else stream).isatty()
    return Table(stream) if terminal else Lines(stream)


class Lines:
    """One line per cell that ended: `12/40  batch-64,seed-1: done, 0.123 after 45s; 4m10s left`."""

    def __init__(self, stream: TextIO | StringIO | None = None):
        self._stream = sys.stderr if stream is None else stream
        self._known: set[str] = set()
        self._waiting: set[tuple[str, str]] = set()
        self._clock = _Clock()

    def start(self, name: str, records: Sequence[Record]) -> None:
        """See `Watch`."""
        self._known = {r.name for r in records if r.state in ENDED}
        self._clock.start(records)
        self.note(f"sweep {name}: {len(records)} cells, {len(self._known)} of them done before")

    def update(self, records: Sequence[Record]) -> None:
        """See `Watch`."""
        ended = [r for r in records if r.state in ENDED]
        new = [r for r in ended if r.name not in self._known]
        self._known = {r.name for r in ended}
        left = self._clock.time_left(records)
        for number, r in enumerate(new, len(ended) - len(new) + 1):
            tail = f"; {left} left" if left and r is new[-1] else ""
            self.note(f"{number}/{len(records)}  {r.name}: {_format_outcome(r)}{tail}")
        waiting = {(r.name, r.error) for r in records if r.state == "waiting" and r.error is not None}
        for name, reason in sorted(waiting - self._waiting):
            self.note(f"{name} has to wait: {reason}")
        self._waiting |= waiting

    def note(self, text: str) -> None:
        """See `Watch`."""
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """See `Watch`."""


class Table:
    """A table of running cells and of those that ended last, with the remaining time, redrawn in place."""

    def __init__(self, stream: TextIO | StringIO | None = None):
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=sys.stderr if stream is None else stream)
        self._live = Live(console=self._console, refresh_per_second=2, transient=False)
        self._clock, self._name = _Clock(), ""

    def start(self, name: str, records: Sequence[Record]) -> None:
        """See `Watch`."""
        self._name = name
        self._clock.start(records)
        self._live.start()
        self.update(records)

    def update(self, records: Sequence[Record]) -> None:
        """See `Watch`."""
        self._live.update(self._make_table(records))

    def note(self, text: str) -> None:
        """See `Watch`."""
        self._console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        """See `Watch`."""
        self._live.stop()

    def _make_table(self, records: Sequence[Record]) -> Any:
        from rich.markup import escape
        from rich.table import Table as RichTable

        running = [r for r in records if r.state == "running" or (r.state == "waiting" and r.error is not None)]
        ended = [r for r in records if r.state in ENDED]
        left = self._clock.time_left(records)
        failed = sum(r.state == "failed" for r in records)
        title = f"{self._name}: {len(ended)} of {len(records)} done"
        title += (f", {failed} of them failed" if failed else "") + (f", {left} left" if left else "")
        table = RichTable(title=escape(title), title_justify="left", expand=False)
        for heading, justify in (("cell", "left"), ("state", "left"), ("step", "right"), ("value", "right")):
            table.add_column(heading, justify=justify)  # pyright: ignore[reportArgumentType]
        table.add_column("time", justify="right")
        last = sorted((r for r in ended if r.seconds is not None), key=lambda r: self._clock.order(r))
        for r in [*last[-max(_ROWS - len(running), 3) :], *running]:
            value = "" if r.value is None else f"{r.value:.4g}"
            seconds = "" if r.seconds is None else duration(r.seconds)
            state = r.state if r.error is None else f"{r.state}: {r.error}"[:60]
            table.add_row(escape(r.name), escape(state), "" if r.step is None else str(r.step), value, seconds)
        return table


class _Clock:
    """Estimates the remaining time from the cells that ended since `start`, and remembers their order."""

    def __init__(self) -> None:
        self._began, self._before = 0.0, 0
        self._order: dict[str, int] = {}

    def start(self, records: Sequence[Record]) -> None:
        self._began, self._before = time.monotonic(), sum(r.state in ENDED for r in records)

    def time_left(self, records: Sequence[Record]) -> str:
        ended = sum(r.state in ENDED for r in records)
        new = ended - self._before
        if new <= 0 or ended == len(records):
            return ""
        return duration((time.monotonic() - self._began) / new * (len(records) - ended))

    def order(self, record: Record) -> int:
        return self._order.setdefault(record.name, len(self._order))


def _format_outcome(r: Record) -> str:
    if r.error is not None:
        return f"failed, {r.error}"
    value = "" if r.value is None else f" {r.value:.4g}"
    return f"{r.state},{value}" + ("" if r.seconds is None else f" after {duration(r.seconds)}")
