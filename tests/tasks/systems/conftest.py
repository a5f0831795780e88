"""Closed forms are compared in float64, whole trajectories in one compiled program."""

import jax
import pytest

from metalearn.inner import unroll


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def trajectory():
    """A function that gives the losses of one trajectory."""

    def losses(loop, theta, data=(), length=None):
        steps, keys = loop.length if length is None else length, jax.random.key(0)[None]
        return jax.jit(lambda theta: unroll(loop, theta, data, keys, steps)[0][0])(theta)

    return losses
