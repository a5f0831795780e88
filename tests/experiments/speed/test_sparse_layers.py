"""The timing of sparse layers: every system computes the same, the claims follow from the rows, and a toy run ends."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.speed import sparse_layers
from experiments.speed._sparse_products import make_products, time_in_turn
from experiments.speed.sparse_layers import SparseLayersConfig


@pytest.fixture(scope="module")
def products():
    return {product.name: product for product in make_products(24, 0.125, 8, 8)}


def test_every_system_computes_the_same_layer(products):
    y, _, d_x = (np.asarray(a) for a in products["dense"].compute())
    masked, ell, first = (
        products[name].compute() for name in ("dense times mask", "ELL, features first", "ELL, batch first")
    )
    for got, right in ((masked, (y, None, d_x)), (first, (y, None, d_x)), (ell, (y.T, None, d_x.T))):
        np.testing.assert_allclose(got[0], right[0], atol=1e-5)
        np.testing.assert_allclose(got[2], right[2], atol=1e-5)
    np.testing.assert_allclose(jnp.sort(masked[1][masked[1] != 0]), np.sort(ell[1].ravel()), atol=1e-5)
    for name in ("jax.experimental.sparse BCOO", "scipy.sparse CSR (one core)"):
        other = products[name].compute()
        np.testing.assert_allclose(other[0], y.T, atol=1e-5)
        np.testing.assert_allclose(other[2], d_x.T, atol=1e-5)
        np.testing.assert_allclose(np.sort(np.asarray(other[1])), np.sort(ell[1].ravel()), atol=1e-5)
    assert products["dense"].stored == 4 * 24 * 24 and products["ELL, features first"].connections == 72


def test_a_slow_system_takes_fewer_turns(products):
    chosen = [products["dense"], products["scipy.sparse CSR (one core)"]]
    assert {len(turns) for turns in time_in_turn(chosen, 3, 60.0).values()} == {3}
    assert {len(turns) for turns in time_in_turn(chosen, 3, 0.0).values()} == {0}


def rows(ell_small, slope):
    def row(width, density, system, milliseconds):
        connections = int(width * width * density)
        return {
            "width": width,
            "density": density,
            "system": system,
            "milliseconds": milliseconds,
            "connections": connections,
        }

    cells = [(1000, 0.05, ell_small), *((4000, d, 10 * (100 * d) ** slope) for d in (0.01, 0.02, 0.04, 0.08))]
    return [
        row(width, density, system, value)
        for width, density, ell in cells
        for system, value in (("dense", 40.0), ("dense times mask", 50.0), ("ELL, features first", ell))
    ]


def test_claims_hold_only_against_both_controls():
    good = sparse_layers.summarise(rows(20.0, 1.0))
    assert good["verdict"] == "reached" and good["slope"] == pytest.approx(1.0)
    assert good["ratios"]["width 4000, density 0.01"]["found"] == {"dense": 4.0, "dense times mask": 5.0}
    assert sparse_layers.summarise(rows(21.0, 1.0))["verdict"] == "not reached"
    assert sparse_layers.summarise(rows(20.0, 1.3))["verdict"] == "not reached"
    assert sparse_layers.summarise(rows(20.0, 1.0)[:3])["verdict"] == "open"


def test_a_toy_run_draws_and_prints(tmp_path):
    config = SparseLayersConfig(cells=((24, 0.125),), batch=8, block=8, turns=1, patience=1.0, out=tmp_path)
    text = sparse_layers.format_result(sparse_layers.run(config))
    assert "verdict: open" in text and (tmp_path / "sparse_layers.png").exists()
    with pytest.raises(ValueError, match=r"a density in \(0, 1\], got 25, 0.1"):
        sparse_layers.run(SparseLayersConfig(cells=((25, 0.1),), block=8, out=tmp_path))
