"""The options that make a command one of several processes, on one host or on many."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator, Sequence

import jax

from metalearn._jax_versions import coordinator_address
from metalearn.cli.arguments import take
from metalearn.errors import UsageError
from metalearn.runs.folder import note_from_first
from metalearn.runs.processes import all_do, is_first
from metalearn.runs.witness import call_witness

__all__ = ["connect", "help_for"]

HEARTBEAT, START, END = 10, 60, 86_400
"""Seconds: without a sign of life, after which a process counts as dead; to wait for all at the start; and at the end,
where the others wait until process 0 has scored and drawn."""


def help_for(folder: str = "--run") -> str:
    """What the help of a command says of these options; `folder` is the option that names its folder."""
    return f"""Several processes can drive one run. Start the same command in each, with the same {folder} FOLDER, which
    all must see. Add --distributed where JAX knows the cluster (SLURM, Open MPI). Elsewhere add --coordinator HOST:PORT
    --num-processes N --process-id I. Process 0 writes and prints. docs/scaling.md has examples."""


def connect(words: list[str], folders: Sequence[str] = ("--run", "--resume")) -> bool:
    """Take these options from a command's words, and join the other processes. Must run before JAX starts.

    Process 0 prints how many processes and devices have met.

    Args:
        words: of the command; loses these options.
        folders: the options with which a command names the folder that its processes share.

    Returns:
        Whether this is one of several processes.

    Raises:
        UsageError: options that do not go together, or no folder that all processes could share.
    """
    found = "--distributed" in words
    if found:
        words.remove("--distributed")
    coordinator = take(words, "--coordinator")
    count, number = (_whole_number(words, name) for name in ("--num-processes", "--process-id"))
    if coordinator is None and (count is not None or number is not None):
        raise UsageError("--num-processes and --process-id go with --coordinator HOST:PORT, which is missing")
    if coordinator is None and not found:
        return False
    if coordinator is not None:
        if found:
            raise UsageError("--distributed asks JAX for the cluster: leave it out where --coordinator is given")
        if ":" not in coordinator or not coordinator.rpartition(":")[2].isdigit():
            raise UsageError(f"--coordinator must be HOST:PORT, such as node-0:1234, got {coordinator}")
        if count is None or number is None:
            raise UsageError("--coordinator needs --num-processes N and --process-id I, from 0 to N - 1")
        if not 0 <= number < count:
            raise UsageError(f"--process-id must be from 0 to --num-processes - 1, got {number} of {count}")
    if not any(word.partition("=")[0] in folders for word in words):
        named = " or ".join(f"{folder} FOLDER" for folder in folders)
        raise UsageError(f"several processes need {named}; all of them must see that folder")
    where = f"at {coordinator}" if coordinator else "that --distributed looks for"
    every = "in each task"
    if count is not None:
        every = f"once for each --process-id from 0 to {count - 1}, with --num-processes {count}"
    try:
        with _deadline(
            f"not all processes have met {where} within {START} s. Start the same command {every}; all must reach "
            "that place, where process 0 listens"
        ):
            jax.distributed.initialize(
                coordinator,
                count,
                number,
                initialization_timeout=2 * START,  # JAX would end this process with a trace of its own
                heartbeat_timeout_seconds=HEARTBEAT,
                shutdown_timeout_seconds=END,
            )
            jax.devices()  # waits for a device of each, so that differing numbers of processes are seen here
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(f"cannot join the processes {where}: {reason}") from error
    met = jax.process_count()

    def compare() -> None:
        if count is not None and count != met:
            raise UsageError(f"--num-processes is {count} here, but {met} processes have met: give it in all as {met}")

    all_do(compare)
    address = coordinator_address()
    note_from_first(f"{met} processes, {jax.device_count()} devices")
    if address is not None and not is_first():
        call_witness(address)
    return True


@contextlib.contextmanager
def _deadline(message: str) -> Iterator[None]:
    """End this process with a message unless the block is left in time; nothing interrupts JAX while it waits."""

    def give_up() -> None:
        print(f"metalearn: {message}", file=sys.stderr, flush=True)
        os._exit(2)

    timer = threading.Timer(START, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _whole_number(words: list[str], name: str) -> int | None:
    text = take(words, name)
    if text is not None and not text.isdigit():
        raise UsageError(f"{name} must be a whole number from 0 on, got {text}")
    return None if text is None else int(text)
