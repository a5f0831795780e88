"""`python -m experiments NAME [PRESET] [options]`: the one way to run an experiment.

    python -m experiments --list                      # names, what each shows, presets and how long they take
    python -m experiments NAME --help                 # what an experiment is and its options
    python -m experiments NAME PRESET --steps 100     # a preset with one setting changed

Without PRESET the first one is run.
"""

from __future__ import annotations

import importlib.util
import sys


def main() -> int:
    """Do what the command line says; returns the exit status."""
    words = sys.argv[1:]
    if not words or words[0] in ("--list", "-h", "--help"):
        from experiments.catalogue import format_list

        print(format_list() if words == ["--list"] else f"{__doc__}\n{format_list()}")
        return 0
    if words[0] == "accelerator" and importlib.util.find_spec("tyro") is None:
        from experiments.accelerator.few_packages import main as run_with_few_packages

        return run_with_few_packages(words[1:])
    from experiments.suite.command_line import run_command

    return run_command(words[0], words[1:])


if __name__ == "__main__":
    raise SystemExit(main())
