"""Functions of low-rank perturbed arrays: equal to the materialised evaluation, without its arrays."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from metalearn.costs.jaxprs import equations
from metalearn.gradients.perturbed import LowRank, apply_perturbed, materialise
from metalearn.learner import Learner, Signature
from metalearn_models.learners.lstm import LSTMConfig, lstm
from metalearn_models.learners.transformer import TransformerConfig, transformer

MEMBERS = 7
MEMBER = LowRank(None, 0, 0)  # pyright: ignore[reportArgumentType]


def is_low_rank(x: Any) -> bool:
    return isinstance(x, LowRank)


def dense(theta: Any) -> Any:
    return jax.tree.map(materialise, theta, is_leaf=is_low_rank)


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> jax.Array:
    rng = np.random.default_rng([seed, *shape])
    return jnp.asarray(rng.normal(size=shape), dtype)


def low_rank(weight: jax.Array, rows: int = 1, rank: int = 1, members: tuple[int, ...] = ()) -> LowRank:
    """A perturbation as large as the weight, so that no error in it can hide."""
    left = normal(*members, *weight.shape[:rows], rank, seed=1, dtype=weight.dtype)
    return LowRank(weight, left, normal(*members, *weight.shape[rows:], rank, seed=2, dtype=weight.dtype))


def perturb(theta: Any, rank: int = 1, members: tuple[int, ...] = (), skip: str = "none") -> tuple[Any, Any]:
    """Matrices, unless `skip` is in their path, as `LowRank`; with the `in_axes` that map over members."""

    def leaf(path: Any, a: jax.Array) -> Any:
        return low_rank(a, 1, rank, members) if a.ndim > 1 and skip not in jax.tree_util.keystr(path) else a

    perturbed = jax.tree_util.tree_map_with_path(leaf, theta)
    return perturbed, jax.tree.map(lambda x: MEMBER if is_low_rank(x) else None, perturbed, is_leaf=is_low_rank)


def traced(f: Callable[..., Any], *args: Any) -> tuple[Any, list[tuple[int, ...]]]:
    """The value, and the shapes of all arrays on the way to it, axes in ascending order."""
    trace = jax.jit(f).trace(*args)
    shapes = [tuple(sorted(v.aval.shape)) for eqn in equations(trace.jaxpr) for v in eqn.outvars]  # pyright: ignore[reportAttributeAccessIssue]  # all are arrays
    return trace.lower().compile()(*args), shapes


def materialised(f: Callable[..., Any], theta: Any, *args: Any) -> Any:
    return f(dense(theta), *args)


def assert_close(got: Any, want: Any, atol: float = 1e-4) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=1e-5), got, want)


def assert_equal_and_thin(f: Callable[[Any], Any], weight: jax.Array, rows: int, rank: int, atol: float = 1e-4) -> None:
    """Equal to the materialised evaluation for every member, whose perturbed weights are nowhere."""
    w, forbidden = low_rank(weight, rows, rank, (MEMBERS,)), MEMBERS * weight.size
    got, thin = traced(jax.vmap(lambda w: apply_perturbed(f, w), (MEMBER,)), w)
    want, thick = traced(jax.vmap(lambda w: materialised(f, w), (MEMBER,)), w)
    assert_close(got, want, atol)
    assert max(map(math.prod, thin)) < forbidden <= max(map(math.prod, thick))


PRODUCTS = [  # equation, shapes of x and w, row axes of w, rank
    ("ti,ij->tj", (3, 20), (20, 30), 1, 1),
    ("tj,ij->ti", (3, 30), (20, 30), 1, 3),
    ("ij,tj->it", (3, 30), (20, 30), 1, 5),
    ("i,ij->j", (20,), (20, 30), 1, 1),
    ("bti,ijk->btjk", (2, 3, 20), (20, 5, 6), 1, 3),
    ("bti,ijk->tkbj", (2, 3, 20), (20, 5, 6), 1, 5),
    ("btij,ijk->btk", (2, 3, 5, 6), (5, 6, 20), 2, 1),
    ("btji,ijk->btk", (2, 3, 6, 5), (5, 6, 20), 2, 3),
    ("tj,ijk->tik", (3, 6), (5, 6, 20), 2, 5),
    ("tk,ijkl->tijl", (2, 6), (2, 3, 6, 7), 2, 1),
    ("hti,hij->htj", (4, 3, 20), (4, 20, 30), 2, 3),
    ("thj,ihj->hti", (3, 4, 20), (30, 4, 20), 1, 5),
]


@pytest.mark.parametrize(("equation", "x", "w", "rows", "rank"), PRODUCTS)
def test_a_product_over_rows_or_over_columns_is_exact_and_thin(equation, x, w, rows, rank):
    left, right = equation.split("->")[0].split(",")
    with jax.enable_x64(True):
        inputs, weight = normal(*x, dtype=np.float64), normal(*w, dtype=np.float64)
        swapped = f"{right},{left}->{equation.split('->')[1]}"
        f = lambda w: (jnp.einsum(equation, inputs, w), jnp.einsum(swapped, w, inputs))  # noqa: E731
        assert_equal_and_thin(f, weight, rows, rank, atol=1e-12)


MOVES: dict[str, tuple[Callable[[Any], Any], tuple[int, ...], int]] = {
    "transposed": (lambda w: normal(3, 30) @ w.T, (20, 30), 1),
    "transposed_twice": (lambda w: normal(3, 20) @ w.T.T, (20, 30), 1),
    "moved_within_rows": (lambda w: normal(3, 60) @ w.transpose(1, 0, 2).reshape(60, 20), (5, 12, 20), 2),
    "swapped_groups_of_axes": (lambda w: normal(2, 20) @ w.transpose(2, 1, 0).reshape(20, 60), (5, 12, 20), 2),
    "columns_split": (lambda w: normal(3, 20) @ w.reshape(20, 5, 6)[:, None].reshape(20, 30), (20, 30), 1),
    "rows_joined": (lambda w: normal(3, 60) @ w.reshape(60, 20), (5, 12, 20), 2),
    "unit_axes": (lambda w: normal(3, 20) @ jnp.squeeze(w[None, :, None], (0, 2)), (20, 30), 1),
    "cast": (lambda w: normal(3, 20).astype(jnp.bfloat16) @ w.astype(jnp.bfloat16), (20, 30), 1),
    "scaled": (lambda w: normal(3, 20) @ (-w * jnp.float32(0.3) / 2.0), (20, 30), 1),
    "stopped": (lambda w: normal(3, 20) @ lax.stop_gradient(w), (20, 30), 1),
    "named": (lambda w: normal(3, 20) @ checkpoint_name(w, "w"), (20, 30), 1),
    "behind_a_barrier": (lambda w: normal(3, 30) @ lax.optimization_barrier((w.T, normal(3)))[0], (20, 30), 1),
    "sliced": (lambda w: normal(3, 9) @ w[1:19:2, 2:], (20, 30), 1),
    "dynamically_sliced": (lambda w: normal(3, 9) @ lax.dynamic_slice(w, (jnp.int32(4), 3), (9, 20)), (20, 30), 1),
    "one_row": (lambda w: w[3], (20, 30), 1),
    "one_dynamic_row": (lambda w: w[jnp.int32(3)], (20, 30), 1),
    "embedding": (lambda w: w[jnp.array([[1, 2], [-1, 4], [0, 19]])], (20, 30), 1),
    "embedding_of_pairs": (lambda w: w[jnp.array([1, 2]), jnp.array([0, 3])], (4, 5, 30), 2),
    "embedding_past_the_end": (lambda w: w.at[jnp.array([1, 99])].get(mode="fill", fill_value=7.0), (20, 30), 1),
    "jitted": (jax.jit(lambda w: normal(3, 20) @ w), (20, 30), 1),
    "rematerialised": (jax.checkpoint(lambda w: jnp.tanh(normal(3, 20) @ w)), (20, 30), 1),
    "inner_gradient": (lambda w: jax.grad(lambda x: jnp.tanh(x @ w).sum())(normal(3, 20)), (20, 30), 1),
    "inner_gradient_rematerialised": (
        lambda w: jax.grad(jax.checkpoint(lambda x: jnp.tanh(x @ w).sum()))(normal(3, 20)),
        (20, 30),
        1,
    ),
    "in_a_branch": (
        lambda w: lax.cond(normal() > 0, lambda x: x @ w, lambda x: x @ (2.0 * w), normal(3, 20)),
        (20, 30),
        1,
    ),
    "in_a_scan": (
        lambda w: lax.scan(
            lambda h, x: (jnp.tanh(x + h @ w), h @ w), jnp.zeros((2, 20)), normal(5, 2, 20), reverse=True
        ),
        (20, 20),
        1,
    ),
    "handed_on_by_a_scan": (
        lambda w: lax.scan(lambda c, x: ((jnp.tanh(x + c[0] @ c[1]), c[1]), None), (jnp.zeros(20), w), normal(5, 20))[
            0
        ][0],
        (20, 20),
        1,
    ),
    "rows_scanned_over": (lambda w: lax.scan(lambda h, r: (jnp.tanh(h + r), h @ r), jnp.zeros(30), w), (20, 30), 1),
    "layers_scanned_over": (
        lambda w: lax.scan(lambda h, layer: (jnp.tanh(h @ layer), None), normal(2, 20), w, unroll=2)[0],
        (3, 20, 20),
        2,
    ),
    "in_a_while": (
        lambda w: lax.while_loop(
            lambda c: (c[0] @ w).sum() + c[1] < 5, lambda c: (jnp.tanh(c[0] @ w), c[1] + 1), (normal(20), 0.0)
        ),
        (20, 20),
        1,
    ),
    "handed_on_by_a_while": (
        lambda w: lax.fori_loop(0, jnp.int32(3), lambda _, c: (jnp.tanh(c[0] @ c[1]), c[1]), (normal(20), w))[0],
        (20, 20),
        1,
    ),
}


@pytest.mark.parametrize("name", MOVES)
def test_a_matrix_moved_cast_or_handed_to_a_loop_before_its_use_stays_thin(name):
    f, shape, rows = MOVES[name]
    assert_equal_and_thin(f, 0.1 * normal(*shape), rows, 2, atol=0.5 if name == "cast" else 1e-4)


FALLBACKS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...], int]] = {
    "norm": (jnp.linalg.norm, (4, 5), 1),
    "sum_of_all": (lambda w: jnp.einsum("ij,ij->", w, normal(4, 5)), (4, 5), 1),
    "row_and_column_axis_summed": (lambda w: jnp.einsum("jk,ijk->i", normal(5, 6), w), (4, 5, 6), 2),
    "elementwise": (jnp.tanh, (4, 5), 1),
    "scaled_by_row": (lambda w: w * normal(4, 1), (4, 5), 1),
    "scaled_by_column": (lambda w: w * normal(1, 5), (4, 5), 1),
    "scaled_by_array": (lambda w: w * normal(4, 5), (4, 5), 1),
    "divides": (lambda w: 1.0 / w, (4, 5), 1),
    "column_picked": (lambda w: w[:, jnp.array([1, 2])], (4, 5), 1),
    "elements_picked": (lambda w: w[jnp.array([1, 2]), jnp.array([0, 3])], (4, 5), 1),
    "mixed_axes": (lambda w: w.transpose(0, 2, 1).reshape(4, 30), (4, 5, 6), 2),
    "reshaped_across": (lambda w: normal(3, 10) @ w.reshape(10, 2), (4, 5), 1),
    "flattened": (jnp.ravel, (4, 5), 1),
    "rounded": (lambda w: w.astype(jnp.int32), (4, 5), 1),
    "broadcast": (lambda w: jnp.broadcast_to(w, (3, 4, 5)), (4, 5), 1),
    "squared": (lambda w: w @ w.T, (4, 5), 1),
    "twice_itself": (lambda w: w + w, (4, 5), 1),
    "times_itself": (lambda w: w * w, (4, 5), 1),
    "carried": (lambda w: lax.fori_loop(0, 3, lambda _, w: jnp.tanh(w), w), (4, 5), 1),
    "returned": (lambda w: (w, w.T), (4, 5), 1),
    "sorted": (lambda w: jnp.sort(w, axis=0), (4, 5), 1),
    "solved": (lambda w: jnp.linalg.solve(w, normal(4)), (4, 4), 1),
    "grouped_convolution": (
        lambda w: lax.conv_general_dilated(normal(2, 6, 7), w, (1,), "SAME", feature_group_count=2),
        (4, 3, 3),
        1,
    ),
    "convolved_with": (lambda w: jnp.convolve(w[0], w[1]), (4, 5), 1),
}


@pytest.mark.parametrize("name", FALLBACKS)
def test_any_other_use_is_materialised_and_right(name):
    f, shape, rows = FALLBACKS[name]
    w = low_rank(normal(*shape), rows, 2)
    assert_close(*jax.jit(lambda w: (apply_perturbed(f, w), f(materialise(w))))(w))


def test_all_members_share_one_product_with_the_weight():
    w, x = low_rank(normal(20, 30), 1, 2, (8, 2)), normal(8, 3, 20)  # 8 perturbations and 2 signs

    def of_all(evaluate: Callable[..., Any]) -> Callable[..., Any]:
        of_one = lambda w, x: evaluate(lambda w, x: jnp.tanh(x @ w) @ w.T, w, x)  # noqa: E731
        return jax.vmap(jax.vmap(of_one, (MEMBER, None)), (MEMBER, 0))

    assert_close(of_all(apply_perturbed)(w, x), of_all(materialised)(w, x), 1e-3)
    weights = {(20, 30), (30, 20)}
    products = [
        eqn
        for eqn in equations(jax.make_jaxpr(of_all(apply_perturbed))(w, x))
        if eqn.primitive.name == "dot_general" and any(v.aval.shape[-2:] in weights for v in eqn.invars)  # pyright: ignore[reportAttributeAccessIssue]  # all are arrays
    ]
    assert [eqn.params["dimension_numbers"][1] for eqn in products] == [((), ()), ((), ())]
    # x is the same for both signs: the first product serves 8, the second 16.
    assert [eqn.outvars[0].aval.size for eqn in products] == [8 * 3 * 30, 16 * 3 * 20]  # pyright: ignore[reportAttributeAccessIssue]  # arrays


SIGNATURE = Signature(inputs=3, outputs=5, length=6)
LEARNERS: dict[str, Callable[[], Learner]] = {
    "lstm": lambda: lstm(SIGNATURE, LSTMConfig(hidden=11)),
    "transformer": lambda: transformer(SIGNATURE, TransformerConfig(width=12, layers=1, heads=2, key_size=7)),
}


def learner_theta(name: str, rank: int, members: tuple[int, ...]) -> tuple[Learner, Any, Any]:
    """Every matrix of a learner perturbed, but for learned positions: they are added, so their members are needed."""
    learner = LEARNERS[name]()
    shapes = jax.eval_shape(learner.init, jax.random.key(0))
    theta = jax.tree_util.tree_map_with_path(lambda path, a: 0.3 * normal(*a.shape, seed=len(str(path))), shapes)
    return learner, *perturb(theta, rank, members, skip="positions")


@pytest.mark.parametrize(("name", "rank"), [("lstm", 1), ("transformer", 2)])
def test_a_learner_runs_for_all_perturbations_and_both_signs_without_their_matrices(name, rank):
    learner, theta, axes = learner_theta(name, rank, (8,))
    xs, ys = normal(8, SIGNATURE.length, SIGNATURE.inputs), jnp.arange(8 * 6, dtype=jnp.int32).reshape(8, 6) % 5
    assert learner.run is not None

    def of_all(evaluate: Callable[..., Any]) -> Callable[..., Any]:
        def of_pair(theta: Any, xs: jax.Array, ys: jax.Array) -> jax.Array:
            def of_sign(sign: jax.Array) -> jax.Array:
                signed = lambda x: LowRank(x.weight, sign * x.left, x.right) if is_low_rank(x) else x  # noqa: E731
                return evaluate(learner.run, jax.tree.map(signed, theta, is_leaf=is_low_rank), xs, ys)

            return jax.vmap(of_sign)(jnp.array([1.0, -1.0]))

        return jax.vmap(of_pair, in_axes=(axes, 0, 0))

    got, thin = traced(of_all(apply_perturbed), theta, xs, ys)
    want, thick = traced(of_all(materialised), theta, xs, ys)
    assert got.shape == (8, 2, SIGNATURE.length, SIGNATURE.outputs)
    assert_close(got, want, 2e-4)
    weights = [x.weight.shape for x in jax.tree.leaves(theta, is_leaf=is_low_rank) if is_low_rank(x)]
    assert len(weights) > 4
    perturbed = {tuple(sorted((*members, *shape))) for shape in weights for members in ((8,), (8, 2), (16,))}
    assert perturbed & set(thick)
    assert not perturbed & set(thin)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_steps_through_examples_one_at_a_time(name):
    learner, theta, _ = learner_theta(name, 1, ())
    key, xs = jax.random.key(3), normal(SIGNATURE.length, SIGNATURE.inputs)

    def loop(theta: Any, key: jax.Array, xs: jax.Array, classes: int) -> tuple[Any, jax.Array, jax.Array]:
        key, key_labels = jax.random.split(key)
        ys = jax.random.randint(key_labels, xs.shape[:1], 0, classes)

        def body(state: Any, example: Any) -> tuple[Any, jax.Array]:
            return learner.observe(theta, state, *example), learner.predict(theta, state, example[0])

        return *lax.scan(body, learner.start(theta, key), (xs, ys)), jax.random.key_data(key)

    both = jax.jit(lambda *args: (apply_perturbed(loop, *args), materialised(loop, *args)))
    assert_close(*both(theta, key, xs, 5))


def linen_dense(theta: Any, x: jax.Array) -> Any:
    return flax.linen.Dense(9).apply({"params": theta}, x)


def test_flax_linen_dense_equals_its_materialised_self():
    theta = {"kernel": low_rank(normal(8, 9), 1, 2), "bias": normal(9)}
    assert_close(apply_perturbed(linen_dense, theta, normal(2, 3, 8)), linen_dense(dense(theta), normal(2, 3, 8)))


class Everything(nnx.Module):
    """The layers of nnx whose kernels have two, three and four axes, and those with vectors only."""

    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(13, 8, rngs=rngs)
        self.linear = nnx.Linear(8, 16, rngs=rngs)
        self.norm = nnx.LayerNorm(16, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(num_heads=2, in_features=16, decode=False, rngs=rngs)
        self.convolution = nnx.Conv(16, 24, (3, 5), rngs=rngs)
        self.cell = nnx.GRUCell(24, 8, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        h = self.norm(jax.nn.relu(self.linear(self.embed(tokens))))
        h = self.convolution((h + self.attention(h))[..., None, :])[..., 0, :]
        scan = nnx.scan(lambda carry, cell, x: cell(carry, x), in_axes=(nnx.Carry, None, 1), out_axes=(nnx.Carry, 1))
        return self.embed.attend(scan(jnp.zeros((h.shape[0], 8)), self.cell, h)[1])


def test_nnx_modules_equal_their_materialised_selves_and_stay_thin():
    graph, state, rest = nnx.split(nnx.eval_shape(lambda: Everything(nnx.Rngs(0))), nnx.Param, ...)
    assert not jax.tree.leaves(nnx.filter_state(rest, nnx.Param))

    def leaf(path: Any, a: jax.Array) -> Any:
        name = jax.tree_util.keystr(path)
        rows = a.ndim - 1 if "convolution" in name or "out" in name else 1
        values = 0.5 * normal(*a.shape, seed=len(name))
        return low_rank(values, rows, 2, (MEMBERS,)) if a.ndim > 1 and "bias" not in name else values

    theta = jax.tree_util.tree_map_with_path(leaf, nnx.to_pure_dict(state))
    axes = jax.tree.map(lambda x: MEMBER if is_low_rank(x) else None, theta, is_leaf=is_low_rank)
    tokens = jnp.arange(10, dtype=jnp.int32).reshape(2, 5)

    def of_all(evaluate: Callable[..., Any]) -> Callable[..., Any]:
        f = lambda theta, tokens: nnx.merge(graph, theta, rest)(tokens)  # noqa: E731
        return jax.vmap(lambda theta: evaluate(f, theta, tokens), (axes,))

    (got, thin), (want, thick) = traced(of_all(apply_perturbed), theta), traced(of_all(materialised), theta)
    assert_close(got, want, 2e-3)
    weights = [x.weight.shape for x in jax.tree.leaves(theta, is_leaf=is_low_rank) if is_low_rank(x)]
    assert {len(shape) for shape in weights} == {2, 3, 4}
    for shape in weights:
        assert tuple(sorted((MEMBERS, *shape))) in thick
        assert tuple(sorted((MEMBERS, *shape))) not in thin


@pytest.mark.parametrize(
    ("layout", "image", "kernel", "rows", "how"),
    [
        (("NHWC", "HWIO", "NHWC"), (2, 9, 8, 5), (3, 2, 5, 40), 3, {"padding": "SAME"}),
        (("NHWC", "HWIO", "NCHW"), (2, 9, 8, 5), (3, 2, 5, 40), 3, {"padding": "VALID", "window_strides": (2, 1)}),
        (("NCHW", "OIHW", "NCHW"), (2, 5, 9, 8), (40, 5, 3, 2), 1, {"padding": ((2, 1), (0, 3))}),
        (("CWNH", "OWIH", "WHNC"), (5, 8, 2, 9), (40, 2, 5, 3), 1, {"padding": "SAME", "rhs_dilation": (2, 3)}),
        (
            ("NHWC", "WIHO", "NHWC"),
            (2, 4, 5, 5),
            (2, 5, 3, 40),
            3,
            {"padding": ((2, 1), (1, 1)), "lhs_dilation": (2, 2)},
        ),
        (("NWC", "WIO", "NWC"), (2, 9, 5), (3, 5, 40), 2, {"padding": "SAME"}),
        (("NWC", "WIO", "NWC"), (2, 9, 5), (3, 5, 40), 1, {"padding": "SAME"}),  # rows: the window alone
        (("NWC", "WIO", "NWC"), (2, 9, 6), (3, 3, 40), 2, {"padding": "SAME", "feature_group_count": 2}),
    ],
)
def test_a_convolution_is_exact_in_any_layout(layout, image, kernel, rows, how):
    how = {"window_strides": (1,) * (len(image) - 2), **how}
    with jax.enable_x64(True):
        x, w = normal(*image, dtype=np.float64), low_rank(normal(*kernel, dtype=np.float64), rows, 2, (MEMBERS,))

        def of_all(evaluate: Callable[..., Any]) -> Callable[..., Any]:
            f = lambda w: lax.conv_general_dilated(x, w, dimension_numbers=layout, **how)  # noqa: E731
            return jax.vmap(lambda w: evaluate(f, w), (MEMBER,))

        (got, thin), (want, _) = traced(of_all(apply_perturbed), w), traced(of_all(materialised), w)
        assert_close(got, want, 1e-11)
        built = tuple(sorted((MEMBERS, *kernel))) in thin
        assert built == ((rows == 1 and layout[1] == "WIO") or "feature_group_count" in how)


def with_jvp(x: jax.Array, w: jax.Array) -> jax.Array:
    """A product whose derivative is, on purpose, not its own."""
    product = jax.custom_jvp(lambda x, w: x @ w)
    product.defjvp(lambda primals, tangents: (primals[0] @ primals[1], 2 * (tangents[0] @ primals[1])))
    return jnp.tanh(product(x, w))


def with_vjp(x: jax.Array, w: jax.Array) -> jax.Array:
    product = jax.custom_vjp(lambda x, w, key: x @ w)
    product.defvjp(
        lambda x, w, key: (x @ w, (x, w)),
        lambda saved, g: (3 * (g @ saved[1].T), 5 * jnp.outer(saved[0], g), None),
    )
    return jnp.tanh(product(x, w, jax.random.key(0)))


def in_a_loop(x: jax.Array, w: jax.Array) -> jax.Array:
    return lax.scan(jax.checkpoint(lambda h, _: (jnp.tanh(h @ w @ w.T), None)), x, None, length=3)[0]


@pytest.mark.parametrize("product", [with_jvp, with_vjp, in_a_loop])
def test_gradients_by_arguments_and_by_all_parts_are_those_of_the_materialised_function(product):
    w, x = low_rank(0.1 * normal(20, 30), 1, 2), normal(20)
    loss = lambda evaluate: lambda w, x: evaluate(lambda w, x: jnp.square(product(x, w)).sum(), w, x)  # noqa: E731
    both = lambda w, x: tuple(jax.value_and_grad(loss(e), (0, 1))(w, x) for e in (apply_perturbed, materialised))  # noqa: E731
    got, want = jax.jit(both)(w, x)
    assert_close(got, want)


@pytest.mark.parametrize("product", [with_jvp, with_vjp])
def test_a_function_with_its_own_derivative_is_evaluated_without_the_matrix(product):
    assert_equal_and_thin(lambda w: product(normal(20), w), 0.1 * normal(20, 30), 1, 2)


def test_forward_gradients_use_a_functions_own_rule():
    w, x = low_rank(0.1 * normal(20, 30), 1, 2), normal(20)
    slope = lambda evaluate: jax.jvp(lambda x: evaluate(lambda w, x: with_jvp(x, w), w, x), (x,), (x,))  # noqa: E731
    assert_close(slope(apply_perturbed), slope(materialised))


def test_results_keep_their_structure_and_theta_may_have_no_perturbation():
    f = lambda theta, n: {"n": n + 1, "none": None, "w": (theta["w"], theta["b"])}  # noqa: E731
    theta = {"w": low_rank(normal(4, 5)), "b": normal(3)}
    assert_close(apply_perturbed(f, theta, jnp.int32(2)), f(dense(theta), jnp.int32(2)))
    assert_close(apply_perturbed(f, dense(theta), jnp.int32(2)), f(dense(theta), jnp.int32(2)))


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        ((4, 2), (5, 3), r"theta\['w'\].*of the same rank"),
        ((4,), (5, 2), "left must be"),
        ((5, 2), (4, 2), r"weight must be \[\*rows, \*columns\] = \(5, 4\)"),
    ],
)
def test_parts_that_do_not_fit_are_refused(left, right, message):
    with pytest.raises(ValueError, match=message):
        apply_perturbed(lambda theta: theta["w"], {"w": LowRank(normal(4, 5), normal(*left), normal(*right))})


def test_parts_of_different_types_are_refused():
    w = LowRank(normal(4, 5), normal(4, 2).astype(jnp.bfloat16), normal(5, 2))
    with pytest.raises(ValueError, match="one dtype, got float32, bfloat16, float32"):
        apply_perturbed(lambda w: w, w)
