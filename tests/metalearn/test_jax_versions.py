"""What is read from jaxprs, on the installed version of JAX: the same tests must pass on the oldest and the newest."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from metalearn._jax_versions import open_jaxpr, scan_operands


def scan_equation(f, *args):
    (equation,) = (e for e in jax.make_jaxpr(f)(*args).eqns if e.primitive.name == "scan")
    return equation


def loop(consts, carry, scanned, stacked):
    """The equation of a scan with so many arrays of each kind, all of one shape in the body."""

    def f(w, c, xs):
        def body(c, x):
            total = sum([*w, *c, *x], start=jnp.zeros(3))
            return [total * (i + 1) for i in range(carry)], [total + i for i in range(stacked)]

        return lax.scan(body, c, xs, length=3)

    return scan_equation(f, [jnp.ones(3)] * consts, [jnp.ones(3)] * carry, [jnp.ones((3, 3))] * scanned)


@pytest.mark.parametrize("numbers", [(0, 1, 0, 0), (2, 1, 3, 0), (1, 3, 0, 2), (3, 2, 1, 1), (1, 0, 2, 1)])
def test_constants_and_carry_of_a_scan_are_told_apart(numbers):
    consts, carry, scanned, _ = numbers
    equation = loop(*numbers)
    assert len(equation.invars) == consts + carry + scanned
    assert scan_operands(equation) == (consts, carry)


def test_it_agrees_with_the_parameters_that_this_version_has():
    params = (equation := loop(3, 2, 1, 1)).params
    if "num_consts" in params:  # before 0.11.0
        expected = (params["num_consts"], params["num_carry"])
    else:
        consts, carry, _ = params["ft_in"].unpack()
        expected = (len(consts), len(carry))
    assert scan_operands(equation) == expected


def test_scalars_and_keys_are_carried_and_scanned_over():
    def f(key, xs):
        return lax.scan(lambda c, x: ((jax.random.split(c[0])[0], c[1] + x), x), (key, 0.0), xs)

    assert scan_operands(scan_equation(f, jax.random.key(0), jnp.ones(4))) == (0, 2)
    keys = jax.random.split(jax.random.key(0), 4)
    assert scan_operands(scan_equation(lambda k: lax.scan(lambda c, k: (c + 1, k), 0, k), keys)) == (0, 1)


def test_open_and_closed_jaxprs_are_opened():
    closed = jax.make_jaxpr(lambda x: x * jnp.arange(3.0))(jnp.ones(3))
    assert open_jaxpr(closed).eqns == closed.eqns
    assert open_jaxpr(open_jaxpr(closed)).eqns == closed.eqns
