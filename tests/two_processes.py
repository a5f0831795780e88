"""Two processes on loopback, as on two hosts, that run the same function of a test's module."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import pytest

ROOT = Path(__file__).parents[1]
PROCESSES, SECONDS = 2, 100


def run_two_processes(file: str, function: str, folder: Path, devices_each: int) -> list[Any]:
    """The JSON values that a function returns in each of two processes; both are gone afterwards, whatever happened.

    Args:
        file: of the module, which imports nothing of its own folder.
        function: its name; it gets the number of the process.
        folder: for what the processes print.
        devices_each: virtual devices per process.
    """
    if sys.platform == "win32":
        pytest.skip("JAX has no collectives between CPU processes (gloo) on Windows")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices_each}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(file).parent), os.environ.get("PYTHONPATH", "")]),
    }
    code = f"from tests.two_processes import work; import {Path(file).stem} as m; work(m.{function}, {{}}, {port})"
    outs = [(folder / f"{i}.out", folder / f"{i}.err") for i in range(PROCESSES)]
    running = []
    try:
        for i, (out, err) in enumerate(outs):
            command = [sys.executable, "-c", code.format(i)]
            with out.open("w") as stdout, err.open("w") as stderr:
                running.append(subprocess.Popen(command, stdout=stdout, stderr=stderr, cwd=ROOT, env=environment))
        deadline = time.monotonic() + SECONDS
        while any(p.poll() is None for p in running):
            # One that failed would be waited for by the other.
            if any(p.poll() for p in running) or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        codes = [p.poll() for p in running]
    finally:
        for p in running:
            p.kill()
            p.wait()
    said = "\n".join(f"process {i}, exit {codes[i]} (None: still running): {err.read_text()[-2000:]}"
                     for i, (_, err) in enumerate(outs))  # fmt: skip
    assert codes == [0] * PROCESSES, said
    return [json.loads(out.read_text().splitlines()[-1]) for out, _ in outs]


def work(function: Any, process: int, port: int) -> None:
    """What each process runs; its findings are its last line."""
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.distributed.initialize(f"127.0.0.1:{port}", PROCESSES, process, initialization_timeout=SECONDS // 2)
    print(json.dumps(function(process)))
