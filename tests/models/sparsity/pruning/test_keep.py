"""What stays: exact numbers, ties, compression as ShrinkBench defines it, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn_models.sparsity import kernels
from metalearn_models.sparsity.pruning import keep_by_layer, keep_globally, magnitude, share_to_keep

MNIST_NET = {"conv1": (5, 5, 1, 20), "conv2": (5, 5, 20, 50), "fc1": (800, 500), "fc2": (500, 10)}


def scores_of(*sizes):
    rng = np.random.default_rng(0)
    leaves = {f"layer{i}": jnp.asarray(rng.normal(size=size), jnp.float32) for i, size in enumerate(sizes)}
    return {**leaves, "dense": None}


def kept(masks):
    return [int(mask.sum()) for mask in jax.tree.leaves(masks)]


@pytest.fixture(scope="module")
def mnist_net():
    return {name: {"weight": jnp.ones(s), "bias": jnp.ones(s[-1])} for name, s in MNIST_NET.items()}


def test_the_share_that_shrinkbench_keeps_of_its_mnist_net(mnist_net):
    """It prunes the biases of pruned layers, and leaves the classifier dense."""
    scores = magnitude(mnist_net, lambda path, shape: not path.startswith("fc2"))
    assert share_to_keep(mnist_net, scores, 2) == pytest.approx(0.49412, abs=5e-6)
    masks = keep_globally(scores, share_to_keep(mnist_net, scores, 2))  # all magnitudes are equal
    assert sum(kept(masks)) + 5_010 == 431_080 // 2


def test_biases_are_dense_by_default(mnist_net):
    assert [path for path, scores in magnitude(mnist_net, kernels)["fc1"].items() if scores is not None] == ["weight"]


@pytest.mark.parametrize("share", [0.9, 0.5, 0.11, 1.0])
def test_the_largest_stay_exactly_as_many_as_asked_for(share):
    scores = scores_of((7, 5), (4, 9, 2), (6,))
    masks = keep_globally(scores, share)
    flat = np.concatenate([np.ravel(s) for s in jax.tree.leaves(scores)])
    brute = flat >= np.sort(flat)[::-1][round(share * flat.size) - 1]
    assert (np.concatenate([np.ravel(m) for m in jax.tree.leaves(masks)]) == brute).all()
    assert masks["dense"] is None

    by_layer = keep_by_layer(scores, max(share, 0.2))
    assert sum(kept(by_layer)) == round(max(share, 0.2) * flat.size)
    for mask, score in zip(jax.tree.leaves(by_layer), jax.tree.leaves(scores), strict=True):
        assert abs(int(mask.sum()) - max(share, 0.2) * score.size) < 1
        assert (np.asarray(mask) == (score >= np.sort(np.ravel(score))[::-1][int(mask.sum()) - 1])).all()


def test_of_equal_scores_the_first_stay():
    masks = keep_globally({"a": jnp.ones(4), "b": jnp.ones(4)}, 0.75)
    assert kept(masks) == [4, 2]
    assert masks["b"].tolist() == [True, True, False, False]


def test_only_what_may_stay_stays():
    scores, among = {"a": jnp.arange(6.0)}, {"a": jnp.array([1, 1, 1, 1, 0, 0], bool)}
    for keep in (keep_globally, keep_by_layer):
        assert keep(scores, 0.5, among)["a"].tolist() == [False, True, True, True, False, False]
        with pytest.raises(ValueError, match=r"5 weights of .* are to stay, but `among` has only 4"):
            keep(scores, 0.84, among)


def test_many_networks_are_pruned_at_once():
    scores = jnp.asarray(np.random.default_rng(1).normal(size=(3, 5, 4)), jnp.float32)
    at_once = jax.jit(jax.vmap(lambda s: keep_globally({"w": s}, 0.3)["w"]))(scores)
    assert (at_once == jnp.stack([keep_globally({"w": s}, 0.3)["w"] for s in scores])).all()


def test_what_cannot_be_is_refused(mnist_net):
    scores = magnitude(mnist_net)
    with pytest.raises(ValueError, match=r"in \(0, 1\], got 0"):
        keep_globally(scores, 0)
    with pytest.raises(ValueError, match=r"in \(0, 1\], got nan"):
        keep_by_layer(scores, float("nan"))
    with pytest.raises(ValueError, match=r"at least 1, got 0\.5"):
        share_to_keep(mnist_net, scores, 0.5)
    with pytest.raises(ValueError, match=r"of 431,080 parameters, but 580 of them .* at most 741\.962"):
        share_to_keep(mnist_net, scores, 1000)
    assert share_to_keep(mnist_net, scores, 741.962) > 0
    with pytest.raises(ValueError, match="2 of 4 scores of a/b are NaN or infinite: no weight was pruned"):
        keep_globally({"a": {"b": jnp.array([1.0, jnp.nan, jnp.inf, 0.0])}}, 0.5)
    with pytest.raises(ValueError, match=r"empty has no weights, its shape is \(0, 3\): leave it dense"):
        keep_globally({"empty": jnp.ones((0, 3))}, 0.5)
    with pytest.raises(ValueError, match="there are no scores"):
        keep_globally({"a": None}, 0.5)
    with pytest.raises(ValueError, match=r"leave small without weights: keep a share of at least 0\.1,"):
        keep_by_layer({"large": jnp.ones(1000), "small": jnp.ones(10)}, 0.02)
    with pytest.raises(ValueError, match="needs a mask per leaf with scores"):
        keep_globally({"a": jnp.ones(3)}, 0.5, {"a": jnp.ones(4, bool)})


def test_a_share_that_keeps_no_weight_is_refused():
    scores = {"kernel": jnp.arange(10.0)}
    with pytest.raises(ValueError, match=r"a share of 0.04 would keep none of 10 weights: keep at least 0\.1"):
        keep_globally(scores, 0.04)
    assert kept(keep_globally(scores, 0.06)) == [1]
