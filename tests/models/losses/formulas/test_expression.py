import json

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from metalearn.errors import UnknownNameError
from metalearn_models.losses import formulas as ex
from metalearn_models.losses.formulas import Const, Op, Var, evaluate, parse

Y, F = Var("y"), Var("f")
UNARY = [name for name, op in ex.OPERATORS.items() if op.arity == 1]
BINARY = [name for name, op in ex.OPERATORS.items() if op.arity == 2]
quick = hypothesis.settings(max_examples=30, deadline=None, database=None, derandomize=True)


EVOMALS = (Y, F, Const(1.0), Const(-1.0))


def trees(terminals=EVOMALS):
    return st.recursive(
        st.sampled_from(terminals),
        lambda inner: st.one_of(
            st.builds(lambda name, a: Op(name, (a,)), st.sampled_from(UNARY), inner),
            st.builds(lambda name, a, b: Op(name, (a, b)), st.sampled_from(BINARY), inner, inner),
        ),
        max_leaves=12,
    )


def by_numpy(expr, coefficients, y, f):
    """An interpreter of its own, in float64, without bounds on values."""
    floored = lambda x: np.maximum(np.abs(x), 1e-7)  # noqa: E731
    functions = {
        "add": np.add,
        "sub": np.subtract,
        "mul": np.multiply,
        "div": lambda a, b: a / np.sqrt(1 + b**2),
        "min": np.minimum,
        "max": np.maximum,
        "sign": np.sign,
        "square": np.square,
        "abs": np.abs,
        "log": lambda x: np.log(floored(x)),
        "sqrt": lambda x: np.sqrt(floored(x)),
        "tanh": np.tanh,
    }
    numbers = iter(coefficients)

    def visit(node):
        if isinstance(node, Var):
            return y if node.name == "y" else f
        if isinstance(node, Const):
            return np.full_like(f, node.value)
        return functions[node.name](*[next(numbers) * visit(arg) for arg in node.args])

    return visit(expr)


def test_the_formulas_are_evomals():
    assert set(ex.OPERATORS) == {
        *("add", "sub", "mul", "div", "min", "max", "sign", "square", "abs", "log", "sqrt", "tanh")
    }
    x = jnp.array([0.0, -3.0])
    np.testing.assert_allclose(ex.OPERATORS["log"].function(x), np.log([1e-7, 3]), rtol=1e-6)
    assert jax.grad(ex.OPERATORS["log"].function)(0.0) == 0  # the clamp, where log(|x| + 1e-7) would have 1e7
    np.testing.assert_allclose(ex.OPERATORS["div"].function(jnp.array(3.0), jnp.array(2.0)), 3 / np.sqrt(5), rtol=1e-6)


@quick
@hypothesis.given(trees(), st.integers(0, 2**32 - 1))
def test_value_and_gradients_agree_with_numpy_and_finite_differences(expr, seed):
    """At moderate inputs, where neither a bound nor a floor is near; kinks are avoided by comparing at two widths."""
    random = np.random.default_rng(seed)
    y, f = random.uniform(0.2, 1.5, (2, 4))
    c = random.uniform(0.7, 1.3, ex.number_of_coefficients(expr))
    want = by_numpy(expr, c, y, f)
    hypothesis.assume(np.abs(want).max() < 1e3)
    got = evaluate(expr, jnp.asarray(c), jnp.asarray(y), jnp.asarray(f))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)

    def total(c, y, f):
        return evaluate(expr, c, y, f).sum()

    slopes = jax.grad(total, argnums=(0, 1, 2))(jnp.asarray(c), jnp.asarray(y), jnp.asarray(f))
    inputs = [c, y, f]
    for which, slope in enumerate(slopes):
        for i in range(len(inputs[which])):

            def at(step, which=which, i=i):
                moved = [x.copy() for x in inputs]
                moved[which][i] += step
                return by_numpy(expr, *moved).sum()

            wide, narrow = [(at(h) - at(-h)) / (2 * h) for h in (2e-5, 1e-5)]
            if abs(wide - narrow) < 1e-5 * (1 + abs(narrow)) and abs(narrow) < 1e3:
                np.testing.assert_allclose(slope[i], narrow, rtol=2e-3, atol=2e-3)


