"""Models: whatever learns, or is learned.

- `metalearn_models.learners`: in-context learners, networks trained online, reference learners.
- `metalearn_models.optimizers`: learned optimizers.
- `metalearn_models.losses`: learned losses.
- `metalearn_models.networks`: networks as pairs of pure functions.
- `metalearn_models.tabular`: `InContextClassifier` and `InContextRegressor`, estimators of scikit-learn around a
  meta-trained learner.

They are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metalearn_models import learners as learners
    from metalearn_models import losses as losses
    from metalearn_models import networks as networks
    from metalearn_models import optimizers as optimizers
    from metalearn_models import tabular as tabular
    from metalearn_models.tabular.classifier import InContextClassifier as InContextClassifier
    from metalearn_models.tabular.regression.regressor import InContextRegressor as InContextRegressor

__all__ = ["InContextClassifier", "InContextRegressor", "learners", "losses", "networks", "optimizers", "tabular"]


def __getattr__(name: str) -> Any:
    if name == "InContextClassifier":  # scikit-learn takes a second to import
        from metalearn_models.tabular.classifier import InContextClassifier

        return InContextClassifier
    if name == "InContextRegressor":
        from metalearn_models.tabular.regression.regressor import InContextRegressor

        return InContextRegressor
    if name in __all__:
        return importlib.import_module(f"metalearn_models.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
