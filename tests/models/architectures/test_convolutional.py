"""Convolutional cells against the formulas of their operations in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from metalearn_models.architectures import convolutional_cell

KEY = jax.random.key(0)


def test_convolutional_cells_are_sums_of_two_operations():
    """Cells of one node whose operations have a plain formula, and all operations finite with a gradient."""
    net = convolutional_cell(3, nodes=1, channels=2, stride=2)
    params, x = jax.jit(lambda key: (net.init(key), jax.random.normal(key, (2, 8, 8))))(KEY)
    plain = ("zero", "identity", "max pool 3", "mean pool 3", "separable 3")
    codes = [net.space.read({"node 1 inputs": "stem 1 + stem 2", "node 1 operation 1": name,
                             "node 1 operation 2": "zero"}) for name in plain]  # fmt: skip
    every_operation = [[0, i, (i + 1) % 8] for i in range(8)]

    def total(params, code):
        logits = net.apply(code, params, x)
        return logits.sum(), logits

    program = jax.jit(jax.vmap(jax.grad(total, has_aux=True), (None, 0)))
    every, logits = program(params, jnp.asarray(np.concatenate([every_operation, codes]), jnp.int32))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(every))
    found = np.asarray(logits)[8:]
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def normal(value):
        value = value - value.mean(-1, keepdims=True)
        return value / np.sqrt((value**2).mean(-1, keepdims=True) + 1e-5)

    def windows(values, side, stride=1, fill=0.0):
        size = values.shape[1]
        out = -(-size // stride)
        total = max((out - 1) * stride + side - size, 0)
        pad = [(0, 0), (total // 2, total - total // 2), (total // 2, total - total // 2), (0, 0)]
        full = np.pad(values, pad, constant_values=fill)
        view = np.lib.stride_tricks.sliding_window_view(full, (side, side), (1, 2))
        return view[:, ::stride, ::stride]  # [B, R, R, C, side, side]

    stem = normal(np.einsum("nrsiuv,uvic->nrsc", windows(np.asarray(x, np.float64)[..., None], 5, 2), p.stems[0]))
    mixed = np.einsum("nrscuv,uvc->nrsc", windows(np.maximum(stem, 0), 3), p.depth[0, 0, 0, 1:4, 1:4])
    expected = {
        "zero": 0 * stem,
        "identity": stem,
        "max pool 3": windows(stem, 3, fill=-np.inf).max((-1, -2)),
        "mean pool 3": np.nanmean(windows(stem, 3, fill=np.nan), (-1, -2)),
        "separable 3": normal(mixed @ p.point[0, 0, 0]),
    }
    for name, logits in zip(plain, found, strict=True):
        np.testing.assert_allclose(logits, expected[name].mean((1, 2)) @ p.head + p.bias, rtol=2e-3, atol=2e-3)
