"""Formulas in sympy and LaTeX, and a picture of a loss and of its gradient.

The symbolic forms leave out what only guards the arithmetic: nothing is bounded, and log and sqrt stand for log|x| and
sqrt|x|, which the library floors at 1e-7. sympy and matplotlib are imported when they are needed.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metalearn_models.losses.formulas import Const, Expr, Op, Var, number_of_coefficients
from metalearn_models.losses.handmade import HandmadeLoss
from metalearn_models.losses.symbolic_loss import SymbolicLoss

__all__ = ["curves", "latex", "picture", "to_sympy"]

LARGEST = 120
"""Largest number of nodes that sympy simplifies; larger formulas can take it minutes."""


def to_sympy(loss: SymbolicLoss | Expr, simplify: bool = True) -> Any:
    """The formula as a sympy expression of the real symbols y and f; f is positive if it is a probability.

    Args:
        loss: a loss, or a formula, whose coefficients are then 1 and whose f is any real number.
        simplify: let sympy simplify formulas of at most `LARGEST` nodes.
    """
    formula, _, _ = _formula(loss)
    return _simplify(formula) if simplify else formula


def curves(loss: SymbolicLoss, simplify: bool = True) -> tuple[Any, Any]:
    """The two curves of a classification loss, `(l(1, f), l(0, f))`, as sympy expressions of f.

    Raises:
        ValueError: a regression loss, whose targets are not only 0 and 1.
    """
    if loss.link == "identity":
        raise ValueError("curves needs a loss of classification, got one of regression: use to_sympy")
    formula, y, f = _formula(loss)
    pair = [_without_abs(formula.subs(y, value), f) for value in (1, 0)]
    return (_simplify(pair[0]), _simplify(pair[1])) if simplify else (pair[0], pair[1])


def latex(loss: SymbolicLoss | Expr, simplify: bool = True, digits: int = 4) -> str:
    """LaTeX without dollar signs, for a classification loss that of its two curves.

    Args:
        loss: as for `to_sympy`.
        simplify: as for `to_sympy`.
        digits: significant digits of coefficients.
    """
    import sympy

    def text(formula: Any) -> str:
        return sympy.latex(formula.xreplace({c: sympy.Float(c, digits) for c in formula.atoms(sympy.Float)}))

    if isinstance(loss, SymbolicLoss) and loss.link != "identity":
        one, zero = curves(loss, simplify)
        return rf"\ell(1, f) = {text(one)}, \quad \ell(0, f) = {text(zero)}"
    return rf"\ell(y, f) = {text(to_sympy(loss, simplify))}"


def _formula(loss: SymbolicLoss | Expr) -> tuple[Any, Any, Any]:
    import sympy

    if isinstance(loss, SymbolicLoss):
        expr, link = loss.expr, loss.link
        numbers = [float(c) for c in loss.coefficients or ()]  # type: ignore[union-attr]
    else:
        expr, link, numbers = loss, "identity", [1.0] * number_of_coefficients(loss)
    y = sympy.Symbol("y", real=True)
    f = sympy.Symbol("f", real=True) if link == "identity" else sympy.Symbol("f", positive=True)
    functions = {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "div": lambda a, b: a / sympy.sqrt(1 + b**2),
        "min": sympy.Min,
        "max": sympy.Max,
        "sign": sympy.sign,
        "square": lambda a: a**2,
        "abs": sympy.Abs,
        "log": lambda a: sympy.log(sympy.Abs(a)),
        "sqrt": lambda a: sympy.sqrt(sympy.Abs(a)),
        "tanh": sympy.tanh,
    }
    coefficients = iter(numbers)

    def number(value: float) -> Any:
        return sympy.Integer(int(value)) if value.is_integer() else sympy.Float(value)

    def visit(node: Expr) -> Any:
        if isinstance(node, Var):
            return y if node.name == "y" else f
        if isinstance(node, Const):
            return number(node.value)
        assert isinstance(node, Op)
        return functions[node.name](*[number(next(coefficients)) * visit(arg) for arg in node.args])

    return visit(expr), y, f


def _without_abs(formula: Any, f: Any) -> Any:
    """Resolve |a| if a is linear in f and does not change its sign on 0 <= f <= 1."""
    import sympy

    resolved = {}
    for absolute in formula.atoms(sympy.Abs):
        inside = absolute.args[0]
        if inside.is_polynomial(f) and sympy.degree(inside, f) <= 1:
            ends = inside.subs(f, 0), inside.subs(f, 1)
            if all(end >= 0 for end in ends):
                resolved[absolute] = inside
            elif all(end <= 0 for end in ends):
                resolved[absolute] = -inside
    return formula.xreplace(resolved)


def _simplify(formula: Any) -> Any:
    import sympy

    nodes = sum(1 for _ in sympy.preorder_traversal(formula))
    return sympy.simplify(formula) if nodes <= LARGEST else formula


def picture(loss: SymbolicLoss | HandmadeLoss) -> Any:
    """Draw a matplotlib figure: the loss on the left, its gradient on the right.

    Classification: the two curves against the probability f; the gradient on the target's logit against the target's
    probability, the other classes equally likely (sigmoid: on the logit, for both targets); and the gradient of
    cross-entropy. Regression: both against r = f - y in units of the scale, for y = -1, 0, 1 if these differ.
    """
    from metalearn.pictures import new_figure

    figure, (left, right) = new_figure(2, width=4.6)
    if loss.link == "identity":
        _draw_regression(loss, left, right)
    else:
        _draw_classification(loss, left, right)
    left.legend(fontsize=8, frameon=False)
    right.legend(fontsize=8, frameon=False)
    return figure


def _draw_regression(loss: SymbolicLoss | HandmadeLoss, left: Any, right: Any) -> None:
    r = jnp.linspace(-4, 4, 801)
    value_of, slope_of = jax.jit(loss), jax.jit(lambda z, y: loss.cotangent(z, y))
    lines = []
    for y in (0.0, -1.0, 1.0):
        logits, labels = (r + y)[:, None], jnp.full((len(r), 1), y)
        lines.append((f"y = {y:g}", np.asarray(value_of(logits, labels)), np.asarray(slope_of(logits, labels))[:, 0]))
    if all(np.allclose(line[1], lines[0][1], atol=1e-4) for line in lines):
        lines = [("any y", *lines[0][1:])]
    for label, value, slope in lines:
        left.plot(r, value, label=label)
        right.plot(r, slope, label=label)
    right.plot(r, np.clip(np.asarray(r), -1, 1), color="0.6", linewidth=1, linestyle=":", label="Huber")
    left.set_xlabel("r = f - y")
    left.set_ylabel("loss")
    right.set_xlabel("r = f - y")
    right.set_ylabel("d loss / d f")


def _draw_classification(loss: SymbolicLoss | HandmadeLoss, left: Any, right: Any) -> None:
    from metalearn_models.losses.symbolic_loss import Prediction

    u = jnp.linspace(-7, 7, 561)
    slope_of = jax.jit(lambda z, y: loss.cotangent(z, y))
    p = np.asarray(jax.nn.sigmoid(u))
    # Drawn for two classes, if the loss depends on their number as label smoothing does.
    prediction = Prediction(jax.nn.sigmoid(u), jax.nn.log_sigmoid(u), lambda: jax.nn.log_sigmoid(-u), 2)
    terms = jax.jit(lambda y: loss.terms(y, prediction))
    for target in (1, 0):
        left.plot(p, np.asarray(terms(jnp.full_like(u, target))), label=f"y = {target}")
    left.set_xlabel("probability f")
    left.set_ylabel("loss of one class")
    if loss.link == "sigmoid":
        for target in (1, 0):
            slope = slope_of(u[:, None], jnp.full((len(u), 1), target, u.dtype))
            right.plot(p, np.asarray(slope)[:, 0], label=f"y = {target}")
        right.set_xlabel("probability f")
        right.set_ylabel("d loss / d logit")
    else:
        slopes = {}
        for classes in (2, 10):
            # The logit that gives the target the probability p if those of the others are 0.
            logits = jnp.zeros((len(u), classes)).at[:, 0].set(u + jnp.log(float(classes - 1)))
            slopes[f"{classes} classes"] = np.asarray(slope_of(logits, jnp.zeros(len(u), jnp.int32)))[:, 0]
        if np.allclose(slopes["2 classes"], slopes["10 classes"], atol=1e-4):
            slopes = {"any number of classes": slopes["2 classes"]}
        for label, slope in slopes.items():
            right.plot(p, slope, label=label)
        right.set_xlabel("probability of the target class")
        right.set_ylabel("d loss / d logit of the target")
    right.plot(p, p - 1, color="0.6", linewidth=1, linestyle=":", label="cross-entropy")
