"""Codes of aligned networks: the same function comes back, whatever the order and the scale of the units were."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from metalearn_models.networks import mlp
from metalearn_models.optimizers.gpt import hidden_unit_tokens
from metalearn_models.optimizers.gpt.codes import align_runs, code_tokens, fit_codec

NETWORK = mlp(2, (4,), 3)
UNITS = hidden_unit_tokens(NETWORK.init(jax.random.key(0)))
RNG = np.random.default_rng(0)
BASE = RNG.normal(size=UNITS.size).astype(np.float32)


def disguise(flat, order, factor):
    """The same function, with units in another order and on another scale."""
    units, rest = (np.array(x) for x in UNITS.encode(jnp.asarray(flat)))
    units = np.concatenate([units[:, :3] * factor, units[:, 3:] / factor], 1)[order]
    return np.asarray(UNITS.decode((jnp.asarray(units), jnp.asarray(rest))))


def make_runs(count=12, steps=3):
    """Runs near one network, each in a disguise of its own."""
    made = []
    for _ in range(count):
        order, factor = RNG.permutation(4), RNG.uniform(0.5, 2, (4, 1)).astype(np.float32)
        path = BASE + 0.05 * RNG.normal(size=(steps, UNITS.size)).astype(np.float32)
        made.append([disguise(flat, order, factor) for flat in path])
    return np.array(made, np.float32)


RUNS = make_runs()


def outputs(flat):
    _, unflatten = ravel_pytree(NETWORK.init(jax.random.key(0)))
    return NETWORK.apply(unflatten(jnp.asarray(flat)), jnp.array([0.3, -1.2]))


def test_alignment_takes_the_disguises_off():
    codec, codes = fit_codec(UNITS, RUNS, outputs=3, components=UNITS.size)
    assert codes.shape == (12, 3, UNITS.size)
    aligned = codec.decode(codes)
    assert aligned.std((0, 1)).max() < 0.15 < RUNS.std((0, 1)).max()
    for run, step in ((0, 0), (5, 2), (11, 1)):
        np.testing.assert_allclose(outputs(aligned[run, step]), outputs(RUNS[run, step]), atol=1e-4)
    np.testing.assert_allclose(codec.components @ codec.components.T, np.eye(UNITS.size), atol=1e-5)
    # Networks whose run is unknown are aligned by themselves.
    np.testing.assert_allclose(align_runs(UNITS, codec, RUNS[:, -1], 3), aligned[:, -1], atol=1e-4)


def test_few_components_are_the_best_of_their_number():
    codec, codes = fit_codec(UNITS, RUNS, outputs=3, components=5)
    full, every = fit_codec(UNITS, RUNS, outputs=3, components=UNITS.size)
    flat = full.decode(every).reshape(-1, UNITS.size)
    values = np.linalg.svd(flat - flat.mean(0), compute_uv=False)
    left = np.square(codec.decode(codes).reshape(flat.shape) - flat).sum()
    assert left == pytest.approx(np.square(values[5:]).sum(), rel=1e-3)
    assert code_tokens(5).places[0].tolist() == [[0, 1, 2, 3, 4]]
    with pytest.raises(ValueError, match=r"components must be from 1 to 27, got 28"):
        fit_codec(UNITS, RUNS, outputs=3, components=28)
