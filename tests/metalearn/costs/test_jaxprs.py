"""The walk over a jaxpr finds the functions inside it, under whatever parameter they are kept."""

import jax
import jax.numpy as jnp
from jax import lax

from metalearn.costs.jaxprs import equations, inner_jaxprs


def names(f, *args):
    return [equation.primitive.name for equation in equations(jax.make_jaxpr(f)(*args))]


def test_functions_are_found_in_calls_loops_branches_and_custom_derivatives():
    own = jax.custom_jvp(jnp.sin)
    own.defjvp(lambda primals, tangents: (own(*primals), tangents[0] * 3))

    def f(x):
        x = jax.jit(jnp.cos)(x)
        x = lax.scan(lambda c, _: (jax.checkpoint(jnp.tan)(c), None), x, length=2)[0]
        x = lax.cond(x > 0, jnp.tanh, jnp.exp, x)
        x = lax.while_loop(lambda c: jnp.floor(c) < 3, jnp.ceil, x)
        return own(x)

    found = names(f, jnp.float32(1))
    assert {"cos", "tan", "tanh", "exp", "floor", "ceil", "sin"} <= set(found)
    assert found.index("scan") < found.index("tan") < found.index("cond")  # an equation, then what is inside it
    assert found.count("tan") == 1  # the body of a loop, not its iterations


def test_branches_are_inner_jaxprs_and_a_product_has_none():
    closed = jax.make_jaxpr(lambda x: lax.switch(jnp.int32(1), [jnp.sin, jnp.cos, jnp.tan], x @ x))(jnp.ones((2, 2)))
    inside = {equation.primitive.name: len(list(inner_jaxprs(equation))) for equation in closed.eqns}
    assert inside["cond"] == 3 and inside["dot_general"] == 0
