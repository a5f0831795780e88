"""What the prior over tables is told, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from metalearn.ranges import Share, Within

__all__ = ["PRIOR", "Tables", "TablesConfig"]

Weight = Annotated[float, Within(0, 1e6)]


class Tables(NamedTuple):
    """Tables of one shape.

    Attributes:
        xs: features; NaN where a value is missing. A category is a whole number.
        ys: classes, 0 to K - 1 in a table of K classes, each of which occurs.
        categorical: which columns hold categories, whose numbers have no order.
    """

    xs: Float[np.ndarray, "B n F"]
    ys: Int[np.ndarray, "B n"]
    categorical: Bool[np.ndarray, "B F"]


@dataclass(frozen=True)
class TablesConfig:
    """The prior over tables: shares of tables, unless it says columns."""

    classes: Annotated[int, Within(2, 1024)] = 10
    """The largest number of classes; every table has at least 2."""
    binary: Share = 0.35
    """Tables with 2 classes; the others have 2 to the largest number."""
    causal: Weight = 0.35
    """Weight of tables from causal models."""
    direct: Weight = 0.4
    """Weight of tables whose class is a function of the columns."""
    clusters: Weight = 0.25
    """Weight of tables whose columns are drawn around centres of the classes."""
    score_noise: Share = 0.6
    """Tables with noise on what decides the class."""
    label_noise: Share = 0.2
    """Tables in which some classes are replaced by others."""
    imbalanced: Share = 0.5
    """Tables whose classes are meant to differ in frequency."""
    irrelevant: Share = 0.35
    """Tables in which some columns say nothing about the class."""
    duplicated: Share = 0.1
    """Tables in which some columns repeat others, up to a monotone map."""
    warped: Share = 0.5
    """Tables in which some columns went through a monotone map."""
    quantised: Share = 0.3
    """Tables in which some columns have few values."""
    categorical: Share = 0.3
    """Tables in which some columns are made categories."""
    missing: Share = 0.1
    """Tables in which values are missing."""

    def __post_init__(self) -> None:
        """Refuse weights of mechanisms that are all 0."""
        if self.causal + self.direct + self.clusters <= 0:
            raise ValueError(
                "causal, direct and clusters are the weights of the three mechanisms and must not all be 0, "
                f"got {self.causal}, {self.direct} and {self.clusters}"
            )


PRIOR = TablesConfig()
"""The prior as it is drawn from by default."""
