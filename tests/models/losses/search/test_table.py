"""Tables against the formulas they stand for, evaluated and differentiated by JAX in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn_models.losses.formulas import OPERATORS, Op, Var, evaluate, number_of_coefficients, parse
from metalearn_models.losses.search.evolution import EvolutionConfig, initial_population
from metalearn_models.losses.search.jets import evaluate_jet
from metalearn_models.losses.search.screening import fingerprint, reject, scale
from metalearn_models.losses.search.table import (
    PROBABILITIES,
    RESIDUALS,
    Jet,
    classification_cotangent,
    classification_table,
    gradient_cells,
    logit_position,
    look_up,
    loss_cells,
    regression_cotangent,
    regression_table,
    residual_position,
    screening_table,
    target_rows,
)

CE = "mul(-1, mul(y, log(f)))"
TREES = (
    *initial_population(EvolutionConfig(population=20), 0),
    *map(parse, (CE, "square(sub(y, f))", "abs(sub(y, f))", "square(tanh(sub(y, f)))", "sqrt(sub(1, f)) * y")),
)


def derivatives(expr, y, f, coefficients=None, order=1):
    """Value and derivatives by f, in float64, by JAX."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        c = None if coefficients is None else jnp.asarray(coefficients)
        y, f = jnp.asarray(y, jnp.float64), jnp.asarray(f, jnp.float64)
        functions = [lambda f: evaluate(expr, c, y, f)]
        for _ in range(order):  # elementwise: the tangent of ones is the derivative of each
            functions.append(lambda f, g=functions[-1]: jax.jvp(g, (f,), (jnp.ones_like(f),))[1])
        return [np.asarray(g(f)) for g in functions]


