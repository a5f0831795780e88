"""SRigL against NumPy: constant fan-in, removed units, and the budget of a layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn_models.sparsity import srigl
from metalearn_models.sparsity.rules.srigl import constant_fan_in
from tests.models.sparsity import cases


@pytest.fixture(scope="module")
def trained():
    return cases.run(srigl(end=14, every=3, alpha=0.7, salient=0.6))


def _by_loops(weight, grad, mask, count, budget, salient):
    """The masks after a change, and what grew, unit by unit."""
    on = sorted(np.flatnonzero(mask), key=lambda i: abs(weight.ravel()[i]))[count:]
    kept = np.isin(np.arange(mask.size), on).reshape(mask.shape)
    off = sorted(np.flatnonzero(~kept), key=lambda i: -abs(grad.ravel()[i]))[:count]
    useful = (kept | np.isin(np.arange(mask.size), off).reshape(mask.shape)).sum(0)
    stay = mask.any(0) & (useful >= np.float32(salient) * mask.sum(0).max())
    assert stay.any()
    fan_in, grown = min(budget // stay.sum(), len(mask)), np.zeros_like(mask)
    kept &= stay[None]
    for unit in np.flatnonzero(stay):
        free = sorted(np.flatnonzero(~kept[:, unit]), key=lambda i: -abs(grad[i, unit]))
        grown[free[: fan_in - kept[:, unit].sum()], unit] = True
    return kept | grown, grown


def test_a_change_is_that_of_loops_over_units_and_removes_some(trained):
    (_, start), (params, states, _) = trained
    for name in ("a", "b"):
        first = np.asarray(start.masks[name])
        assert len(set(first.sum(0))) == 1
        for t in (3, 6, 9):
            share = np.float32(0.7) * (1 + np.cos(np.float32(np.pi) * np.float32(t) / np.float32(14))) / 2
            weight, mask = (np.asarray(x[name][t - 1]) for x in (params, states.masks))
            count = int(share * mask.sum())
            new, grown = _by_loops(weight, np.asarray(cases.grads()[name][t]), mask, count, first.sum(), 0.6)
            np.testing.assert_array_equal(states.masks[name][t], new)
            np.testing.assert_array_equal(params[name][t], np.where(new & ~grown, weight, 0))
            assert len(set(new.sum(0)) - {0}) == 1 and new.sum() <= first.sum()
    last = np.asarray(states.masks["a"][-1])
    assert (~last.any(0)).any() and last.any(0).any()


def test_any_masks_get_a_constant_fan_in_and_keep_what_they_can():
    drawn = np.random.default_rng(0).random((6, 9)) < 0.4
    masks = {"a": jnp.asarray(drawn), "none": None, "full": jnp.zeros((2, 3), bool)}
    found = jax.jit(constant_fan_in)(masks)
    a, before = np.asarray(found["a"]), np.asarray(masks["a"])
    fan_in = before.sum() // 9
    assert (a.sum(0) == fan_in).all() and found["none"] is None
    assert ((a & before).sum(0) == np.minimum(before.sum(0), fan_in)).all()
    assert (np.asarray(found["full"]).sum(0) == 1).all()


def test_a_share_of_salient_weights_is_a_share():
    with pytest.raises(ValueError, match=r"share of a unit's connections, in \[0, 1\], got 1.5"):
        srigl(end=9, salient=1.5)
