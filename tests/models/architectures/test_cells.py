"""Every cell against the formula of its nodes in NumPy, and training alone against training among others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn.search.random_search import random_search
from metalearn_models.architectures import (
    Candidate,
    Examples,
    SearchData,
    classification_search,
    feedforward_cell,
    recurrent_cell,
)

KEY = jax.random.key(0)
FORMULAS = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0), "identity": lambda x: x}


def test_every_feedforward_cell_is_its_formula():
    net = feedforward_cell(5, 3, nodes=3, width=4)
    rng, codes = np.random.default_rng(0), net.space.enumerate()
    biases, x = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((3, 4), (2, 5)))
    params = jax.jit(net.init)(KEY)._replace(biases=biases, bias=jnp.arange(3.0))
    found = jax.jit(jax.vmap(net.apply, (0, None, None)))(codes, params, x)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    for code, logits in zip(codes, np.asarray(found), strict=True):
        cell, hidden = net.space.describe(code), {"stem": np.asarray(x) @ p.stem}
        names = ["stem", "node 1", "node 2", "node 3"]
        for j in range(3):
            source = str(cell[f"node {j + 1} input"])
            value = hidden[source] @ p.edges[j, names.index(source)] + p.biases[j]
            hidden[f"node {j + 1}"] = FORMULAS[str(cell[f"node {j + 1} operation"])](value)
        mean = np.mean([hidden[name] for name in names[1:]], 0)
        np.testing.assert_allclose(logits, mean @ p.head + p.bias, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def problem():
    net = feedforward_cell(5, 3, nodes=2, width=4)
    x = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    examples = Examples(jnp.asarray(x), jnp.asarray(x[:, :3].argmax(-1), jnp.int32))
    return net, SearchData(examples, examples)


def test_alone_or_among_others_a_cell_learns_the_same(problem):
    net, data = problem
    search = classification_search(net, batch=8, clip=1.0)
    codes = jnp.asarray(net.space.enumerate())
    thetas = Candidate(codes, jnp.full(len(codes), 0.3))
    together = random_search(search, thetas, data, KEY, (20,))
    alone = random_search(
        search, jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[3:5]), thetas), data, KEY, (20,), chunk=1
    )
    np.testing.assert_allclose(np.asarray(alone.scores), np.asarray(together.scores)[:, 3:5], atol=0.04)
    for few, many in zip(jax.tree.leaves(alone.states), jax.tree.leaves(together.states), strict=True):
        np.testing.assert_allclose(few, many[3:5], rtol=1e-3, atol=1e-4)
    assert float(together.scores.min()) < 0.5


def test_a_step_moves_only_the_weights_that_the_architecture_reads(problem):
    net, data = problem
    search = classification_search(net, batch=8)
    before = jax.jit(net.init)(KEY)
    step = jax.jit(search.loop.step)
    code = net.space.read(dict.fromkeys(["node 1 input", "node 2 input"], "stem")
                          | dict.fromkeys(["node 1 operation", "node 2 operation"], "tanh"))  # fmt: skip
    theta = Candidate(jnp.asarray(code), jnp.float32(0.3))
    after, _, _ = step(theta, before, jnp.int32(0), KEY, data)
    moved = np.asarray(before.edges != after.edges).any((2, 3))
    np.testing.assert_array_equal(moved, [[True, False], [True, False]])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_recurrent_cells_are_their_formulas():
    net = recurrent_cell(6, nodes=3, width=4)
    params, x = jax.jit(net.init)(KEY), jnp.asarray(np.random.default_rng(0).integers(0, 6, (2, 5)), jnp.int32)
    codes = net.space.draw(jax.random.key(2), 12)
    found = jax.jit(jax.vmap(net.apply, (0, None, None)))(codes, params, x)
    p, formulas = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params), {**FORMULAS, "sigmoid": sigmoid}
    for code, logits in zip(codes, np.asarray(found), strict=True):
        cell, h = net.space.describe(code), np.zeros((2, 4))
        for t in range(5):
            both = np.concatenate([p.embedding[np.asarray(x)[:, t]], h], 1) @ p.stem
            states = {"stem": h + sigmoid(both[:, :4]) * (np.tanh(both[:, 4:]) - h)}
            for j in range(3):
                before = states[str(cell[f"node {j + 1} input"])]
                both = before @ p.nodes[j]
                value = formulas[str(cell[f"node {j + 1} operation"])](both[:, 4:])
                states[f"node {j + 1}"] = before + sigmoid(both[:, :4]) * (value - before)
            h = np.mean([states[f"node {j + 1}"] for j in range(3)], 0)
            np.testing.assert_allclose(logits[:, t], h @ p.head + p.bias, rtol=1e-4, atol=1e-5)
