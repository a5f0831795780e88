"""Strictness for every test: no silent rank or dtype promotion. And speed: most of their time would be compilation."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Also for the processes that tests start, so that their bits can be compared.
jax.config.update("jax_disable_most_optimizations", True)
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"


@pytest.fixture(scope="session")
def on_eight_devices():
    """A function that runs a script in a process of eight virtual devices and returns what it prints."""
    root = Path(__file__).parents[1]
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": path}

    def run(script: str) -> str:
        command = [sys.executable, "-c", script]
        out = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment)
        assert out.returncode == 0, out.stderr
        return out.stdout.strip()

    return run
