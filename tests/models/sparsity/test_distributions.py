import math

import pytest

from metalearn_models.sparsity import erdos_renyi, erk, uniform
from metalearn_models.sparsity.distributions import count_connections

LENET = {"a": (784, 300), "b": (300, 100), "c": (100, 10)}


@pytest.mark.parametrize(
    ("sparsity", "published"),
    [(0.5, (0.434099, 1, 1)), (0.9, (0.079568, 0.230189, 1)), (0.98, (0.015394, 0.044534, 0.367403))],
)
def test_erk_of_lenet_300_100_is_the_published_one(sparsity, published):
    found = erk(LENET, sparsity)
    assert tuple(found.values()) == pytest.approx(published, abs=5e-7)
    total = sum(math.prod(LENET[k]) * d for k, d in found.items())
    assert total == pytest.approx((1 - sparsity) * 266_200)


def test_erdos_renyi_reads_channels_only_and_erk_the_filter_too():
    """Densities relative to each other, by hand: (16 + 32) / 512 and (3 + 3 + 16 + 32) / 4,608."""
    shapes = {"conv": (3, 3, 16, 32), "dense": (512, 64)}
    channels, kernel = erdos_renyi(shapes, 0.95), erk(shapes, 0.95)
    assert channels["conv"] / channels["dense"] == pytest.approx((48 / 512) / (576 / 32_768))
    assert kernel["conv"] / kernel["dense"] == pytest.approx((54 / 4_608) / (576 / 32_768))
    assert erdos_renyi({"dense": (50, 20), "other": (30, 30)}, 0.8) == erk({"dense": (50, 20), "other": (30, 30)}, 0.8)
    assert uniform(shapes, 0.75) == {"conv": 0.25, "dense": 0.25}


def test_what_leaves_nothing_is_refused():
    for sparsity in (1.0, -0.1, math.nan):
        for distribution in (uniform, erdos_renyi, erk):
            with pytest.raises(ValueError, match=rf"in \[0, 1\), got {sparsity}"):
                distribution(LENET, sparsity)
    with pytest.raises(
        ValueError, match=r"leaves the layer c of shape \(100, 10\) without connections.*at least 0.001"
    ):
        count_connections(LENET, uniform(LENET, 0.9999))
    with pytest.raises(ValueError, match=r"no density for the layer c: it names \['a', 'b'\]"):
        count_connections(LENET, {"a": 0.5, "b": 0.5})
    with pytest.raises(ValueError, match=r"density of the layer a must be in \(0, 1\], got 1.5"):
        count_connections(LENET, {"a": 1.5, "b": 0.5, "c": 0.5})
    with pytest.raises(ValueError, match=r"layer e of shape \(0, 3\) has no weights: leave it out with which="):
        count_connections({"e": (0, 3)}, {"e": 0.5})