# classification: y in {0, 1}, f in [0, 1] and what float32 makes of its ends; regression: up to 1e4 in size
ENDS = [(y, f) for y in (0.0, 1.0) for f in (0.0, 1e-30, 1e-7, 0.5, 1.0)]
ENDS += [
    (1e4, 0.0),
    (1.0, -1.0),
    (-1.0, 1.0),
    (1e4, 1e4),
    (-1e4, -1e4),
    (1e4, -1e4),
    (-1e4, 1e4),
    (1e4, 1e-8),
    (1e-20, 1e4),
]
ENDS_Y, ENDS_F = np.array(ENDS, np.float32).T


def assert_finite_everywhere(expr, coefficients):
    values, pull = jax.vjp(lambda *inputs: evaluate(expr, *inputs), coefficients, jnp.array(ENDS_Y), jnp.array(ENDS_F))
    assert np.isfinite(values).all()
    of_c, of_y, of_f = pull(jnp.ones_like(values))
    assert np.isfinite(of_c).all()
    assert np.abs(jnp.stack([values, of_y, of_f])).max() <= np.float32(ex.LIMIT)  # false for NaN, too


@quick
@hypothesis.given(trees(), st.sampled_from([-3.0, -1.0, 0.0, 1.0, 30.0]))
def test_value_and_gradient_are_finite_on_the_whole_domain(expr, coefficient):
    assert_finite_everywhere(expr, jnp.full(ex.number_of_coefficients(expr), coefficient))


@pytest.mark.parametrize("name", sorted(ex.OPERATORS))
def test_towers_of_one_function_stay_finite(name):
    expr = parse("mul(square(y), f)")
    for _ in range(9):
        other = (parse("square(y - f)"),) if ex.OPERATORS[name].arity == 2 else ()
        expr = Op(name, (expr, *other))
    assert_finite_everywhere(expr, jnp.ones(ex.number_of_coefficients(expr)))


@pytest.mark.parametrize("coefficient", [1.0, ex.LIMIT, -ex.LIMIT])
def test_slopes_stay_finite_where_values_are_small(coefficient):
    """y^18 f at f = 0: nothing but the slope of f is large; with the largest coefficients JSON may hold."""
    expr = F
    for _ in range(9):
        expr = Op("mul", (Op("square", (Y,)), expr))
    assert_finite_everywhere(expr, jnp.full(ex.number_of_coefficients(expr), coefficient))


def test_beyond_the_bound_the_formula_is_constant():
    value, slope = jax.value_and_grad(lambda f: evaluate(parse("f^2^2 + y"), None, 1.0, f))(2e3)
    assert (value, slope) == (np.float32(ex.LIMIT), 0)
    value, slope = jax.value_and_grad(lambda f: evaluate(parse("f^2^2 + y"), None, 1.0, f))(1e2)
    np.testing.assert_allclose((value, slope), (1e8, 4e6), rtol=1e-6)


def test_plain_autodiff_of_these_towers_is_not_finite():
    """What the bounds are for: the same chains without them."""
    f = 1e4
    square = lambda x: x * x  # noqa: E731
    tower = lambda f: square(square(square(square(f)))) / jnp.sqrt(1 + square(square(square(square(f)))))  # noqa: E731
    assert not np.isfinite(jax.grad(tower)(f))


def test_derivatives_of_higher_order_and_of_both_modes_agree():
    expr = parse("tanh(f * y) + log(f + y^2) * div(y, f)")
    c = jnp.linspace(0.8, 1.2, ex.number_of_coefficients(expr))

    @jax.jit
    def value(c):
        return evaluate(expr, c, jnp.float32(0.7), jnp.float32(0.4))

    np.testing.assert_allclose(jax.jit(jax.jacfwd(value))(c), jax.jit(jax.jacrev(value))(c), rtol=1e-5)
    hessian = jax.jit(jax.jacfwd(jax.jacrev(value)))(c)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-5)
    slope = jax.jit(jax.grad(value))
    direction = jnp.sin(jnp.arange(len(c), dtype=jnp.float32))
    difference = (slope(c + 1e-2 * direction) - slope(c - 1e-2 * direction)) / 2e-2
    np.testing.assert_allclose(hessian @ direction, difference, atol=2e-3)