@pytest.mark.parametrize("name", OPERATORS)
def test_each_operator_on_jets_is_the_operator_and_its_derivatives(name):
    rng = np.random.default_rng(0)
    y, f = rng.normal(size=(2, 200)) * 3
    y[0], f[0] = 0.5, 0.5  # min and max of equal arguments
    inner = parse("add(square(f), mul(y, f))")
    expr = Op(name, (inner, Var("f")) if OPERATORS[name].arity == 2 else (inner,))
    value, first, second = derivatives(expr, y, f, order=2)
    jet = evaluate_jet(expr, None, y, Jet(f, np.ones_like(f), np.zeros_like(f)))
    np.testing.assert_allclose(jet.value, value, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(jet.first, first, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(jet.second, second, rtol=1e-10, atol=1e-10)


def test_trees_with_coefficients_are_what_evaluate_gives():
    rng = np.random.default_rng(1)
    y, f = rng.normal(size=(2, 50))
    for expr in (parse("add(mul(y, f), mul(y, f))"), *TREES[:20]):
        c = rng.normal(size=number_of_coefficients(expr)) + 1
        value, first = derivatives(expr, y, f, c)
        jet = evaluate_jet(expr, tuple(c), y, Jet(f, np.ones_like(f), np.zeros_like(f)))
        np.testing.assert_allclose(jet.value, value, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(jet.first, first, rtol=1e-8, atol=1e-8)
    with pytest.raises(ValueError, match="has 2 coefficients, got 1"):
        evaluate_jet(parse("add(y, f)"), [1.0], y, Jet(f, f, f))


def is_smooth(values: np.ndarray) -> np.ndarray:
    """Points between grid points that no kink is near: fourth differences as small as those of a smooth curve."""
    size = 1 + np.abs(values)
    rough = np.abs(np.diff(values, 4, axis=-1)) / size[..., 4:] > 1e-4
    return ~np.stack([np.convolve(row, np.ones(9), "full")[2:-2] > 0 for row in rough])


def compare(table_values, direct, curve, cells):
    smooth = is_smooth(curve)
    inside = smooth[:, :-1] & smooth[:, 1:]
    error = np.abs(table_values - direct) / (1 + np.abs(direct))
    assert error[inside].size == 0 or error[inside].max() < 1e-5
    return inside.mean()


def test_classification_tables_equal_the_formula_between_grid_points():
    """Loss and gradient within 1e-5 wherever the curve has no kink; for each tree, half way between grid points."""
    position = np.arange(512) + 0.5
    u = np.linspace(-16, 16, 513)
    p = 1 / (1 + np.exp(-(u[:-1] + u[1:]) / 2))
    rows = np.repeat(np.arange(2)[:, None], 512, 1)
    share = []
    for expr in TREES:
        table = classification_table(expr)
        value, slope = derivatives(expr, rows.ravel().astype(float), np.tile(p, 2))
        where = jnp.asarray(np.tile(position, (2, 1)), jnp.float32)
        for cells, direct, curve in (
            (loss_cells(table, "classification"), value, table.loss),
            (gradient_cells(table, "classification"), slope * np.tile(p, 2), table.gradient),
        ):
            got = look_up(jnp.asarray(cells), jnp.asarray(rows, jnp.int32), where)
            share.append(compare(np.asarray(got), direct.reshape(2, -1), curve, cells))
    assert np.mean(share) > 0.9


def test_regression_tables_equal_the_formula_between_grid_points():
    x = np.arange(384) + 0.5
    end = np.arcsinh(320.0)
    r = 0.1 * np.sinh((x / 384 * 2 - 1) * end)
    assert np.allclose(np.asarray(residual_position(jnp.asarray(r, jnp.float32))), x, atol=2e-4)
    targets = np.array([-1.7, 0.3, 1.0, 2.2])
    y = np.repeat(targets[:, None], 384, 1)
    rows = jnp.asarray(np.repeat(np.arange(4)[:, None], 384, 1), jnp.int32)
    where = jnp.asarray(np.tile(x, (4, 1)), jnp.float32)
    share = []
    for expr in TREES:
        table = regression_table(expr, targets)
        value, slope = derivatives(expr, y.ravel(), (y + r[None]).ravel())
        for cells, direct, curve in (
            (loss_cells(table, "regression"), value, table.loss),
            (gradient_cells(table, "regression"), slope, table.gradient),
        ):
            got = np.asarray(look_up(jnp.asarray(cells), rows, where))
            share.append(compare(got, direct.reshape(4, -1), curve, cells))
    assert np.mean(share) > 0.7


@pytest.mark.parametrize("text", [CE, "square(sub(y, f))", "y * sqrt(sub(1, square(f))) + (1 - y) * f", "abs(y - f)"])
def test_gradient_of_the_logits_is_that_of_the_formula(text):
    """The identity dL/dz = h - p sum h against jax.grad through softmax, in float64."""
    expr = parse(text)
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(size=(64, 5)) * 2, rng.integers(5, size=64)
    logits[0] = [0, 0, -3, -3, -3]  # a tie at the top
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):

        def total(z):
            return evaluate(expr, None, jax.nn.one_hot(labels, 5, dtype=z.dtype), jax.nn.softmax(z)).sum()

        exact = np.asarray(jax.grad(total)(jnp.asarray(logits)))
    cells = jnp.asarray(gradient_cells(classification_table(expr), "classification"))
    got = classification_cotangent(cells, jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.int32))
    np.testing.assert_allclose(np.asarray(got), exact, atol=1e-5)


def test_cross_entropy_keeps_its_gradient_at_any_logits():
    cells = jnp.asarray(gradient_cells(classification_table(parse(CE)), "classification"))
    logits = jnp.asarray([[1e4, -1e4, 0.0], [50.0, 0.0, 0.0], [3e38, -3e38, 0.0]], jnp.float32)
    got = classification_cotangent(cells, logits, jnp.asarray([1, 1, 1], jnp.int32))
    np.testing.assert_allclose(np.asarray(got), [[1, -1, 0]] * 3, atol=1e-6)


def test_logits_of_probabilities_keep_their_digits_near_one():
    logits = np.array([[12.0, 0.0, -1.0], [14.0, 14.0, 0.0]])
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    rest = np.stack([np.delete(p, c, 1).sum(1) for c in range(3)], 1)
    _, position = logit_position(jnp.asarray(logits, jnp.float32))
    np.testing.assert_allclose(np.asarray(position), (np.log(p / rest) + 16) * 16, rtol=1e-5)


def test_a_jump_is_one_cell_wide_and_nothing_overshoots():
    table = regression_table(parse("abs(sub(y, f))"), np.array([0.3]))
    cells = jnp.asarray(gradient_cells(table, "regression"))
    r = np.linspace(-1, 1, 4001)
    got = np.asarray(look_up(cells, jnp.zeros(4001, jnp.int32), residual_position(jnp.asarray(r, jnp.float32))))
    far = np.abs(r) > 0.0035
    np.testing.assert_allclose(got[far], np.sign(r[far]), atol=1e-6)
    assert np.abs(got).max() <= 1 + 1e-6


def test_nothing_overshoots_next_to_a_singularity():
    """The logarithm of a difference that is nearly zero at a grid point: its slope there is of no use to the cell."""
    near = float(PROBABILITIES[240]) + 1e-5
    table = classification_table(parse(f"mul(y, log(sub(f, {near!r})))"))
    cells = gradient_cells(table, "classification")
    t = np.linspace(0, 1, 11)
    curve = (cells[1][:, None, :] * t[None, :, None] ** np.arange(4)).sum(-1)
    assert np.abs(curve).max() <= 2 * np.abs(table.gradient).max()


def test_targets_beyond_the_rows_are_interpolated_between_quantiles():
    y = np.random.default_rng(3).normal(size=500).astype(np.float32)
    expr, f = parse("mul(square(sub(y, f)), tanh(y))"), 0.4
    for rows, tolerance in ((500, 1e-5), (100, 2e-2)):
        nodes, targets = target_rows(y, rows)
        assert len(nodes) <= rows
        cells = jnp.asarray(gradient_cells(regression_table(expr, nodes), "regression"))
        got = regression_cotangent(cells, targets, jnp.float32(f) - jnp.asarray(y))
        np.testing.assert_allclose(np.asarray(got), 2 * (f - y) * np.tanh(y), atol=tolerance)


def test_constant_targets_have_a_table():
    nodes, targets = target_rows(np.zeros(3, np.float32), 10)
    assert nodes.tolist() == [0.0, 1.0] and targets.weight.tolist() == [0.0] * 3


SCALED = "mul(add(1, 1), mul(-1, mul(y, log(f))))"


@pytest.mark.parametrize(
    ("kind", "first", "second", "equal"),
    [
        ("classification", CE, SCALED, True),
        ("classification", CE, "add(mul(-1, mul(y, log(f))), f)", True),  # the sum of all p is one
        ("classification", CE, "square(sub(y, f))", False),
        ("classification", "abs(sub(y, f))", "mul(-1, mul(y, f))", True),
        ("classification", CE, "mul(-1, mul(y, sqrt(f)))", False),
        ("regression", "square(sub(y, f))", "mul(square(sub(f, y)), add(1, 1))", True),
        ("regression", "square(sub(y, f))", "add(square(sub(y, f)), y)", True),
        ("regression", "square(sub(y, f))", "abs(sub(y, f))", False),
        ("regression", "log(abs(sub(y, f)))", "max(log(abs(sub(y, f))), -1)", False),
    ],
)
def test_fingerprints_are_equal_when_networks_would_train_alike(kind, first, second, equal):
    one, two = (fingerprint(screening_table(parse(text), kind), kind) for text in (first, second))
    assert (one == two) is equal


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        ("classification", "mul(y, log(f))", "wrong sign"),
        ("classification", "add(y, f)", "flat"),
        ("classification", "mul(y, sign(f))", "flat"),
        ("classification", "mul(square(square(square(square(add(1, add(1, 1)))))), mul(y, square(log(f))))", None),
        ("classification", CE, None),
        ("classification", "abs(sub(y, f))", None),
        ("classification", "mul(sub(1, y), f)", None),
        ("classification", "mul(sub(y, 1), f)", "wrong sign"),
        ("classification", "sub(log(add(f, y)), y)", "one answer"),
        ("regression", "square(sub(y, f))", None),
        ("regression", "square(tanh(sub(y, f)))", None),
        ("regression", "max(log(abs(sub(y, f))), -1)", None),
        ("regression", "mul(-1, square(sub(y, f)))", "wrong sign"),
        ("regression", "add(y, f)", "wrong sign"),
        ("regression", "mul(y, sign(f))", "flat"),
        ("regression", "square(square(square(square(sub(y, f)))))", "not finite"),
    ],
)
def test_losses_that_cannot_train_are_refused_before_training(kind, text, reason):
    got = reject(screening_table(parse(text), kind), kind)
    assert got is None if reason is None else (got or "").startswith(reason)


