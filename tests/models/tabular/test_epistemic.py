"""The classifier's variance: the formula of `metalearn.epistemic_variance`, view by view."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn.epistemic_variance import update_variance
from metalearn.learner import Signature
from metalearn_models.learners.reference.neighbours import NearestCentroidConfig, nearest_centroid
from metalearn_models.tabular.epistemic import CHUNK, variance_of_views

SIGNATURE = Signature(2, 3, 8)


def test_the_variance_is_that_of_each_view_on_its_own_and_in_the_order_of_the_classes():
    rng = np.random.default_rng(0)
    labels = np.array([[2, 0], [1, 2], [0, 1]])  # two classes under names of three outputs, three views in use of four
    xs = rng.normal(size=(4, 5, 2)).astype(np.float32)
    ys = np.stack([labels[v % 3][rng.integers(0, 2, 5)] for v in range(4)]).astype(np.int32)
    used = np.stack([np.isin(np.arange(3), labels[v % 3]) for v in range(4)])
    group = SimpleNamespace(projection=np.stack([np.eye(2)] * 4), xs=xs, ys=ys, used=used)
    z = rng.normal(size=(CHUNK + 3, 2))
    config = NearestCentroidConfig()
    found = variance_of_views((SIGNATURE, config, ()), [group], labels, z)
    learner = nearest_centroid(SIGNATURE, config)

    @jax.jit
    def path(xs, ys, used, x):
        state = learner.start((), jax.random.key(0))
        rows = [learner.predict((), state, x)]
        for t in range(5):
            state = learner.observe((), state, xs[t], ys[t])
            rows.append(learner.predict((), state, x))
        return update_variance(jax.nn.softmax(jnp.where(used[None], jnp.stack(rows), -jnp.inf)))

    for row in (0, CHUNK + 2):
        each = [path(xs[v], ys[v], used[v], z[row].astype(np.float32))[labels[v]] for v in range(3)]
        np.testing.assert_allclose(found[row], np.mean(each, 0), rtol=1e-4, atol=1e-6)


def test_classes_that_share_an_output_have_no_variance_of_their_own():
    with pytest.raises(ValueError, match="there are 4 classes and the learner has 3 outputs"):
        variance_of_views((SIGNATURE, NearestCentroidConfig(), ()), [], np.zeros((1, 4), int), np.zeros((1, 2)))
