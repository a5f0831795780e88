"""Statistics of layers: `inputs^T output_grads` is the gradient, and what is not understood is named."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from einops import rearrange
from flax import linen, nnx

from metalearn_models.optimizers.curvature import KernelLayout, find_layers, value_grad_and_statistics
from metalearn_models.optimizers.curvature.layers import flatten_positions, standard_layout


class Net(nnx.Module):
    """Convolution with strides and padding, an axis of heads, a dense layer, in one dtype."""

    def __init__(self, dtype=jnp.float32):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(2, 3, (3, 2), strides=2, rngs=rngs, dtype=dtype, param_dtype=dtype)
        self.heads = nnx.LinearGeneral(3, (2, 2), rngs=rngs, dtype=dtype, param_dtype=dtype)
        self.out = nnx.LinearGeneral((2, 2), 3, axis=(-2, -1), rngs=rngs, dtype=dtype, param_dtype=dtype)

    def __call__(self, x):
        x = jax.nn.relu(rearrange(self.conv(x), "b h w c -> b (h w) c"))
        return self.out(jax.nn.gelu(self.heads(x)))


def _gradients(statistics):
    """What the factors say that the gradients are."""
    found = {}
    for path, layer in statistics.items():
        a, e = (np.asarray(flatten_positions(x), np.float64) for x in (layer.inputs, layer.output_grads))
        found[path] = np.asarray(layer.layout.from_matrix(jnp.asarray(a.T @ e / layer.inputs.shape[0])))
    return found


def _check(loss_fn, params, *args, tolerance=1e-6, paths=None):
    (loss, grads), (found, same, statistics) = jax.jit(
        lambda *a: (jax.value_and_grad(loss_fn)(*a), value_grad_and_statistics(loss_fn, unknown="ignore")(*a))
    )(params, *args)
    np.testing.assert_array_equal(found, loss)
    expected = {jax.tree_util.keystr(path): g for path, g in jax.tree_util.tree_leaves_with_path(grads)}
    got = {jax.tree_util.keystr(path): g for path, g in jax.tree_util.tree_leaves_with_path(same)}
    for path, g in expected.items():
        np.testing.assert_allclose(np.asarray(got[path], np.float32), np.asarray(g, np.float32), atol=tolerance)
    for path, g in _gradients(statistics).items():
        largest = float(jnp.abs(expected[path]).max())
        assert largest > 0
        np.testing.assert_allclose(g, np.asarray(expected[path], np.float64), atol=tolerance * largest)
    if paths is not None:
        assert set(statistics) == set(paths)
    return statistics


@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-6), (jnp.bfloat16, 2e-2)])
def test_factors_of_an_nnx_module_make_its_gradients(dtype, tolerance):
    graph, params = nnx.split(Net(dtype))
    x = jax.random.normal(jax.random.key(0), (4, 7, 6, 2), dtype)
    loss_fn = lambda params, x: jnp.square(nnx.merge(graph, params)(x).astype(jnp.float32)).mean()  # noqa: E731
    statistics = _check(loss_fn, params, x, tolerance=tolerance)
    assert {path.split("'")[1]: layer.layout for path, layer in statistics.items()} == {
        "conv": standard_layout((3, 2, 2, 3)),
        "heads": KernelLayout((3, 2, 2), (0,)),
        "out": standard_layout((2, 2, 3)),
    }
    shapes = {path.split("'")[1]: (x.inputs.shape, x.output_grads.shape) for path, x in statistics.items()}
    assert shapes == {
        "conv": ((4, 12, 12), (4, 12, 3)),
        "heads": ((4, 12, 3), (4, 12, 4)),
        "out": ((4, 12, 4), (4, 12, 3)),
    }
    assert all(x.inputs.dtype == x.output_grads.dtype == dtype for x in statistics.values())


def test_factors_of_a_linen_module_make_its_gradients():
    module = linen.Sequential(
        [
            linen.Conv(3, (2, 2), padding="VALID", kernel_dilation=2),
            jax.nn.relu,
            lambda x: x.mean((1, 2)),
            linen.Dense(2),
        ]
    )
    x = jax.random.normal(jax.random.key(0), (4, 5, 5, 1))
    params = module.init(jax.random.key(1), x)
    paths = ("['params']['layers_0']['kernel']", "['params']['layers_3']['kernel']")
    _check(lambda params, x: jnp.square(module.apply(params, x)).mean(), params, x, paths=paths)


def test_kernels_are_followed_through_views_and_calls():
    """Transposed, reshaped and converted kernels, on either side, under jit, checkpoint and vmap."""

    def loss_fn(params, x):
        x = jax.jit(lambda w, x: x @ rearrange(w, "o h i -> (h i) o"))(params["merged"], x)
        x = jax.checkpoint(lambda w, x: jax.nn.silu(w.astype(jnp.bfloat16) @ x.T.astype(jnp.bfloat16)))(
            params["left"], x
        )
        x = jax.vmap(lambda x: x.astype(jnp.float32) @ params["mapped"])(x.T)
        return jnp.square(x @ params["vector"]).mean()

    draw = np.random.default_rng(0).normal
    params = {
        "merged": draw(size=(3, 2, 2)),
        "left": draw(size=(5, 3)),
        "mapped": draw(size=(5, 4)),
        "vector": draw(size=4),
    }
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    statistics = _check(loss_fn, params, jnp.asarray(draw(size=(6, 4)), jnp.float32), tolerance=2e-2)
    assert {path[2:-2]: layer.layout.contracted for path, layer in statistics.items()} == {
        "merged": (1, 2),
        "left": (1,),
        "mapped": (0,),
        "vector": (0,),
    }
    assert statistics["['vector']"].output_grads.shape == (6, 1)
    assert find_layers(loss_fn, params, jnp.ones((6, 4))) == {k: x.layout for k, x in statistics.items()}


def test_recomputation_stays_where_checkpoint_asks_for_it():
    fn = value_grad_and_statistics(lambda p, x: jax.checkpoint(lambda p: jnp.sin(x @ p).mean())(p))
    assert "remat" in str(jax.make_jaxpr(fn)(jnp.ones((3, 2)), jnp.ones((4, 3))))


@jax.custom_vjp
def _double(w, x):
    return 2 * x @ w


_double.defvjp(lambda w, x: (2 * x @ w, (w, x)), lambda r, e: (2 * r[1].T @ e, 2 * e @ r[0].T))

REASONS = {
    "it is the kernel of 2 products": lambda w, x: (x @ w) @ w,
    "it is used by scan": lambda w, x: jax.lax.scan(lambda x, _: (x @ w, None), x, None, 3)[0],
    "beside its product, it is used by square": lambda w, x: x @ w + jnp.square(w).sum(),
    "it is used by mul": lambda w, x: x @ (w * 2),
    "it is used by gather": lambda w, x: x + w[jnp.array([0, 1, 2, 0])],
    "it is used by custom_vjp_call": _double,
    "it is a batch of kernels in dot_general": lambda w, x: jnp.einsum("bi,io->bio", x, w).sum(1),
    "it is used by split": lambda w, x: x + jnp.concatenate(jnp.split(w, 3)).sum(),
    "the function does not use it": lambda w, x: x,
    "it meets another parameter in dot_general": lambda w, x: x @ (w @ w),
}


@pytest.mark.parametrize("reason", REASONS)
def test_what_is_not_understood_is_named(reason):
    params, x = {"w": jnp.ones((3, 3)), "bias": jnp.ones(3)}, jnp.ones((4, 3))
    loss_fn = lambda p, x: (REASONS[reason](p["w"], x) + p["bias"][None]).mean()  # noqa: E731
    with pytest.warns(UserWarning, match=rf"no layer statistics: params\['w'\] \[3, 3\]: {reason}"):
        found = value_grad_and_statistics(loss_fn)(params, x)
    assert found[2] == {}
    jax.tree.map(np.testing.assert_array_equal, found[:2], jax.value_and_grad(loss_fn)(params, x))
    with pytest.raises(ValueError, match=rf"params\['w'\] \[3, 3\]: {reason}\. With unknown=\"warn\""):
        value_grad_and_statistics(loss_fn, unknown="error")(params, x)


def test_convolutions_in_groups_are_named():
    graph, params = nnx.split(nnx.Conv(4, 4, (3,), feature_group_count=2, rngs=nnx.Rngs(0)))
    loss_fn = lambda params, x: nnx.merge(graph, params)(x).mean()  # noqa: E731
    with pytest.raises(ValueError, match=r"\['kernel'\].* \[3, 2, 4\]: it is the kernel of a convolution in groups"):
        value_grad_and_statistics(loss_fn, unknown="error")(params, jnp.ones((2, 5, 4)))


@pytest.mark.unchecked_types
def test_aux_is_returned_and_an_unknown_choice_is_refused():
    fn = value_grad_and_statistics(lambda p, x: ((x @ p).mean(), {"seen": x}), has_aux=True)
    (loss, aux), grads, statistics = fn(jnp.ones((2, 1)), x := jnp.ones((3, 2)))
    assert loss == 2 and aux["seen"] is x and grads.shape == (2, 1) and list(statistics) == [""]
    with pytest.raises(ValueError, match="warn"):
        value_grad_and_statistics(lambda p: p, unknown="warning")


def test_one_example_without_a_batch_axis_is_a_batch_of_one():
    loss_fn = lambda p, x: optax.softmax_cross_entropy_with_integer_labels(x @ p, 1)  # noqa: E731
    statistics = _check(loss_fn, jnp.ones((3, 2)), jnp.arange(3.0))
    assert statistics[""].inputs.shape == (1, 3) and statistics[""].output_grads.shape == (1, 2)
