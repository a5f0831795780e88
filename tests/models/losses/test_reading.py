import jax.numpy as jnp
import numpy as np
import pytest
import sympy

from metalearn_models.losses import SymbolicLoss, evaluate, load, parse
from metalearn_models.losses.reading import curves, latex, picture, to_sympy

EVERY_FUNCTION = "max(div(y, f), sqrt(f)) + min(tanh(f), square(y)) - sign(f - y) * abs(log(f))"
F = sympy.Symbol("f", positive=True)
NOISE_SQRT = SymbolicLoss(parse("mul(y, sqrt(sub(1, f)))"))
TANH2 = SymbolicLoss(parse("square(tanh(sub(f, y)))"), link="identity")


@pytest.mark.parametrize("simplify", [True, False])
@pytest.mark.parametrize("link", ["sigmoid", "identity"])
def test_sympy_and_jax_compute_the_same(link, simplify):
    c = tuple(np.linspace(0.7, 1.3, 20))
    loss = SymbolicLoss(parse(EVERY_FUNCTION), c, link)
    formula = to_sympy(loss, simplify)
    arguments = sorted(formula.free_symbols, key=str)  # f, y
    f, y = np.meshgrid(np.linspace(0.05, 0.95, 7), np.linspace(-1.1, 1.2, 6))
    want = evaluate(loss.expr, jnp.asarray(c, jnp.float32), jnp.asarray(y, jnp.float32), jnp.asarray(f, jnp.float32))
    np.testing.assert_allclose(sympy.lambdify(arguments, formula)(f, y), want, rtol=1e-4, atol=1e-4)


def test_the_two_curves_of_cross_entropy():
    loss = SymbolicLoss(parse("(1 - y - 1) * log(f) - (1 - y) * log(1 - f)"), link="sigmoid")
    one, zero = curves(loss)
    assert (one, zero) == (-sympy.log(F), -sympy.log(1 - F))


def test_simplification_shortens():
    y, f = sympy.Symbol("y", real=True), sympy.Symbol("f", real=True)
    assert (
        to_sympy(parse("f - y + y - f + (f - y)^2 - y^2 + 1 - 1")) - (f**2 - 2 * f * y) == 0
        or sympy.expand(to_sympy(parse("f - y + y - f + (f - y)^2 - y^2 + 1 - 1")) - (f**2 - 2 * f * y)) == 0
    )
    unsimplified = to_sympy(parse("mul(tanh(f), tanh(f)) + mul(tanh(y), 0)"), simplify=False)
    assert sympy.simplify(unsimplified - sympy.tanh(f) ** 2) == 0
    assert y not in unsimplified.free_symbols


def test_latex_of_both_kinds():
    assert latex(NOISE_SQRT) == r"\ell(1, f) = \sqrt{1 - f}, \quad \ell(0, f) = 0"
    assert latex(TANH2) == r"\ell(y, f) = \tanh^{2}{\left(f - y \right)}"
    assert "1.235" in latex(SymbolicLoss(parse("mul(y, f)"), (1.23456789, 1.0), "identity"))


def test_a_regression_loss_has_no_two_curves():
    with pytest.raises(ValueError, match="use to_sympy"):
        curves(TANH2)


def test_a_large_formula_is_left_unsimplified_and_fast():
    expr = parse("f - y")
    for _ in range(20):
        expr = parse(f"max(tanh({expr}), min(y, square(f)))")
    assert to_sympy(expr).has(sympy.tanh)


def lines(ax):
    return {line.get_label(): (line.get_xdata(), line.get_ydata()) for line in ax.get_lines()}


def test_picture_draws_the_curves_and_the_gradient():
    left, right = (lines(ax) for ax in picture(NOISE_SQRT).axes)
    p, value = left["y = 1"]
    np.testing.assert_allclose(value, np.sqrt(1 - p), atol=1e-4)
    assert not left["y = 0"][1].any()
    p, slope = right["any number of classes"]
    np.testing.assert_allclose(slope, -p * np.sqrt(1 - p) / 2, atol=1e-4)

    left, right = (lines(ax) for ax in picture(TANH2).axes)
    r, value = left["any y"]
    np.testing.assert_allclose(value, np.tanh(r) ** 2, atol=1e-4)
    np.testing.assert_allclose(right["any y"][1], 2 * np.tanh(r) / np.cosh(r) ** 2, atol=1e-4)


def test_picture_of_a_loss_that_depends_on_more_than_the_residual():
    left, _ = picture(SymbolicLoss(parse("f^2 - f * y"), link="identity")).axes
    assert set(lines(left)) == {"y = 0", "y = -1", "y = 1"}


def test_picture_of_a_sigmoid_loss_and_of_one_that_counts_classes():
    loss = SymbolicLoss(parse("-y * log(f) - (1 - y) * log(1 - f)"), link="sigmoid")
    _, right = (lines(ax) for ax in picture(loss).axes)
    for name, target in (("y = 1", 1), ("y = 0", 0)):
        np.testing.assert_allclose(right[name][1], right[name][0] - target, atol=1e-3)
    _, right = (lines(ax) for ax in picture(load("label-smoothing", smoothing=0.2)).axes)
    np.testing.assert_allclose(right["10 classes"][1], right["10 classes"][0] - 0.82, atol=1e-4)
