"""Losses as tables: a candidate is a few curves, so one compiled function trains a whole population.

A classification loss is a sum over classes of l(y_c, p_c), p = softmax(z). With h = p dl/dp its gradient is
dL/dz_c = h_c - p_c sum_k h_k, so the two curves h(0, u) and h(1, u) of the logit u = log p - log(1 - p) describe the
loss completely. A regression loss l(y, f) is described by dl/df, here one curve over the residual r = f - y per target
y. Trees become arrays of fixed shape, and compiled training never sees a tree.

Curves and their slopes are computed on the host in float64, by NumPy and forward-mode derivatives up to the second,
without compiling. Between grid points they are cubic Hermite polynomials. If a curve is smooth, their error is
(spacing)^4 / 384 times the fourth derivative. A slope is cut to three times the change to either neighbour, so a jump
becomes a steep step of one cell without overshoot. Only in a cell with a kink or a jump do table and loss differ, by up
to the height of the jump.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from metalearn_models.losses.formulas import Expr
from metalearn_models.losses.search.jets import Jet, evaluate_jet

__all__ = [
    "LOGIT_RANGE",
    "RESIDUAL_RANGE",
    "RESIDUAL_SCALE",
    "Table",
    "Targets",
    "classification_cotangent",
    "classification_table",
    "gradient_cells",
    "logit_position",
    "look_up",
    "loss_cells",
    "regression_cotangent",
    "regression_table",
    "residual_position",
    "screening_table",
    "target_rows",
]

Kind = Literal["classification", "regression"]
KINDS: tuple[Kind, ...] = ("classification", "regression")

LOGIT_RANGE = 16.0
"""Largest magnitude of the logit of p in a table. Beyond it, p < 1.1e-7 or 1 - p < 1.1e-7, the end is used."""
LOGIT_POINTS = 513
RESIDUAL_RANGE = 32.0
"""Largest residual in a table, in units of standardised targets. Beyond it the gradient of the end is used."""
RESIDUAL_SCALE = 0.1
"""Residuals are spaced evenly in asinh(r / RESIDUAL_SCALE): 0.0034 apart near zero, 3.4 % of r far out."""
RESIDUAL_POINTS = 385
SCREENED_TARGETS = np.linspace(-3.0, 3.0, 13)

LOGITS = np.linspace(-LOGIT_RANGE, LOGIT_RANGE, LOGIT_POINTS)
_END = np.arcsinh(RESIDUAL_RANGE / RESIDUAL_SCALE)
_STRETCHED = np.linspace(-_END, _END, RESIDUAL_POINTS)
_STRETCHED[RESIDUAL_POINTS // 2] = 0.0
RESIDUALS: np.ndarray = RESIDUAL_SCALE * np.sinh(_STRETCHED)
PROBABILITIES: np.ndarray = 1 / (1 + np.exp(-LOGITS))


class Table(NamedTuple):
    """A loss on a grid of G points with the coordinate x; R rows, for y = 0 and y = 1 or for the targets of regression.

    Attributes:
        loss: l, float64 like the others.
        loss_slope: dl/dx.
        gradient: p dl/dp in classification, dl/df in regression.
        gradient_slope: its derivative by x.
    """

    loss: Float[np.ndarray, "R G"]
    loss_slope: Float[np.ndarray, "R G"]
    gradient: Float[np.ndarray, "R G"]
    gradient_slope: Float[np.ndarray, "R G"]


def classification_table(expr: Expr, coefficients: Sequence[float] | None = None) -> Table:
    """Tabulate a loss of classification: rows for y = 0 and y = 1, columns for `LOGIT_POINTS` logits of p."""
    p = np.broadcast_to(PROBABILITIES, (2, LOGIT_POINTS))
    y = np.broadcast_to(np.array([[0.0], [1.0]]), p.shape)
    # By log p, so that the first derivative is p dl/dp.
    jet = evaluate_jet(expr, coefficients, y, Jet(p, p, p))
    rest = PROBABILITIES[::-1]  # 1 - p = d log p / du, without cancellation
    return Table(jet.value, jet.first * rest, jet.first, jet.second * rest)


def regression_table(
    expr: Expr, targets: Float[np.ndarray, " R"], coefficients: Sequence[float] | None = None
) -> Table:
    """Tabulate a loss of regression: one row per target, columns for `RESIDUAL_POINTS` residuals f - y."""
    r = RESIDUALS[None, :]
    y = np.broadcast_to(np.asarray(targets, np.float64)[:, None], (len(targets), RESIDUAL_POINTS))
    jet = evaluate_jet(expr, coefficients, y, Jet(y + r, np.ones_like(y), np.zeros_like(y)))
    stretch = np.sqrt(RESIDUAL_SCALE**2 + r**2)  # dr/dx
    return Table(jet.value, jet.first * stretch, jet.first, jet.second * stretch)


def screening_table(expr: Expr, kind: Kind, coefficients: Sequence[float] | None = None) -> Table:
    """Tabulate a loss for screening, on a grid that is the same for all tasks of a kind."""
    if kind == "classification":
        return classification_table(expr, coefficients)
    return regression_table(expr, SCREENED_TARGETS, coefficients)


def gradient_cells(table: Table, kind: Kind, divide_by: float = 1.0) -> Float[np.ndarray, "R cells 4"]:
    """The gradient between grid points as coefficients of t^0 to t^3, float32; t goes from 0 to 1 in each cell."""
    return _cells(table.gradient / divide_by, table.gradient_slope / divide_by, _spacing(kind))


def loss_cells(table: Table, kind: Kind) -> Float[np.ndarray, "R cells 4"]:
    """The loss itself between grid points, in the form of `gradient_cells`."""
    return _cells(table.loss, table.loss_slope, _spacing(kind))


def _spacing(kind: Kind) -> float:
    return 2 * LOGIT_RANGE / (LOGIT_POINTS - 1) if kind == "classification" else 2 * _END / (RESIDUAL_POINTS - 1)


def _cells(values: np.ndarray, slopes: np.ndarray, spacing: float) -> np.ndarray:
    change = np.diff(values, axis=1)
    steepest = np.abs(np.pad(change, ((0, 0), (1, 1)), mode="edge"))
    limit = 3 * np.maximum(steepest[:, :-1], steepest[:, 1:])
    m = np.clip(slopes * spacing, -limit, limit)
    left, right = m[:, :-1], m[:, 1:]
    cells = (values[:, :-1], left, 3 * change - 2 * left - right, left + right - 2 * change)
    return np.stack(cells, -1).astype(np.float32)


def look_up(cells: Float[Array, "R K 4"], row: Int[Array, "*B"], position: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """Values of the curve `row` at `position`, counted in cells from the first grid point and clipped to the grid."""
    position = jnp.clip(position, 0.0, float(cells.shape[-2]))
    cell = jnp.minimum(position.astype(jnp.int32), cells.shape[-2] - 1)
    t = position - cell.astype(position.dtype)
    c = cells[row, cell]
    return c[..., 0] + t * (c[..., 1] + t * (c[..., 2] + t * c[..., 3]))


def logit_position(logits: Float[Array, "*B C"]) -> tuple[Float[Array, "*B C"], Float[Array, "*B C"]]:
    """The probability of each class, and the position of its logit in a table.

    1 - p is computed as the sum over the other classes. For the likeliest class the difference would have no digits
    left in float32. For each other one the sum holds the likeliest, so the difference keeps them.
    """
    below_top = logits - logits.max(-1, keepdims=True)
    e = jnp.exp(below_top)
    top = jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1], dtype=e.dtype)
    others = (e * (1 - top)).sum(-1, keepdims=True)
    rest = jnp.where(top > 0, others, (others - e) + 1)
    u = below_top - jnp.log(jnp.maximum(rest, 1e-30))
    return e / (e + rest), (u + LOGIT_RANGE) * ((LOGIT_POINTS - 1) / (2 * LOGIT_RANGE))


def residual_position(residuals: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """The position of a residual f - y in a table."""
    return (jnp.arcsinh(residuals * (1 / RESIDUAL_SCALE)) + _END) * ((RESIDUAL_POINTS - 1) / (2 * _END))


def classification_cotangent(
    cells: Float[Array, "2 K 4"], logits: Float[Array, "*B C"], labels: Int[Array, "*B"]
) -> Float[Array, "*B C"]:
    """The gradient dL/dlogits per example, with L the sum over its classes."""
    p, position = logit_position(logits)
    h = look_up(cells, jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.int32), position)
    return h - p * h.sum(-1, keepdims=True)


class Targets(NamedTuple):
    """Positions of targets among the rows of a table: `(1 - weight) row + weight (row + 1)`."""

    row: Int[np.ndarray | Array, "*N"]
    weight: Float[np.ndarray | Array, "*N"]


def target_rows(y: Float[np.ndarray, " N"], rows: int) -> tuple[Float[np.ndarray, " R"], Targets]:
    """Choose at most `rows` targets for the table of a regression loss: all distinct ones, or their quantiles.

    Between them curves are interpolated linearly in y.

    Args:
        y: targets of all training examples.
        rows: largest number of rows of the table.

    Returns:
        The targets of the rows, and the positions of `y` among them.
    """
    nodes = np.unique(np.asarray(y, np.float64))
    if len(nodes) > rows:
        nodes = np.unique(np.quantile(nodes, np.linspace(0, 1, rows)))
    nodes = np.pad(nodes, (0, max(0, 2 - len(nodes))), constant_values=float(nodes[-1]) + 1)
    row = np.clip(np.searchsorted(nodes, y, side="right") - 1, 0, len(nodes) - 2)
    weight = (y - nodes[row]) / (nodes[row + 1] - nodes[row])
    return nodes, Targets(row.astype(np.int32), np.clip(weight, 0, 1).astype(np.float32))


def regression_cotangent(
    cells: Float[Array, "R K 4"], targets: Targets, residuals: Float[Array, "*B"]
) -> Float[Array, "*B"]:
    """The gradient dl/df per example."""
    position = residual_position(residuals)
    row, weight = jnp.asarray(targets.row), jnp.asarray(targets.weight)
    here, next_row = look_up(cells, row, position), look_up(cells, row + 1, position)
    return (1 - weight) * here + weight * next_row
