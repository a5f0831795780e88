"""Operations of products against closed forms, loops against their unrolled form, and the clock of the peak."""

import itertools

import jax
import jax.numpy as jnp
import optax
import pytest

from metalearn.costs import flops as compute
from metalearn.costs.flops import peak_flops, step_flops
from metalearn.gradients import backprop, full_es
from metalearn.inner import InnerLoop
from metalearn.learner import Family, Signature, inner_loop
from metalearn.outer import outer_loop
from metalearn_models.learners.transformer import TransformerConfig, transformer

A, B, C, D = 3, 5, 7, 11


def shape(*axes):
    return jax.ShapeDtypeStruct(axes, jnp.float32)


def square(x):
    return x @ x


def test_a_product_and_a_batch_of_products():
    assert step_flops(jnp.matmul, shape(A, B), shape(B, C)) == 2 * A * B * C
    assert step_flops(jnp.matmul, shape(D, A, B), shape(D, B, C)) == 2 * D * A * B * C
    assert step_flops(lambda x, y: x * y + jnp.tanh(x), shape(A, B), shape(A, B)) == 0


@pytest.mark.parametrize("remat", [False, True])
def test_a_scan_counts_its_body_as_often_as_it_runs(remat):
    def loss(w, x):
        def body(c, _):
            return jnp.tanh(c @ w), None

        return jax.lax.scan(jax.checkpoint(body) if remat else body, x, length=D)[0].sum()

    one = 2 * A * B * B
    assert step_flops(loss, shape(B, B), shape(A, B)) == D * one
    assert step_flops(jax.jit(jax.grad(loss)), shape(B, B), shape(A, B)) == D * (4 if remat else 3) * one


def test_the_gradient_of_two_layers():
    def loss(params, x):
        return (jnp.tanh(x @ params[0]) @ params[1]).sum()

    flops = step_flops(jax.grad(loss), (shape(B, C), shape(C, D)), shape(A, B))
    # Forward, weights, and the gradient of the hidden layer: nobody asks for that of the inputs.
    assert flops == 2 * A * (2 * B * C + 3 * C * D)


def test_the_dearest_branch_and_loops_of_known_and_unknown_length():
    x, one = shape(A, A), 2 * A**3
    assert step_flops(lambda x: jax.lax.cond(x[0, 0] > 0, lambda: square(square(x)), lambda: square(x)), x) == 2 * one
    assert step_flops(lambda x: jax.lax.fori_loop(0, 4, lambda _, x: square(x), x), x) == 4 * one
    assert step_flops(lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x + 1, x), x) == 0
    with pytest.raises(ValueError, match="its number of iterations is unknown"):
        step_flops(lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 9, square, x), x)


def test_custom_derivatives_count_what_is_computed():
    jvp, vjp = jax.custom_jvp(square), jax.custom_vjp(square)
    jvp.defjvp(lambda p, t: (square(p[0]), t[0] @ p[0]))
    vjp.defvjp(lambda x: (square(x), x), lambda x, g: (square(square(g)) @ x,))
    x, one = shape(A, A), 2 * A**3
    for function, backward in ((jvp, 1), (vjp, 3)):
        assert step_flops(function, x) == one
        assert step_flops(jax.grad(lambda x, f=function: f(x).sum()), x) == (1 + backward) * one


