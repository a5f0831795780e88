"""SOAP against the published algorithm in NumPy, with matrices in place of tensors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn_models.optimizers.curvature.soap import scale_by_soap, soap

STEPS = 13


class Reference:
    """One tensor: the algorithm of the paper with each axis unfolded, and the first step of the authors' code."""

    def __init__(self, shape, b1, b2, eps, frequency, max_size):
        self.m, self.v, self.t = np.zeros(shape), np.zeros(shape), 0
        self.b1, self.b2, self.eps, self.frequency = b1, b2, eps, frequency
        self.axes = [i for i, n in enumerate(shape) if len(shape) > 1 and n <= max_size]
        self.p = {i: np.zeros((shape[i],) * 2) for i in self.axes}
        self.q = {}

    def turn(self, x, transposed):
        for i in self.axes:
            rows = np.moveaxis(x, i, 0).reshape(x.shape[i], -1)
            q = self.q[i].T if transposed else self.q[i]
            x = np.moveaxis((q @ rows).reshape(x.shape[i], *np.delete(x.shape, i)), 0, i)
        return x

    def step(self, g):
        outers = {i: np.moveaxis(g, i, 0).reshape(g.shape[i], -1) for i in self.axes}
        u = np.zeros_like(g)
        if self.t:
            self.m = self.b1 * self.m + (1 - self.b1) * g
            self.v = self.b2 * self.v + (1 - self.b2) * self.turn(g, True) ** 2
            m, v = self.turn(self.m, True) / (1 - self.b1**self.t), self.v / (1 - self.b2**self.t)
            u = self.turn(m / (np.sqrt(v) + self.eps), False)
        for i in self.axes:
            self.p[i] = self.b2 * self.p[i] + (1 - self.b2) * outers[i] @ outers[i].T
            if self.t == 0:
                self.q[i] = np.linalg.eigh(self.p[i])[1][:, ::-1]
            elif self.t % self.frequency == 0:
                product = self.p[i] @ self.q[i]
                order = np.argsort(-np.diag(self.q[i].T @ product))
                self.q[i], self.v = np.linalg.qr(product[:, order])[0], np.take(self.v, order, i)
        self.t += 1
        return u


def run(tx, gradients):
    """Updates of all steps, and the last state."""

    @jax.jit
    def training(gradients):
        def step(state, g):
            updates, state = tx.update(g, state)
            return state, updates

        state, updates = jax.lax.scan(step, tx.init(jax.tree.map(lambda g: g[0], gradients)), gradients)
        return updates, state

    return training(gradients)


SHAPES = {"matrix": (4, 4), "kernel": (2, 3, 4), "long": (3, 7), "vector": (5,), "scalar": ()}
"""No first gradient leaves a factor singular, whose eigenvectors would be arbitrary; `long` has an axis without one."""


def draw(steps=STEPS, seed=0):
    rng = np.random.default_rng(seed)
    scale = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    return {name: rng.normal(size=(steps, *shape)) * scale[name] + 0.3 for name, shape in SHAPES.items()}


def test_updates_are_those_of_the_published_algorithm():
    gradients, settings = draw(), (0.9, 0.8, 1e-3, 3, 6)
    expected = {}
    for name, shape in SHAPES.items():
        reference = Reference(shape, *settings)
        expected[name] = np.stack([reference.step(np.asarray(g)) for g in gradients[name]])
    with jax.enable_x64(True):
        found, state = run(scale_by_soap(*settings), jax.tree.map(jnp.asarray, gradients))
        for name in SHAPES:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, atol=1e-10, err_msg=name)
    assert [x if x is None else x.shape for x in state.factors["long"]] == [(3, 3), None]
    assert state.factors["vector"] == (None,)
    q = np.asarray(state.bases["matrix"][0])
    np.testing.assert_allclose(q.T @ q, np.eye(4), atol=1e-12)


def test_without_bases_the_rule_is_adam_after_its_first_gradient():
    g = np.random.default_rng(1).normal(size=(6, 3, 2)).astype(np.float32)
    found, _ = run(scale_by_soap(0.9, 0.8, 1e-8, max_size=1), jnp.asarray(g))
    m, v = np.zeros((3, 2)), np.zeros((3, 2))
    assert not found[0].any()
    for t in range(1, 6):
        m, v = 0.9 * m + 0.1 * g[t], 0.8 * v + 0.2 * g[t] ** 2
        np.testing.assert_allclose(found[t], m / (1 - 0.9**t) / np.sqrt(v / (1 - 0.8**t)), rtol=1e-4)


def test_directions_and_rows_without_any_gradient_do_not_move():
    """Gradients of rank one, in float32: Adam would divide rounding errors by each other."""
    rng = np.random.default_rng(2)
    left, right = rng.normal(size=8), rng.normal(size=8)
    left[::2] = 0
    gradients = jnp.float32(np.outer(left, right)[None] * rng.normal(size=(30, 1, 1)))
    found, _ = run(scale_by_soap(frequency=2), gradients)
    assert not found[:, ::2].any()
    moved = np.asarray(found, np.float64).sum(0)
    along = left @ moved @ right / (left @ left) / (right @ right) * np.outer(left, right)
    assert np.abs(moved - along).max() < 0.1 * np.abs(along).max()


def test_a_gradient_that_is_not_finite_leaves_no_trace():
    drawn = draw(8)
    gradients = {name: np.float32(drawn[name]) for name in ("matrix", "vector")}
    spoilt = jax.tree.map(lambda g: np.concatenate([g[:3], np.copy(g[:1]), g[3:7]]), gradients)
    spoilt["vector"][3, 1] = np.nan
    both = jax.tree.map(lambda *g: np.stack(g), gradients, spoilt)
    updates, _ = jax.lax.map(lambda g: run(scale_by_soap(frequency=2), g), both)
    for clean, found in jax.tree.leaves(updates):
        assert not found[3].any()
        np.testing.assert_array_equal(np.delete(found, 3, 0), clean[:7])


def test_parameters_may_be_a_tuple():
    """As each parameter's factors are."""
    gradients = tuple(jnp.ones((6, *shape), jnp.bfloat16) for shape in ((3, 3), (4,), (2, 2)))
    updates, _ = jax.eval_shape(lambda g: run(scale_by_soap(frequency=2), g), gradients)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), updates) == jax.tree.map(lambda x: (x.shape, x.dtype), gradients)


def test_settings_out_of_range_are_refused():
    for settings, text in (
        ({"b1": 1.0}, r"b1 must be in \[0, 1\), got 1.0"),
        ({"b2": -0.1}, r"b2 must be in \[0, 1\), got -0.1"),
        ({"frequency": 0}, "frequency must be at least 1, got 0"),
        ({"max_size": 0}, "max_size must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=text):
            soap(**settings)
