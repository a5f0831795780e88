"""`python -m experiments NAME [PRESET] [options]`: run an experiment; `--list` names them all."""

from __future__ import annotations

import runpy
import sys

from experiments.catalogue import EXPERIMENTS, module_of
from metalearn.errors import UnknownNameError


def main() -> int:
    """Run the experiment that the command line names; returns the exit status."""
    if len(sys.argv) < 2 or sys.argv[1] in ("--list", "-h", "--help"):
        print(__doc__)
        print("\n".join(f"  {name}" for name in EXPERIMENTS))
        return 0
    try:
        module = module_of(sys.argv[1])
    except UnknownNameError as error:
        print(f"experiments: {error}", file=sys.stderr)
        return 1
    del sys.argv[1]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
