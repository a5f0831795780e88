"""What tests of generators share: a training that costs nothing, where another test trains the same generator."""

import jax
import numpy as np
import pytest

from experiments.gpt._training import Fitted, count_weights, fit


@pytest.fixture(scope="module")
def fit_only():
    """`(methods) -> fit` that trains generators of these methods; the others stay as they begin, the identity."""

    def fit_only(*methods):
        def fit_some(generator, params, losses, fitting, seed, kept=None, progress=None):
            if generator.config.method in methods:
                return fit(generator, params, losses, fitting, seed, kept, progress)
            assert params.shape == (*losses.shape, generator.tokeniser.size) and fitting.steps > 0
            theta = jax.eval_shape(generator.init, jax.random.key(seed))
            theta = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), theta)
            return Fitted(theta, None, 0.0, 1.0, count_weights(theta))

        return fit_some

    return fit_only
