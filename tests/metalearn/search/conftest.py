"""Fixtures of searches."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.metalearn.search.parabola import make_parabola


@pytest.fixture(scope="session")
def parabola():
    return make_parabola()


@pytest.fixture(scope="session")
def rates():
    return jnp.asarray(np.geomspace(0.01, 1.5, 16), jnp.float32)