def test_a_loss_is_screened_for_as_many_classes_as_it_may_meet():
    """The sum over wrong classes of `label-noise` outgrows its other term, unless it is normalised."""
    table = screening_table(parse("sqrt(log(sub(sub(f, y), -1)))"), "classification")
    assert reject(table, "classification", 10) is None
    assert reject(table, "classification", 1000) == (
        "one answer: with 100 classes being sure of a wrong one costs less than equal probabilities"
    )
    # right with 2 and with 10 classes, wrong with 100: the wrong ones push the right one down together
    push = screening_table(parse("sub(mul(mul(1, f), sub(1, y)), mul(y, tanh(f)))"), "classification")
    assert reject(push, "classification", 10) is None
    shifted = screening_table(parse("add(mul(-1, mul(y, f)), mul(div(f, 1), add(1, 1)))"), "classification")
    assert str(reject(shifted, "classification", 10)).startswith("wrong sign: with 100 classes")


def test_scale_makes_multiples_of_a_loss_the_same_table():
    one, two = (screening_table(parse(text), "classification") for text in (CE, SCALED))
    cells = [gradient_cells(t, "classification", scale(t, "classification")) for t in (one, two)]
    np.testing.assert_allclose(*cells, rtol=1e-6)


def test_grids_are_symmetric():
    np.testing.assert_allclose(PROBABILITIES + PROBABILITIES[::-1], 1, rtol=1e-15)
    assert RESIDUALS[192] == 0 and np.isclose(RESIDUALS[-1], 32)
