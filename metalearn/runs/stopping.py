"""A clean stop: the first Ctrl-C or SIGTERM lets the present work end."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

__all__ = ["StopOnSignal"]


class StopOnSignal:
    """A context manager in which the first SIGINT or SIGTERM only sets `signal`; the second acts as outside of it."""

    def __init__(self):
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.signal = number
        signal.signal(number, self._before[number])
        # print is not allowed in a handler, which may have interrupted a print
        os.write(2, b"\nstopping after this call and saving; again: stop at once without saving\n")
