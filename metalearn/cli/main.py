"""The command line: `metalearn COMMAND`. It only finds the command, and turns errors into one line."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "train": ("metalearn.cli.train", "meta-train a learner; without arguments, the main job on digits"),
    "sweep": ("metalearn.cli.sweep", "meta-train many configurations, by grid or at random, on many workers"),
    "evaluate": ("metalearn.cli.evaluate", "learning curves of a run on any data set, beside reference learners"),
    "plot": ("metalearn.cli.plot", "draw a run's meta-training"),
    "train-optimizer": ("metalearn.cli.train_optimizer", "meta-train a learned optimizer; weights for any optax loop"),
    "search-loss": ("metalearn.cli.search_loss", "search for a loss function, refine it, leave it as JSON and picture"),
    "loss": ("metalearn.cli.loss", "losses by name, and what one of them is"),
    "list": ("metalearn.cli.catalogue", "presets, learners and data sets by name"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after `metalearn`; `sys.argv` when None.

    Returns:
        The exit status: 0, 1 for an error (said in one line on stderr), 2 for a command line that cannot be read, 130
        after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0
    if words[0] == "--version":
        from importlib.metadata import version

        print(version("metalearn"))
        return 0
    from metalearn.errors import MetalearnError, unknown_name

    try:
        if words[0] not in COMMANDS:
            raise unknown_name("command", words[0], COMMANDS)
        importlib.import_module(COMMANDS[words[0]][0]).main(words[1:])
    except (MetalearnError, ValueError, FloatingPointError, OSError) as error:
        print(f"metalearn: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"metalearn: {error or 'interrupted'}", file=sys.stderr)
        return 130
    return 0


def _help() -> str:
    lines = [f"  {name:<15} {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: metalearn COMMAND [--help]",
            "",
            "Learn learning algorithms, and see how well they learn.",
            "",
            *lines,
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
