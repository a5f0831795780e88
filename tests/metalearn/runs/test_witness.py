"""The witness of a process says that process 0 is gone, and only then."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metalearn.runs import witness
from metalearn.runs.witness import describe_lost_coordinator

BESIDE = """
import os, sys
sys.path.append(sys.argv[2])  # the package would import JAX
from witness import call_witness, dismiss_witness
call_witness(sys.argv[1])
{end}
"""


@pytest.fixture
def listening():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(8)
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{server.getsockname()[1]}"


def said(address: str, end: str) -> str:
    """What is printed beside a process that ends so; the witness inherits the pipe, so this waits for it."""
    words = [sys.executable, "-c", BESIDE.format(end=end), address, str(Path(witness.__file__).parent)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False).stderr


def test_a_coordinator_that_listens_is_not_lost(listening):
    assert describe_lost_coordinator(listening) is None


def test_a_coordinator_that_refuses_is_named_at_once(closed):
    began = time.monotonic()
    assert f"process 0 is gone: nobody answers at {closed}" in (describe_lost_coordinator(closed) or "")
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("end", ["os.abort()", "os.kill(os.getpid(), 9)"])
def test_the_witness_speaks_for_a_process_that_cannot(end, closed):
    assert f"metalearn: process 0 is gone: nobody answers at {closed}" in said(closed, end)


def test_the_witness_is_silent_while_process_0_answers(listening):
    assert "process 0" not in said(listening, "os.abort()")


@pytest.mark.parametrize("end", ["", "raise SystemExit(1)", "dismiss_witness(); os._exit(130)"])
def test_the_witness_is_silent_where_its_process_ends_by_itself(end, closed):
    assert said(closed, end) == ""
