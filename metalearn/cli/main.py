"""The command line: `metalearn COMMAND`. It finds the command, runs it, and turns errors into one line."""

from __future__ import annotations

import codecs
import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Sequence

from metalearn import __version__

__all__ = ["main"]

COMMANDS = {
    "train": ("metalearn.cli.train", "meta-train a learner; without arguments, the main job on digits"),
    "sweep": ("metalearn.cli.sweep", "meta-train many configurations, by grid or at random, on many workers"),
    "evaluate": ("metalearn.cli.evaluate", "learning curves of a run on any data set, beside reference learners"),
    "plot": ("metalearn.cli.plot", "draw a run: its learning curves and its meta-training"),
    "train-optimizer": ("metalearn.cli.train_optimizer", "meta-train a learned optimizer; weights for any optax loop"),
    "train-gpt": ("metalearn.cli.train_gpt", "train a generator of parameters on checkpoints of many training runs"),
    "search-loss": ("metalearn.cli.search_loss", "search for a loss function and refine it; leaves JSON and a picture"),
    "loss": ("metalearn.cli.loss", "name the losses, or show one: formula, provenance, picture"),
    "list": ("metalearn.cli.catalogue", "everything that has a name: presets, learners, optimizers, losses, data sets"),
}

NO_CACHE = "--no-cache"

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after `metalearn`; None: those of `sys.argv`, as the main program of this process.

    Returns:
        The exit status: 0; 1 after an error, which is printed as one line on stderr; 2 if the command line cannot be
        read; 130 after Ctrl-C; 141 if nobody reads the output any more.
    """
    if argv is not None:
        return _run(list(argv))
    _stop_at_second_signal()
    _print_all_characters()
    words = sys.argv[1:]
    if NO_CACHE in words:
        words = [word for word in words if word != NO_CACHE]
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # JAX reads it, here and in the workers of a sweep
    else:
        _keep_programs()
    status = _run(words)
    if status == 130:
        # Threads of XLA may still compile. They would crash while Python takes itself apart.
        from metalearn.runs.witness import dismiss_witness

        dismiss_witness()
        sys.stdout.flush()
        os._exit(status)
    return status


def _run(words: list[str]) -> int:
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
    except (RuntimeError, AssertionError, MemoryError) as error:
        sentence = _explain(error)
        if sentence is None:
            raise
        print(f"metalearn: {sentence}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"metalearn: {str(error) or 'interrupted'}", file=sys.stderr)
        return 130
    return 0


def _explain(error: Exception) -> str | None:
    """A sentence for errors of JAX and NumPy that a user can do something about; None: the error is a fault of ours."""
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        first = str(error).partition("\n")[0][:200]
        return f"out of memory ({first}): lower --batch, --data.copies or the sizes of what is trained"
    platforms = os.environ.get("JAX_PLATFORMS", "")
    reason = str(error).partition(" (set JAX")[0]
    if "Unable to initialize backend" not in reason:
        if not isinstance(error, AssertionError) or not platforms or _has_devices():
            return None
        reason = "there are no such devices"  # JAX says nothing
    return f"JAX cannot use JAX_PLATFORMS={platforms}: {reason}. Unset JAX_PLATFORMS, or set it to cpu"


def _has_devices() -> bool:
    import jax

    try:
        return bool(jax.devices())
    except (RuntimeError, AssertionError):
        return False


def _print_all_characters() -> None:
    """Print "±" where Python takes the terminal's text for ASCII, too (LC_ALL=C PYTHONUTF8=0), instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name == "ascii":
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")


def _stop_at_second_signal() -> None:
    """End this process at its second SIGINT or SIGTERM, at once.

    Python handles signals between two of its own steps, and a compilation is one step of many seconds: a second Ctrl-C
    would be lost. So a thread hears them. What the first one does is left to the command; SIGTERM ends a command that
    does nothing about it.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "set_wakeup_fd"):
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)

    def listen() -> None:
        heard = 0
        while True:
            for number in os.read(read, 1):
                heard += number in _SIGNALS
                if heard == 2:
                    os.write(2, b"\nmetalearn: stopped at once; what was saved before is safe\n")
                    os._exit(128 + number)

    threading.Thread(target=listen, daemon=True).start()


def _keep_programs() -> None:
    """Use the folder of compiled programs. Without it everything works too, only later."""
    from metalearn.programs import request_cache

    reason = request_cache(os.environ)
    if reason is not None:
        print(f"metalearn: {reason}, or use {NO_CACHE}", file=sys.stderr)


def _help() -> str:
    lines = [f"  {name:<15} {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: metalearn COMMAND [--help]",
            "",
            "Learn learning algorithms, and see how well they learn.",
            "",
            *lines,
            "",
            f"  {NO_CACHE:<15} with any command: keep no compiled programs, and look none up",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
