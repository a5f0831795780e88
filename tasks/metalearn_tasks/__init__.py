"""What learners and optimizers learn from.

`datasets` loads classification data sets, `families` are distributions of tasks for learners, `objectives` are what
optimizers train on, and `systems` are inner loops with known answers, for gradient estimators. Each is imported at its
first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metalearn_tasks import datasets as datasets
    from metalearn_tasks import families as families
    from metalearn_tasks import objectives as objectives
    from metalearn_tasks import systems as systems

__all__ = ["datasets", "families", "objectives", "systems"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
