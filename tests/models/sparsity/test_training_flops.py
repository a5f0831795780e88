import numpy as np
import pytest

from metalearn_models.sparsity import erk, uniform
from metalearn_models.sparsity.training_flops import (
    dense_training,
    forward_flops,
    gradual_pruning_training,
    pruned_share,
    rigl_training,
    snfs_training,
    static_training,
)

LENET = {"a": (784, 300), "b": (300, 100), "c": (100, 10)}


@pytest.mark.parametrize(("sparsity", "expected"), [(0.8, 0.202640), (0.9, 0.102970), (0.98, 0.023234)])
def test_rigl_costs_what_the_paper_says(sparsity, expected):
    dense, sparse = forward_flops(LENET), forward_flops(LENET, erk(LENET, sparsity))
    assert dense == 2 * 266_200
    assert rigl_training(dense, sparse, 100) / dense_training(dense) == pytest.approx(expected, abs=5e-7)
    assert static_training(sparse) / dense_training(dense) == pytest.approx(1 - sparsity)
    assert snfs_training(dense, sparse) == pytest.approx(2 * sparse + dense)
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        rigl_training(dense, sparse, 0)


def test_convolutions_count_every_place_of_their_output():
    shapes = {"conv": (3, 3, 1, 8), "dense": (8, 10)}
    assert forward_flops(shapes, uniform(shapes, 0.5), {"conv": 14 * 14}) == 0.5 * 2 * (72 * 196 + 80)


def test_pruning_costs_the_mean_over_its_steps():
    """From dense to half, changed at steps 0, 2 and 4 of 6: shares (1 - t / 4)^3 are left after each."""
    left = pruned_share(6, end=4, every=2)
    np.testing.assert_allclose(left, [1, 1, 1, 1 / 8, 1 / 8, 0])
    assert gradual_pruning_training(lambda share: 10 * (0.5 + 0.5 * share), left) == pytest.approx(
        3 * (3 + 3.25 / 2) * 10 / 6
    )
