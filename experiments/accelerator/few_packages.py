"""`python -m experiments accelerator` on a machine that lacks packages of ours: no tyro, perhaps no jaxtyping.

A machine with an accelerator often has a JAX of its own and no way to install more. jaxtyping only checks shapes, so a
module of the same name takes its place in this process; the options are read by argparse.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["main", "replace_jaxtyping"]


class _AnyShape:
    """Stands for every jaxtyping class: `Float[Array, "n"]` is the class of the array."""

    def __class_getitem__(cls, item: Any) -> Any:
        return item[0] if isinstance(item, tuple) else cls


def replace_jaxtyping() -> bool:
    """Put an empty module in the place of jaxtyping where it is not installed; returns whether that was so."""
    if "jaxtyping" in sys.modules or importlib.util.find_spec("jaxtyping") is not None:
        return False
    import jax

    module: Any = types.ModuleType("jaxtyping")
    arrays = {"Array": jax.Array, "ArrayLike": Any, "PyTree": Any, "PRNGKeyArray": jax.Array}
    module.__getattr__ = lambda name: arrays.get(name, _AnyShape)
    sys.modules["jaxtyping"] = module
    return True


def main(words: Sequence[str]) -> int:
    """Read the options, measure, print the report; returns the exit status."""
    replace_jaxtyping()
    from experiments.accelerator.experiment import AcceleratorConfig, format_result, prepare_process, run
    from experiments.accelerator.experiment import __doc__ as description
    from metalearn.runs.progress import default_progress

    prepare_process()
    parser = argparse.ArgumentParser(
        prog="python -m experiments accelerator",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = {"minutes": float, "data": str, "data_dir": str, "out": Path}
    for field in dataclasses.fields(AcceleratorConfig):
        name = "--" + field.name.replace("_", "-")
        if field.name == "dry_run":
            parser.add_argument(name, action="store_true")
        else:
            parser.add_argument(name, type=kinds[field.name], default=field.default, help=f"default: {field.default}")
    try:
        result = run(AcceleratorConfig(**vars(parser.parse_args(list(words)))), default_progress())
    except (ValueError, OSError) as error:
        print(f"accelerator: {error}", file=sys.stderr)
        return 1
    print(format_result(result))
    return 0
