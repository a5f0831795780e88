"""Ctrl-C, once and twice, in real processes; and the command line's answers to a machine that is not as asked for."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

# A command that, as a compilation does, spends a minute in one step of Python.
BUSY = """
import hashlib, signal, sys, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores Ctrl-C
from metalearn.cli import main as m
def busy(words):
    print("busy", file=sys.stderr, flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 200_000_000)
sys.modules["busy"] = types.SimpleNamespace(main=busy)
m.COMMANDS["busy"] = ("busy", "")
sys.argv = ["metalearn", "busy"]
sys.exit(m.main())
"""


def begin(*command, **environment):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **environment}
    return subprocess.Popen(
        [sys.executable, *command], env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_a_second_signal_ends_a_command_at_once_and_says_so():
    with begin("-c", BUSY) as process:
        assert process.stderr and process.stderr.readline() == "busy\n"
        time.sleep(0.3)  # the step has begun
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
        assert process.poll() is None  # the first one waits for the step
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == "\nmetalearn: stopped at once; what was saved before is safe\n"


def test_one_ctrl_c_saves_and_says_so_once(tmp_path):
    words = (
        "train linear --learner lstm --learner.hidden 4 --steps 1000000 --steps-per-call 1 --outer-optimizer.warmup 0"
    )
    words += " --batch 2 --eval-tasks 2 --evaluate-every 0 --checkpoint-every 0 --family.length 4 --quiet"
    with begin("-m", "metalearn.cli.main", *words.split(), "--run", str(tmp_path / "run")) as process:
        metrics = tmp_path / "run" / "metrics.jsonl"
        while not metrics.exists() or not metrics.stat().st_size:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and not out
    first = ("meta-training in", "1,000,000 steps: timing one first", "a step takes")
    lines = [line for line in err.splitlines() if line and not line.startswith(first)]
    assert len(lines) == 2 and lines[0] == "stopping after this call and saving; again: stop at once without saving"
    stopped = re.fullmatch(
        r"metalearn: stopped at step (\d+) of 1000000, saved in .*; continue with --resume", lines[1]
    )
    assert (
        stopped and max(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == f"{int(stopped[1]):08d}"
    )


def test_a_table_is_printed_where_text_is_ascii():
    script = """
import sys, types
from metalearn.cli import main as m
sys.modules["show"] = types.SimpleNamespace(main=lambda words: print("0.5 \\xb1 0.1", *words))
m.COMMANDS["show"] = ("show", "")
sys.argv[1:] = ["show", *sys.argv[1:]]
sys.exit(m.main())
"""
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    with begin("-c", script, "\xfc", **ascii_only) as process:
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "0.5 \xb1 0.1 \xfc\n", "")


@pytest.mark.parametrize("platform", ["cuda", "cpu,nonsense"])
def test_devices_that_are_not_there_are_named(platform):
    words = ["-m", "metalearn.cli.main", "train", "linear", "--quiet"]
    with begin(*words, JAX_PLATFORMS=platform) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and not out and err.count("\n") == 1
    assert f"JAX cannot use JAX_PLATFORMS={platform}: " in err and "or set it to cpu" in err


def test_the_help_needs_no_jax_and_its_reader_may_leave():
    script = "import sys; from metalearn.cli.main import main; main(['--help']); print('jax' in sys.modules)"
    with begin("-c", script) as process:
        out, _ = process.communicate(timeout=20)
    assert out.endswith("False\n") and "usage: metalearn COMMAND" in out
    command = f"{sys.executable} -m metalearn.cli.main list | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=os.environ)
    assert done.returncode in (0, 141) and done.stdout.startswith("presets") and not done.stderr
