"""A small network and its batches, for tests against dense solves."""

import jax.numpy as jnp
import numpy as np


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def make_params(seed=0):
    """Kernels of two dense layers and their biases."""
    shapes = {"first": (4, 3), "second": (3, 2)}
    return {k: {"kernel": draw(*s, seed=seed), "bias": draw(s[1], seed=seed + 1)} for k, s in shapes.items()}


def apply(params, x):
    x = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"][None])
    return x @ params["second"]["kernel"] + params["second"]["bias"][None]


def loss_fn(params, x, y):
    return jnp.square(apply(params, x) - y).sum(-1).mean() / 2


def make_batch(examples=5, seed=0):
    return draw(examples, 4, seed=seed), draw(examples, 2, seed=seed + 100)
