"""A process of eight virtual devices that runs the scripts of many tests, since every start would import JAX anew.

python -m tests.eight_devices: one JSON string per line of the input is a script, and one line `[output, error]` answers
it. Each script has a namespace of its own. What it changes in `sys.path` is undone after it.
"""

from __future__ import annotations

import contextlib
import io
import json
import linecache
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from tests.programs import forget_programs

ROOT = Path(__file__).parents[1]


class EightDevices:
    """The process, which starts with the first script."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._log = tempfile.TemporaryFile("w+")

    def run(self, script: str) -> str:
        """Run a script and return what it prints.

        Raises:
            AssertionError: the script raises, or ends its process; the message is its traceback.
        """
        self._process = self._process or self._start()
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(script) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            code, self._process = self._process.wait(), None
            self._log.seek(0)
            raise AssertionError(f"the process of eight devices ended with {code}\n{self._log.read()}")
        output, error = json.loads(answer)
        assert error is None, f"{output}\n{error}"
        return output.strip()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()
        self._log.close()

    def _start(self) -> subprocess.Popen[str]:
        flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": path}
        command = [sys.executable, "-m", "tests.eight_devices"]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=self._log, text=True, cwd=ROOT, env=environment
        )


def main() -> None:
    """Answer scripts until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what C++ prints is no answer
    for number, line in enumerate(sys.stdin):
        print(json.dumps(_result(json.loads(line), f"<script {number}>")), file=answers, flush=True)
        forget_programs()


def _result(script: str, name: str) -> tuple[str, str | None]:
    # With its lines in the cache, a traceback shows them.
    linecache.cache[name] = (len(script), None, script.splitlines(keepends=True), name)
    path, out, error = list(sys.path), io.StringIO(), None
    try:
        with contextlib.redirect_stdout(out):
            exec(compile(script, name, "exec"), {"__name__": "__main__"})
    except BaseException:
        error = traceback.format_exc()
    sys.path[:] = path
    return out.getvalue(), error


if __name__ == "__main__":
    main()
