"""A small process beside each process but number 0, which says so if process 0 is gone.

JAX's coordination service lives in process 0. Where process 0 is killed, JAX aborts the others in C++, and no code of
theirs runs any more. So each has a witness: a Python process that waits for the end of its own process, and then asks
whether process 0 still answers. It imports nothing but the standard library, and reads nothing but one pipe.
"""

from __future__ import annotations

import atexit
import socket
import subprocess
import sys
import time

__all__ = ["call_witness", "describe_lost_coordinator", "dismiss_witness"]

DONE = b"."
"""What a process writes before it ends by itself; its witness then says nothing."""
ATTEMPTS, PAUSE, TIMEOUT = 3, 0.2, 5.0
"""Connections that are tried, seconds between them, and seconds until one counts as unanswered. The host of a killed
process refuses at once. Process 0 outlives the loss of any other process by the heartbeat, which is longer."""


def describe_lost_coordinator(address: str | None) -> str | None:
    """A sentence that names process 0 if nobody answers at its address, which takes up to 5 seconds; else None.

    Args:
        address: `HOST:PORT` of JAX's coordination service; None, where there is none, is never gone.
    """
    if address is None:
        return None
    host, _, port = address.rpartition(":")
    reason = ""
    for attempt in range(ATTEMPTS):
        time.sleep(PAUSE if attempt else 0)
        try:
            socket.create_connection((host.strip("[]"), int(port)), TIMEOUT).close()
        except OSError as error:
            reason = str(error)
            break
    if not reason:
        return None
    return (
        f"process 0 is gone: nobody answers at {address} ({reason}). It was killed or its host went down, unless "
        "another process is named above. What it saved is safe"
    )


_WITNESS: list[subprocess.Popen[bytes]] = []  # of this process, at most one


def call_witness(address: str) -> None:
    """Start the witness of this process. It ends with this process.

    Args:
        address: `HOST:PORT` of JAX's coordination service.
    """
    _WITNESS.append(
        subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, address],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for this process alone
        )
    )
    atexit.register(dismiss_witness)


def dismiss_witness() -> None:
    """Let the witness of this process end without a word, if there is one: this process ends by itself."""
    while _WITNESS:
        witness = _WITNESS.pop()
        try:
            witness.communicate(DONE)
        except OSError:
            witness.wait()


def _main(address: str) -> None:
    if sys.stdin.buffer.read(1) == DONE:
        return
    sentence = describe_lost_coordinator(address)
    if sentence is not None:
        print(f"metalearn: {sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    _main(sys.argv[1])
