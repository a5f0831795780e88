"""Scores against NumPy and against each other; lottery tickets against what they start from."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn_models.networks import mlp
from metalearn_models.sparsity import apply_masks, sparse_with_masks, static
from metalearn_models.sparsity.pruning import (
    activation,
    find_ticket,
    gradient_magnitude,
    keep_by_layer,
    keep_globally,
    magnitude,
    random,
    snip,
)

NETWORK = mlp(4, (6,), 3)
X = jax.random.normal(jax.random.key(1), (10, 4))
Y = jnp.arange(10) % 3


def loss(params):
    logits = jax.vmap(NETWORK.apply, (None, 0))(params, X)
    return optax.softmax_cross_entropy_with_integer_labels(logits, Y).mean()


@pytest.fixture(scope="module")
def params():
    return NETWORK.init(jax.random.key(0))


def test_magnitudes_are_those_of_the_kernels(params):
    scores = magnitude(params)
    assert [s["bias"] for s in scores] == [None, None]
    for layer, score in zip(params, scores, strict=True):
        assert (score["weight"] == np.abs(layer["weight"])).all()


def test_random_scores_differ_between_layers_and_keys():
    square = {"a": jnp.ones((4, 4)), "b": jnp.ones((4, 4))}
    one, two = random(jax.random.key(0), square), random(jax.random.key(1), square)
    assert (one["a"] != one["b"]).all()
    assert (one["a"] != two["a"]).all()
    assert ((one["a"] >= 0) & (one["a"] < 1)).all()


def test_gradient_magnitude_is_the_first_order_change_of_the_loss(params):
    scores = gradient_magnitude(loss, params)
    step = 1e-2
    for layer, row, column in ((0, 1, 2), (1, 3, 0)):
        w = params[layer]["weight"]

        @jax.jit
        def at(value, layer=layer, row=row, column=column, w=w):
            new = list(params)
            new[layer] = {**params[layer], "weight": w.at[row, column].set(value)}
            return loss(tuple(new))

        slope = (at(w[row, column] + step) - at(w[row, column] - step)) / (2 * step)
        want = float(abs(slope * w[row, column]))
        assert float(scores[layer]["weight"][row, column]) == pytest.approx(want, rel=2e-3, abs=1e-6)


def test_snip_is_gradient_times_magnitude_over_its_sum(params):
    scores, plain = snip(loss, params), gradient_magnitude(loss, params)
    total = sum(leaf.sum() for leaf in jax.tree.leaves(plain))
    for one, two in zip(jax.tree.leaves(scores), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, two / total, rtol=1e-5)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(snip(lambda p: 0.0 * p[0]["weight"].sum(), params)))


def test_activation_scores_are_magnitudes_times_the_size_of_inputs(params):
    scores = activation(jax.vmap(NETWORK.apply, (None, 0)), params, X)
    hidden = np.maximum(np.asarray(X) @ np.asarray(params[0]["weight"]), 0)
    for score, layer, inputs in zip(scores, params, (np.asarray(X), hidden), strict=True):
        want = np.abs(layer["weight"]) * np.sqrt((inputs**2).mean(0))[:, None]
        np.testing.assert_allclose(score["weight"], want, rtol=1e-5)
        assert score["bias"] is None
    with pytest.raises(ValueError, match="0/weight is not the kernel of exactly one product"):
        activation(lambda p, x: (x @ p[0]["weight"]) @ p[0]["weight"].T, params, X)


def test_activation_scores_of_a_convolution_are_those_of_its_patches():
    kernel = jax.random.normal(jax.random.key(2), (2, 2, 3, 4))
    images = jax.random.normal(jax.random.key(3), (5, 3, 3, 3))

    def apply(p, x):
        return jax.lax.conv_general_dilated(x, p["k"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    score = activation(apply, {"k": kernel}, images)["k"]
    for i, j in itertools.product(range(2), range(2)):
        size = np.sqrt((np.asarray(images)[:, i : i + 2, j : j + 2] ** 2).mean((0, 1, 2)))
        np.testing.assert_allclose(score[i, j], np.abs(kernel[i, j]) * size[:, None], rtol=1e-5)


@pytest.mark.parametrize("keep", [keep_globally, keep_by_layer])
def test_a_ticket_has_the_first_values_and_the_masks_of_what_was_trained(params, keep):
    seen = []

    def train(start, masks):
        """Reverse the order of magnitudes, so that first and trained weights would be pruned differently."""
        seen.append(sum(int(mask.sum()) for mask in jax.tree.leaves(masks)))
        for layer, mask in zip(start, masks, strict=True):
            assert (layer["weight"][~mask["weight"]] == 0).all()
        return apply_masks(jax.tree.map(lambda p: 1 / (0.01 + jnp.abs(p)), start), masks)

    ticket = find_ticket(train, params, 51 / 15, rounds=2, keep=keep)  # 9 biases and 6 of 42 weights
    assert seen == [42, round(42 * (6 / 42) ** 0.5)]
    assert sum(int(mask.sum()) for mask in jax.tree.leaves(ticket.masks)) == 6
    for first, layer, mask in zip(params, ticket.params, ticket.masks, strict=True):
        assert (layer["weight"] == np.where(mask["weight"], first["weight"], 0)).all()
        assert (layer["bias"] == first["bias"]).all()
        assert mask["bias"] is None
    if keep is keep_globally:
        flat, masks = (np.concatenate([np.ravel(t[i]["weight"]) for i in (0, 1)]) for t in (params, ticket.masks))
        assert set(np.flatnonzero(masks)) == set(np.argsort(np.abs(flat))[:6])
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        find_ticket(train, params, 2, rounds=0)


def test_fine_tuning_in_the_ordinary_loop_keeps_zeros_and_lowers_the_loss(params):
    masks = keep_globally(magnitude(params), 0.5)
    optimizer = sparse_with_masks(optax.adam(3e-2), static(), masks)

    @jax.jit
    def tune(params):
        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), length=50)[0][0]

    start = apply_masks(params, masks)
    tuned = tune(start)
    for layer, mask in zip(tuned, masks, strict=True):
        assert ((layer["weight"] == 0) == ~mask["weight"]).all()
    assert loss(tuned) < 0.8 * loss(start)