def test_under_jit_and_vmap_it_is_the_same():
    expr = parse("mul(y, log(f)) + sqrt(f - y)")
    y, f = jnp.linspace(0, 1, 5), jnp.linspace(0.1, 0.9, 5)
    slope = jax.grad(lambda f, y: evaluate(expr, None, y, f))
    want = jnp.stack([slope(f[i], y[i]) for i in range(5)])
    np.testing.assert_allclose(jax.jit(jax.vmap(slope))(f, y), want, rtol=1e-5)


def test_a_given_logarithm_agrees_with_the_clamp_and_keeps_the_slope_below_it():
    expr = parse("mul(y, log(f))")
    u = jnp.linspace(-16, 3, 50)
    direct = evaluate(expr, None, jnp.ones(50), jnp.exp(u))
    np.testing.assert_allclose(evaluate(expr, None, jnp.ones(50), jnp.exp(u), u), direct, rtol=1e-5, atol=1e-5)
    c = jnp.array([1.0, 1.0, 0.5])
    with_c = evaluate(expr, c, jnp.ones(50), jnp.exp(u), u)
    np.testing.assert_allclose(with_c, direct + np.log(0.5), rtol=1e-4, atol=1e-5, err_msg="log|c| is added")
    slope = jax.grad(lambda u, log: evaluate(expr, None, 1.0, jnp.exp(u), u if log else None), argnums=0)
    assert slope(-40.0, False) == 0
    assert slope(-40.0, True) == 1


def test_one_coefficient_an_edge_in_prefix_order():
    expr = parse("sub(mul(y, f), f^2)")
    assert ex.number_of_coefficients(expr) == 5
    c = np.array([2.0, 3.0, 5.0, 7.0, 11.0])  # mul, y, f, square, f
    got = evaluate(expr, c, jnp.float32(0.3), jnp.float32(0.9))
    np.testing.assert_allclose(got, 2 * (3 * 0.3) * (5 * 0.9) - 7 * (11 * 0.9) ** 2, rtol=1e-6)
    with pytest.raises(ValueError, match=r"has 5 coefficients, one per edge; got shape \(4,\)"):
        evaluate(expr, c[:4], 1.0, 1.0)


def test_size_height_nodes_and_replace():
    expr = parse("mul(y, log(f))")
    assert (ex.size(expr), ex.height(expr), ex.size(F), ex.height(F)) == (4, 2, 1, 0)
    assert [str(node) for node in ex.nodes(expr)] == ["mul(y, log(f))", "y", "log(f)", "f"]
    assert ex.variables(expr) == {"y", "f"}
    assert ex.replace(expr, 2, F) == parse("mul(y, f)")
    assert ex.replace(expr, 0, F) == F
    assert {expr: 1}[parse("mul(y, log(f))")] == 1, "equal trees hash alike"
    with pytest.raises(IndexError, match="nodes 0 to 3, got index 4"):
        ex.replace(expr, 4, F)


@quick
@hypothesis.given(trees(), st.data())
def test_replacing_any_node_by_itself_changes_nothing(expr, data):
    index = data.draw(st.integers(0, ex.size(expr) - 1))
    assert ex.replace(expr, index, ex.nodes(expr)[index]) == expr
    assert ex.nodes(ex.replace(expr, index, Const(7)))[index] == Const(7)