def test_all_devices_of_a_mesh_count(on_eight_devices):
    script = """
import jax, jax.numpy as jnp
from metalearn.costs.flops import step_flops
mesh = jax.make_mesh((8,), ("a",), (jax.sharding.AxisType.Auto,))
split = jax.shard_map(lambda x, w: x @ w, mesh=mesh, in_specs=(jax.P("a"), jax.P()), out_specs=jax.P("a"))
print(step_flops(split, jnp.ones((16, 3)), jnp.ones((3, 5))))
"""
    assert int(on_eight_devices(script)) == 2 * 16 * 3 * 5


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("stride, dilation, groups", list(itertools.product((1, 2), repeat=3)))
def test_a_convolution_and_its_derivatives_meet_the_same_numbers(padding, stride, dilation, groups):
    n, size, taps, features, results = 3, 9, 3, 4, 6

    def convolve(x, kernel):
        how = {"rhs_dilation": (dilation,), "feature_group_count": groups}
        return jax.lax.conv_general_dilated(x, kernel, (stride,), padding, **how)

    x, kernel = shape(n, features, size), shape(results, features // groups, taps)
    reach = dilation * (taps - 1) + 1
    places = -(-size // stride) if padding == "SAME" else (size - reach) // stride + 1
    left = max((places - 1) * stride + reach - size, 0) // 2 if padding == "SAME" else 0
    meetings = sum(0 <= o * stride + k * dilation - left < size for o in range(places) for k in range(taps))
    once = 2 * n * results * (features // groups) * meetings
    assert step_flops(convolve, x, kernel) == once
    both = jax.grad(lambda x, kernel: (convolve(x, kernel) ** 2).sum(), argnums=(0, 1))
    assert step_flops(both, x, kernel) == 3 * once


BATCH, LENGTH, INPUTS, CLASSES, WIDTH, LAYERS, HEADS = 6, 20, 8, 5, 32, 3, 4
TOKENS = BATCH * LENGTH


def training():
    """A Transformer, on sequences that lie in memory: sampling them has no products."""
    signature = Signature(INPUTS, CLASSES, LENGTH)
    learner = transformer(signature, TransformerConfig(WIDTH, LAYERS, HEADS, WIDTH // HEADS))
    family = Family(
        signature,
        lambda data, key: jax.random.randint(key, (), 0, BATCH),
        None,
        lambda data, index: index,
        lambda data, task, key: (data[0][task], data[1][task]),
    )
    data = (jnp.ones((BATCH, LENGTH, INPUTS)), jnp.zeros((BATCH, LENGTH), jnp.int32))
    return inner_loop(learner, family), learner.init(jax.random.key(0)), data


def test_a_training_step_of_the_transformer():
    loop, theta, data = training()
    estimator = backprop(loop, BATCH)
    state = estimator.init(theta, data, jax.random.key(1))
    flops = step_flops(estimator.grad, theta, state, data, jax.random.key(2), jnp.int32(0))
    embedding, head = (INPUTS + CLASSES) * WIDTH, WIDTH * CLASSES
    attention = 2 * 2 * LAYERS * BATCH * LENGTH**2 * WIDTH
    forward = 2 * TOKENS * (embedding + LAYERS * 12 * WIDTH**2 + head) + attention
    assert flops == 3 * forward - 2 * TOKENS * embedding  # tokens have no gradient
    params = sum(a.size for a in jax.tree.leaves(theta))  # also biases and norms, which are in no product
    assert flops == pytest.approx(6 * params * TOKENS + 3 * attention, rel=0.06)


def test_outer_steps_of_a_call_and_two_particles_a_pair():
    window, pairs, product = 7, 4, 2 * WIDTH**2
    loop = InnerLoop(
        lambda *_: jnp.ones(WIDTH), lambda theta, state, *_: (theta @ state, state.sum(), {}), None, window
    )

    def flops(estimator, steps):
        init, step = outer_loop(estimator, optax.adam(1e-3), steps)
        return step_flops(step, init(jnp.ones((WIDTH, WIDTH)), (), jax.random.key(1)), ())

    assert flops(backprop(loop, 1), 5) == 5 * flops(backprop(loop, 1), 1) == 5 * 3 * window * product
    noise = 2 * WIDTH**2  # the weighted mean of the perturbations
    assert flops(full_es(loop, 0.1, pairs), 1) == pairs * (2 * window * product + noise)


def test_the_peak_is_the_fastest_product(monkeypatch):
    ticks = iter([0.0, *(1.0, 1.5), *(2.0, 2.25), *(3.0, 4.0)])
    monkeypatch.setattr(compute.time, "perf_counter", lambda: next(ticks))
    assert peak_flops(jnp.bfloat16, seconds=3.5, size=64) == 2 * 64**3 / 0.25
    assert next(ticks, None) is None


def test_one_product_is_timed_in_any_case():
    assert 0 < peak_flops(seconds=0.0, size=64) < 1e15
