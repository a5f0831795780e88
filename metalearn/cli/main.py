"""The command line: `metalearn COMMAND`. It finds the command, runs it, and turns errors into one line."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from metalearn import __version__

__all__ = ["main"]

COMMANDS = {
    "train": ("metalearn.cli.train", "meta-train a learner; without arguments, the main job on digits"),
    "sweep": ("metalearn.cli.sweep", "meta-train many configurations, by grid or at random, on many workers"),
    "evaluate": ("metalearn.cli.evaluate", "learning curves of a run on any data set, beside reference learners"),
    "plot": ("metalearn.cli.plot", "draw a run: its learning curves and its meta-training"),
    "train-optimizer": ("metalearn.cli.train_optimizer", "meta-train a learned optimizer; weights for any optax loop"),
    "search-loss": ("metalearn.cli.search_loss", "search for a loss function and refine it; leaves JSON and a picture"),
    "loss": ("metalearn.cli.loss", "name the losses, or show one: formula, provenance, picture"),
    "list": ("metalearn.cli.catalogue", "everything that has a name: presets, learners, optimizers, losses, data sets"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after `metalearn`; None: those of `sys.argv`.

    Returns:
        The exit status: 0; 1 after an error, which is printed as one line on stderr; 2 if the command line cannot be
        read; 130 after Ctrl-C; 141 if nobody reads the output any more.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0
    if words[0] == "--version":
        print(__version__)
        return 0
    from metalearn.errors import MetalearnError, UsageError, unknown_name

    try:
        if words[0] not in COMMANDS:
            raise unknown_name("command", words[0], COMMANDS)
        importlib.import_module(COMMANDS[words[0]][0]).main(words[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # `metalearn train --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        return 141
    except UsageError as error:
        print(f"metalearn: {error}", file=sys.stderr)
        return 2
    except (MetalearnError, ValueError, FloatingPointError, OSError) as error:
        print(f"metalearn: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"metalearn: {str(error) or 'interrupted'}", file=sys.stderr)
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