@quick
@hypothesis.given(trees((Y, F, Const(1), Const(-1), Const(0.1), Const(-2.5e-8), Const(1e11))))
def test_text_and_json_read_back_to_the_same_formula(expr):
    assert parse(ex.to_text(expr)) == expr
    c = tuple(0.1 * i for i in range(ex.number_of_coefficients(expr)))
    assert ex.from_json(ex.to_json(expr, c)) == (expr, c)


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("tanh(f - y)^2", "square(tanh(sub(f, y)))"),
        ("-1", "-1"),
        ("-f*y", "mul(mul(-1, f), y)"),
        ("-f^2", "mul(-1, square(f))"),
        ("f - y - 1", "sub(sub(f, y), 1)"),
        ("f + y * -1", "add(f, mul(y, -1))"),
        ("( f+y )*2.5e-1", "mul(add(f, y), 0.25)"),
    ],
)
def test_infix(text, prefix):
    assert str(parse(text)) == prefix


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mul(y", r"at character 6: expected ',' or '\)', got the end"),
        ("mul(y)", "at character 1: mul takes 2 arguments, got 1"),
        ("f + log(y, f)", "at character 5: log takes 1 argument, got 2"),
        ("", "at character 1: expected a number, a variable, a function or '\\(', got the end"),
        ("y/f", r"at character 2: expected div\(a, b\)"),
        ("f^3", "the only power is a"),
        ("f f", "at character 3: expected an operator or the end, got 'f'"),
        ("1..2*f", "at character 1"),
        ("1e999*f", "must be finite"),
        ("log", r"at character 4: expected '\(' after log"),
        ("__import__('os')", "at character 1"),
        ("(" * 50_000, "nested deeper than 64"),
        ("abs(" * 10_000, "nested deeper than 64"),
        ("f" + "+f" * 10_000, "at most 64 levels"),
        ("f" + "^2" * 10_000, "at most 64 levels"),
        ("-" * 10_000 + "f", "at character 2"),
        ("f" * 100_000, "at most 65536 characters"),
    ],
)
@pytest.mark.unchecked_types
def test_wrong_text_says_where_and_what_would_be_right(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_unknown_names_get_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown function at character 5, 'tan'. Did you mean 'tanh'"):
        parse("f + tan(y)")
    with pytest.raises(UnknownNameError, match="unknown variable at character 1, 'x'"):
        parse("x")
    with pytest.raises(UnknownNameError, match="exp"):
        Op("exp", (F,))


def test_trees_are_bounded_however_they_are_built():
    expr = F
    with pytest.raises(ValueError, match="at most 4096 nodes"):
        for _ in range(64):
            expr = Op("add", (expr, expr))
    with pytest.raises(TypeError, match="Var, Const or Op"):
        Op("log", ("f",))
    for bad in (float("nan"), float("inf"), 10**400):
        with pytest.raises(ValueError, match="must be finite"):
            Const(bad)
    with pytest.raises(TypeError, match="must be a number"):
        Const(True)


def record(**changes):
    good = {"format": "metalearn-loss", "version": 1, "expression": "mul(y, f)", "coefficients": [1.0, 2]}
    return json.dumps(good | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (record(version=3), "format version 3, this metalearn reads up to 2: upgrade"),
        (record(version="1"), '"version" must be an integer'),
        (record(format="other"), "not a loss"),
        ("[]", "not a loss"),
        (record()[:-20], "truncated"),
        (b"\xff\xfe\x00", "not the JSON of a loss"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        (record(expression=["mul"]), '"expression" must be text'),
        (record(expression="mul(y)"), "mul takes 2 arguments, got 1"),
        (record(expression="sqrt(" * 1000 + "f" + ")" * 1000), "nested deeper"),
        (record(coefficients=[1.0]), "list of 2 numbers, one per edge; got 1 of them"),
        (record(coefficients={"a": 1}), "list of 2 numbers"),
        (record(coefficients=[1.0, "2"]), "coefficient 1 must be a number"),
        (record(coefficients=[1.0, True]), "coefficient 1 must be a number"),
        (record(coefficients=[[], 1.0]), "coefficient 0 must be a number"),
        (record(coefficients=[1.0, float("nan")]), "NaN is not allowed in a loss"),
        (record(coefficients=[1.0, float("-inf")]), "-Infinity is not allowed in a loss"),
        (record(coefficients=[1.0, 1e300]), "coefficient 1 must be finite and at most 1e"),
        (record(coefficients=[1.0, 10**400]), "coefficient 1 must be finite"),
        (record().replace("1.0", "1" + "0" * 6000), "not the JSON of a loss"),
        (record().replace("1.0", "1e999"), "must be finite"),
        (" " * 2_000_000, "at most 1048576 characters"),
    ],
)
@pytest.mark.unchecked_types
def test_wrong_json_is_refused_with_the_reason(text, message):
    with pytest.raises(ValueError, match=message):
        ex.from_json(text)


def test_a_loss_needs_y_and_f():
    ex.check_loss(parse("f - y"))
    with pytest.raises(ValueError, match=r"abs\(f\) lacks y"):
        ex.check_loss(parse("abs(f)"))
    with pytest.raises(ValueError, match="1 lacks y and f"):
        ex.check_loss(Const(1))
