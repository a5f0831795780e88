"""Which parameters a product multiplies: through views, masks, loops and calls."""

import jax
import jax.numpy as jnp
import pytest

from metalearn.costs import Product, count_products, step_flops

A, B, C, N = 3, 5, 7, 2
W = {"a": jax.ShapeDtypeStruct((A, B), jnp.float32), "b": jax.ShapeDtypeStruct((B, C), jnp.float32)}
X = jax.ShapeDtypeStruct((N, A), jnp.float32)


def test_products_are_attributed_to_the_kernels_in_order():
    def net(w, x):
        return jax.nn.relu(x @ w["a"] + w["a"].sum()) @ w["b"]

    assert count_products(net, W, X) == (Product(("a",), N * A * B), Product(("b",), N * B * C))
    assert 2 * (N * A * B + N * B * C) == step_flops(net, W, X)


def test_a_kernel_stays_itself_through_views_masks_calls_and_remat():
    @jax.checkpoint
    def layer(w, x):
        return jnp.tanh(x @ jnp.where(w > 0, w, 0).T.astype(jnp.bfloat16).T.astype(jnp.float32))

    def net(w, x):
        return jax.jit(layer)(w["a"], x)

    assert count_products(net, W, X) == (Product(("a",), N * A * B),)


def test_kernels_that_are_joined_share_a_product():
    def net(w, x):
        return x @ jnp.concatenate([w["a"], w["a"] + 1.0, w["b"][:A]], -1)

    assert count_products(net, W, X) == (Product(("a", "b"), N * A * (2 * B + C)),)


def test_a_scan_over_layers_attributes_its_body_as_often_as_it_runs():
    stacked = {"layers": jax.ShapeDtypeStruct((4, A, A), jnp.float32)}

    def net(w, x):
        def body(carry, layer):
            return jnp.zeros_like(x) + carry @ layer, None

        # What is carried is a constant at first, and an activation after one step.
        return jax.lax.scan(body, jnp.zeros((N, A)), w["layers"])[0] + x

    def other(w, x):
        return jax.lax.scan(lambda h, layer: (h @ layer, None), x, w["layers"])[0]

    assert count_products(other, stacked, X) == (Product(("layers",), 4 * N * A * A),)
    # Nothing here depends on x inside the loop: a product of constants and weights belongs to no layer.
    assert count_products(net, stacked, X) == (Product((), 4 * N * A * A),)

    def late(w, x):
        return jax.lax.scan(lambda h, layer: (x + h @ layer, None), jnp.zeros((N, A)), w["layers"])[0]

    assert count_products(late, stacked, X) == (Product(("layers",), 4 * N * A * A),)


def test_products_of_two_activations_or_of_two_weights_belong_to_no_parameter():
    def net(w, x):
        return (x @ x.T) @ (x @ (w["a"] @ w["b"]))

    leaves = [product.leaves for product in count_products(net, W, X)]
    assert leaves == [(), (), ("a", "b"), ()]


def test_of_two_branches_the_most_expensive_counts():
    def net(w, x):
        return jax.lax.cond(x[0, 0] > 0, lambda: (x @ w["a"]) @ w["b"], lambda: jnp.zeros((N, C)))

    assert [p.leaves for p in count_products(net, W, X)] == [("a",), ("b",)]


def test_a_loop_of_unknown_length_is_refused():
    def net(w, x):
        return jax.lax.while_loop(lambda h: h.sum() < 1.0, lambda h: h @ w["s"], x)

    with pytest.raises(ValueError, match="a while contains matrix products"):
        count_products(net, {"s": jax.ShapeDtypeStruct((A, A), jnp.float32)}, X)
