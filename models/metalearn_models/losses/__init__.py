"""Losses: learned formulas, hand-made losses and losses with free parameters, all with the signature of optax.

`loss(logits, labels)` gives one value per example. `load(name)` gives a loss of `names()`; `shipped()` are the names of
the learned ones. Losses of regression take the unit of the targets, `load(name, scale=robust_scale(y))`. Formulas are
in `formulas`, the search in `search`, the refinement of coefficients in `refinement`, hand-made losses in `handmade`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from metalearn_models.losses.elementwise import check_inputs as check_inputs
from metalearn_models.losses.elementwise import cotangent as cotangent
from metalearn_models.losses.formulas import evaluate as evaluate
from metalearn_models.losses.formulas import parse as parse
from metalearn_models.losses.handmade import HandmadeLoss as HandmadeLoss
from metalearn_models.losses.library import load as load
from metalearn_models.losses.library import names as names
from metalearn_models.losses.library import shipped as shipped
from metalearn_models.losses.ml3 import ml3 as ml3
from metalearn_models.losses.parametric import LearnableLoss as LearnableLoss
from metalearn_models.losses.parametric import free_coefficients as free_coefficients
from metalearn_models.losses.parametric import fresh_coefficients as fresh_coefficients
from metalearn_models.losses.scaling import robust_scale as robust_scale
from metalearn_models.losses.symbolic_loss import SymbolicLoss as SymbolicLoss
from metalearn_models.losses.taylor_glo import taylor_glo as taylor_glo

if TYPE_CHECKING:
    from metalearn_models.losses.reading import curves as curves
    from metalearn_models.losses.reading import latex as latex
    from metalearn_models.losses.reading import picture as picture
    from metalearn_models.losses.reading import to_sympy as to_sympy

__all__ = [
    "HandmadeLoss",
    "LearnableLoss",
    "SymbolicLoss",
    "check_inputs",
    "cotangent",
    "curves",
    "evaluate",
    "free_coefficients",
    "fresh_coefficients",
    "latex",
    "load",
    "ml3",
    "names",
    "parse",
    "picture",
    "robust_scale",
    "shipped",
    "taylor_glo",
    "to_sympy",
]

_READING = ("curves", "latex", "picture", "to_sympy")
_PACKAGES = ("refinement", "search")


def __getattr__(name: str) -> Any:
    # Imported on first use: reading a formula and searching for one need much more than using a loss.
    if name in _READING:
        return getattr(importlib.import_module("metalearn_models.losses.reading"), name)
    if name in _PACKAGES:
        return importlib.import_module(f"metalearn_models.losses.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
