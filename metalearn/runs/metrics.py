"""The numbers of a run over time: JSON lines for programs, TensorBoard event files for people.

A line of training is `{"step": 500, "loss": 1.2, ...}`, one of evaluation `{"step": 500, "eval/accuracy": 0.9, ...}`.
Numbers that are not finite are null. Lines are in the order of their steps, and each is there once, however often the
run was killed and resumed.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from pathlib import Path
from typing import Any

from metalearn.errors import RunError
from metalearn.runs.checkpoints import describe_last_checkpoint
from metalearn.runs.files import write_atomically
from metalearn.runs.folder import Run
from metalearn.runs.json_values import finite_or_null

__all__ = ["MetricsWriter", "read_metrics"]


def read_metrics(run: Run) -> list[dict[str, Any]]:
    """Read all lines of a run's metrics, with NaN for null. A last line that a kill cut short is left out.

    Raises:
        RunError: the file cannot be read, or another line is not a JSON object with a step.
    """
    try:
        lines = run.metrics.read_bytes().splitlines(keepends=True) if run.metrics.exists() else []
    except OSError as error:
        raise RunError(f"cannot read {run.metrics}: {error}") from error
    parsed = [_parse(line) for line in lines]
    if parsed and parsed[-1] is None:
        parsed.pop()
    if None in parsed:
        raise RunError(f"line {parsed.index(None) + 1} of {run.metrics} is not a JSON object with a step")
    return [{k: math.nan if v is None else v for k, v in line.items()} for line in parsed if line is not None]


class MetricsWriter:
    """Appends to the metrics of a run that has done `done` outer steps; a context manager.

    Lines after step `done` were written before a kill and their steps will be run again: they are dropped.

    Raises:
        RunError: a file cannot be written, when it is opened or in any method. The message says what is safe.
    """

    def __init__(self, run: Run, done: int):
        self._run = run
        try:
            _drop_lines_after(run.metrics, done)
            self._file = open(run.metrics, "ab", buffering=0)
            try:
                self._events = _open_events(run.tensorboard, done)
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise self._run_error(error) from error

    def write(self, lines: list[dict[str, Any]]) -> None:
        """Append lines of floats or lists of floats, in the order of their steps. A kill cannot undo it."""
        if not lines:
            return
        content = b"".join(json.dumps(finite_or_null(line), allow_nan=False).encode() + b"\n" for line in lines)
        try:
            _append(self._file, content)
            for line in lines:
                self._events.write_event(_event(line))
            self._events.flush()
        except OSError as error:
            raise self._run_error(error) from error

    def sync(self) -> None:
        """Flush the lines to the disk. A checkpoint that relies on them must be saved after this."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._run_error(error) from error

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()
        with contextlib.suppress(OSError):  # `write` has already reported a full disk
            self._events.close()

    def _run_error(self, error: OSError) -> RunError:
        name = error.filename or self._run.metrics
        return RunError(f"could not write {name}: {error.strerror or error}. {describe_last_checkpoint(self._run)}")


def _append(file: Any, content: bytes) -> None:
    before = os.fstat(file.fileno()).st_size
    try:
        written = 0
        while written < len(content):  # a nearly full disk writes a part, then raises
            written += file.write(content[written:])
    except OSError:
        os.ftruncate(file.fileno(), before)
        raise


def _drop_lines_after(path: Path, done: int) -> None:
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    parsed = [_parse(line) for line in lines]
    kept = [line for line, values in zip(lines, parsed, strict=True) if values is not None and values["step"] <= done]
    if kept != lines:
        write_atomically(path, b"".join(kept))


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
    except ValueError:
        return None
    whole = line.endswith(b"\n") and isinstance(values, dict) and isinstance(values.get("step"), int)
    return values if whole else None


def _open_events(folder: Path, done: int) -> Any:
    # EventsWriter and not SummaryWriter, whose thread hangs the run when the disk is full
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

    folder.mkdir(exist_ok=True)
    writer = EventsWriter(str(folder / "events"), filename_suffix=f".{time.time_ns()}")
    if done:  # TensorBoard then hides the events of steps that are run again
        start = SessionLog(status=SessionLog.START)
        writer.write_event(Event(wall_time=time.time(), step=done + 1, session_log=start))
    return writer


def _event(line: dict[str, Any]) -> Any:
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

    scalars = {k: v for k, v in line.items() if k != "step" and isinstance(v, int | float)}
    values = [Summary.Value(tag=k, simple_value=v) for k, v in scalars.items()]
    return Event(wall_time=time.time(), step=line["step"], summary=Summary(value=values))
