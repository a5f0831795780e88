"""The mechanism: likeness of classifiers, readings of attention that is a known kernel, the summary of hand-made rows.

All by hand-made values; nothing is meta-trained.
"""

import json
import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score

from experiments.in_context.mechanism import agreement
from experiments.in_context.mechanism import experiment as mechanism
from experiments.in_context.mechanism.agreement import (
    CLASSICAL,
    SIMILARITIES,
    TEMPERATURES,
    TWO_KERNELS,
    compare_predictions,
    fit_setting,
    kappa,
    kernel_regression,
    kernel_weights,
    nearest_neighbours,
    similarity,
)
from experiments.in_context.mechanism.attention import TRIED, predictions_with, read_attention
from experiments.in_context.mechanism.experiment import PRESETS, Settings, summarise
from experiments.in_context.mechanism.probe import draw_episodes, pick_example, prepare_shared, probe
from experiments.in_context.settings import published_config, small_config
from metalearn.recipes.in_context.build import prepare
from metalearn.runs.json_values import as_json, finite_or_null
from metalearn_models.learners.attention_probe import attention_weights


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_have_a_cell_a_seed_and_one_seed_of_everything_first(preset):
    found, settings = mechanism.cells(PRESETS[preset]), PRESETS[preset]
    assert len(found) == len({tuple(c.items()) for c in found}) == len(settings.exponents) * settings.seeds
    assert [c["exponent"] for c in found[: len(settings.exponents)]] == list(settings.exponents)
    assert [c["seed"] for c in found] == sorted(c["seed"] for c in found)
    assert {c["seed"] for c in mechanism.cells(Settings(seeds=2, first_seed=7))} == {7, 8}


def test_configurations():
    found = mechanism.config(Settings(width=32, steps=900), {"exponent": 9, "seed": 5})
    assert found == small_config(5, 900, 32, 512) and found.family.num_tasks == 512 and found.learner.token == "pair"
    paper = mechanism.config(PRESETS["paper"], {"exponent": 13, "seed": 2})
    assert paper == published_config(2, 50_000, 256, 2**13) and paper.learner.token == "paper"


TRUTH = np.array([0, 1, 2, 3, 1, 2, 3, 0])
ONE = np.array([0, 1, 2, 3, 0, 1, 2, 3])  # right in the first four
OTHER = np.array([0, 1, 2, 0, 0, 3, 3, 3])  # right in the first three and the seventh


def test_likeness_by_hand():
    found = compare_predictions(ONE, OTHER, TRUTH, 5)
    assert found["agreement"] == pytest.approx(5 / 8)
    assert found["kappa"] == pytest.approx((5 / 8 - 1 / 4) / (3 / 4))  # each class is a quarter of ONE
    assert found["consistency"] == pytest.approx((6 / 8 - 1 / 2) / (1 / 2))  # both are right in half
    assert found["errors"] == pytest.approx((2 / 3 - 1 / 4) / (3 / 4))  # both wrong in three, alike in two of them
    assert compare_predictions(ONE, OTHER, TRUTH, 4)["errors"] == pytest.approx((2 / 3 - 1 / 3) / (2 / 3))
    assert compare_predictions(ONE.reshape(2, 4), OTHER.reshape(2, 4), TRUTH.reshape(2, 4), 5) == found


def test_likeness_at_its_ends():
    equal = compare_predictions(ONE, ONE, TRUTH, 5)
    assert equal == pytest.approx(dict.fromkeys(equal, 1.0))
    never = compare_predictions(ONE, (ONE + 1) % 5, TRUTH, 5)
    assert never["agreement"] == 0 and never["kappa"] < 0 and never["errors"] == pytest.approx(-1 / 3)
    right = compare_predictions(TRUTH, TRUTH, TRUTH, 5)
    assert math.isnan(right["errors"]) and math.isnan(right["consistency"]) and right["kappa"] == 1
    assert math.isnan(compare_predictions(ONE % 2, OTHER % 2, TRUTH % 2, 2)["errors"]), (
        "with two classes all errors are alike"
    )


def test_kappa_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(5):
        a = rng.integers(0, 4, 60)
        b, truth = (np.where(rng.random(60) < 0.4, a, rng.choice([0, 2, 3, 5], 60)) for _ in range(2))
        found = compare_predictions(a, b, truth, 6)
        assert kappa(a, b) == found["kappa"] == pytest.approx(cohen_kappa_score(a, b))
        assert found["consistency"] == pytest.approx(cohen_kappa_score(a == truth, b == truth))


def test_the_setting_that_is_most_alike():
    settings = {"a": np.array([0, 1, 0]), "b": np.array([0, 1, 1]), "c": np.array([1, 0, 1])}
    assert fit_setting(settings, np.array([0, 1, 1])) == "b"
    assert fit_setting(settings, np.array([1, 1, 1])) in ("b", "c")


RNG = np.random.default_rng(1)
XS, YS = RNG.normal(size=(3, 9, 4)), RNG.integers(0, 3, (3, 9))


def test_similarities():
    near = {kind: similarity(XS, kind) for kind in SIMILARITIES}
    distance = -((XS[:, :, None] - XS[:, None]) ** 2).sum(-1)
    off = ~np.eye(9, dtype=bool)
    assert near["distance"] == pytest.approx(distance / -distance[:, off].mean(), abs=1e-12)
    assert near["product"][1, 2, 5] == pytest.approx(XS[1, 2] @ XS[1, 5] / (XS**2).sum(-1).mean())
    norms = np.linalg.norm(XS[1], axis=-1)
    assert near["cosine"][1, 2, 5] == pytest.approx(XS[1, 2] @ XS[1, 5] / norms[2] / norms[5])


@pytest.mark.parametrize("kind", SIMILARITIES)
def test_kernel_weights_at_their_limits(kind):
    near = similarity(XS, kind)
    for temperature, best in ((1e-7, np.argmax), (-1e-7, np.argmin)):  # the nearest, the farthest alone
        weights = kernel_weights(near, temperature)
        for t in range(1, 9):
            assert weights[:, t] == pytest.approx(np.eye(9)[best(near[:, t, :t], -1)])
    equal = np.tril(np.ones((9, 9)), -1) / np.maximum(np.arange(9), 1)[:, None]
    for temperature in (1e9, math.inf):
        assert kernel_weights(near, temperature) == pytest.approx(np.broadcast_to(equal, (3, 9, 9)), abs=1e-7)
    some = kernel_weights(near, 0.37)
    assert not some[:, 0].any() and not np.triu(some).any() and some[:, 1:].sum(-1) == pytest.approx(np.ones((3, 8)))
    assert some[0, 2, 0] == pytest.approx(1 / (1 + np.exp((near[0, 2, 1] - near[0, 2, 0]) / 0.37)))


def test_a_kernel_without_width_is_the_nearest_neighbour():
    near = similarity(XS, "distance")
    nearest = np.stack([YS[np.arange(3), near[:, t, :t].argmax(-1)] for t in range(1, 9)], 1)
    for predicted in (kernel_regression(near, YS, 3, 1e-7), nearest_neighbours(near, YS, 3, 1)):
        assert (predicted[:, 1:] == nearest).all()


def test_a_vote_of_neighbours_by_hand():
    near = np.zeros((1, 6, 6))
    near[0, 5, :5] = [5, 4, 3, 2, 1]
    ys = np.array([[2, 1, 1, 0, 0, 0]])
    assert [int(nearest_neighbours(near, ys, 3, k)[0, 5]) for k in (1, 2, 3, 4, 5)] == [2, 2, 1, 1, 1]
    # of five, 1 and 0 have two votes each, and 1 has the nearer ones
    assert int(nearest_neighbours(near, ys[:, ::-1], 3, 5)[0, 5]) == 0


def attending(heads, first_token=0.2):
    """Attention [1, B, H, T, T] whose weights of examples are given ones, [B, T, T] for each head."""
    found = np.zeros((1, 3, len(heads), 9, 9))
    for head, weights in enumerate(heads):
        found[0, :, head, :, 0] = first_token
        found[0, :, head, :, 1:] = (1 - first_token) * weights[:, :, :-1]  # example s is in token s + 1
    return found


@pytest.mark.parametrize("kind", SIMILARITIES)
def test_attention_by_a_kernel_is_read_as_that_kernel(kind):
    near = similarity(XS, kind)
    # a colder product or distance rounds the least weights to 0, where ranks tie
    tried = [t for t in TRIED if abs(t) >= 0.05]
    read = read_attention(attending([kernel_weights(near, t) for t in tried]), XS, YS, 4)
    assert read.temperature[kind][0].tolist() == tried
    finite = np.isfinite(tried)
    assert read.explained[kind][0][finite] == pytest.approx(np.ones(finite.sum()))
    assert read.correlation[kind][0] == pytest.approx(np.where(finite, np.sign(tried), 0))
    assert read.on_examples == pytest.approx(np.full((1, len(tried)), 0.8))
    for other in set(SIMILARITIES) - {kind}:
        assert (read.explained[other][0][finite] < 1 - 1e-6).all()
    assert len(TRIED) == 2 * len(TEMPERATURES) + 1


def test_rank_correlation_is_that_of_scipy():
    weights = RNG.random((2, 3, 2, 9, 9))
    weights[0, :, 0] = np.round(weights[0, :, 0], 1) + 0.1  # with ties
    read = read_attention(weights, XS, YS, 3)
    for kind in SIMILARITIES:
        near = similarity(XS, kind)
        for layer in range(2):
            for head in range(2):
                expected = [
                    spearmanr(weights[layer, b, head, t, 1 : t + 1], near[b, t, :t])[0]
                    for b in range(3) for t in range(3, 9)
                ]  # fmt: skip
                assert read.correlation[kind][layer, head] == pytest.approx(np.mean(expected))


def test_weight_on_the_class_of_the_query_by_hand():
    weights, ys = np.zeros((1, 1, 1, 4, 4)), np.array([[0, 1, 0, 1]])
    weights[0, 0, 0, 2, :3] = [0.6, 0.3, 0.1]  # query of class 0; examples of classes 0, 1
    weights[0, 0, 0, 3, :4] = [0.2, 0.4, 0.2, 0.2]  # query of class 1; examples of classes 0, 1, 0
    read = read_attention(weights, XS[:1, :4], ys, 2)
    assert read.on_examples[0, 0] == pytest.approx((0.4 + 0.8) / 2)
    assert read.same_class[0, 0] == pytest.approx((0.75 + 0.25) / 2)
    assert read.chance == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_the_picture_has_weights_beside_the_similarity_of_the_same_examples():
    near = similarity(XS, "cosine")
    found = pick_example(attending([kernel_weights(near, 0.5)])[0, :, 0], XS, YS, "cosine")
    assert np.asarray(found["log_weight"]) == pytest.approx(np.asarray(found["similarity"]) / 0.5)
    assert found["same_class"] == (YS[:, :-1] == YS[:, -1:]).astype(int).ravel().tolist()


TINY = replace(
    small_config(0, 4, width=8),
    family=replace(small_config(0, 4).family, length=12, num_tasks=4),
    learner=replace(small_config(0, 4, width=8).learner, layers=2, heads=2),
)


def test_a_layer_that_attends_by_its_own_weights_predicts_what_the_transformer_does():
    recipe = prepare(TINY)
    theta = jax.tree.map(lambda x: 3 * x, jax.jit(recipe.learner.init)(jax.random.key(1)))  # far from equal weights
    xs, ys = map(jnp.asarray, draw_episodes(recipe, "unseen", 5))
    signature, model = recipe.family.signature, TINY.learner
    weights = np.asarray(jax.jit(partial(attention_weights, signature, model))(theta, xs, ys))
    assert weights.std() > 0.05
    logits = jax.jit(recipe.learner.run)(theta, xs, ys)
    equal = np.broadcast_to(kernel_weights(np.zeros((5, 12, 12)), 1.0)[:, None], (5, 2, 12, 12))
    for layer in (0, 1):
        rest = np.maximum(1 - weights[layer][..., :1], 1e-9)
        kernels = np.pad(weights[layer][..., 1:] / rest, ((0, 0), (0, 0), (0, 0), (0, 1)))
        change = jax.jit(partial(predictions_with, signature, model, theta, xs, ys, layer))
        own = change(jnp.asarray(kernels))
        assert np.asarray(own) == pytest.approx(np.asarray(logits), abs=1e-4)
        assert float(jnp.abs(change(jnp.asarray(equal)) - logits).max()) > 0.1


def test_a_transformer_is_probed_from_end_to_end(monkeypatch):
    for name in ("PENALTIES", "INVERSE_PENALTIES"):  # each is a program of its own
        monkeypatch.setattr(agreement, name, getattr(agreement, name)[:2])
    recipe = prepare(TINY)
    theta = jax.jit(recipe.learner.init)(jax.random.key(1))
    found = probe(recipe, theta, 6, True)
    (xs, ys), known = prepare_shared(TINY, 6)
    predicted = np.asarray(jax.jit(recipe.learner.run)(theta, xs, ys)).argmax(-1)
    test = (slice(6, None), slice(6, None))  # the second half of the sequences, and of the positions
    assert found["unseen_accuracy"] == pytest.approx((predicted == ys)[test].mean(), abs=1e-4)
    for name in ("1-NN", "ridge"):
        own = found["classical"][name]
        other = known[name][own["setting"]]
        assert own["agreement"] == pytest.approx((other == predicted)[test].mean(), abs=1e-4)
        assert own["accuracy"] == pytest.approx((other == ys)[test].mean(), abs=1e-4)
        chosen = max((s == predicted)[:6, 6:].mean() for s in known[name].values())  # on the first half
        assert (other == predicted)[:6, 6:].mean() == chosen
    assert found["mistakes"] == "".join(str(d) for d in ((predicted - ys) % 10)[6:, 6:].ravel())
    assert len(found["replaced"]) == 2 and found["matching"]["kind"] in SIMILARITIES
    heads = np.asarray(found["heads"]["correlation"])
    assert heads.shape == (2, 2) and found["matching"]["correlation"] == pytest.approx(heads.max(), abs=1e-4)
    assert len(found["example"]["similarity"]) == 3 * 11
    made = [{"exponent": 4, "seed": s, **found} for s in (0, 1)]
    assert summarise(Settings(), made)["between_seeds"][0] == pytest.approx(1), "wrong in the same way"


def row(exponent, seed, errors=(), mistakes="0123", same_class=0.5, **changes):
    """Errors are .3 alike for every classical learner that is not named."""
    likeness = {**dict.fromkeys((*CLASSICAL, TWO_KERNELS), 0.3), **dict(errors)}
    classical = {
        name: {"setting": f"setting {seed % 2}", "accuracy": 0.7, "agreement": 0.8, "kappa": 0.6, "consistency": 0.4,
               "errors": value, "kappa_by_seen": [0.5] * 5}
        for name, value in likeness.items()
    }  # fmt: skip
    matching = {"layer": 1, "head": 2, "kind": "cosine", "chance": 0.11, "same_class": same_class, "temperature": 0.17,
                "seen_same_class": 0.6, "seen_correlation": 0.5, "correlation": 0.4, "explained": 0.9}  # fmt: skip
    swapped = [{"kernels": {"accuracy": a, "agreement": a}, "equal": {"accuracy": 0.2, "agreement": 0.2}}
               for a in (0.6, 0.5)]  # fmt: skip
    picture = {"similarity": [-0.5, 0.5, 0.0], "log_weight": [-3.0, 3.0, 0.0], "same_class": [0, 1, 0]}
    made = {"exponent": exponent, "seed": seed, "unseen_accuracy": 0.7 if exponent > 9 else 0.1, "seen_accuracy": 0.8}
    made |= {"classical": classical, "matching": matching, "replaced": swapped, "mistakes": mistakes}
    return {**made, "example": None if seed else picture, **changes}


NEAREST = "kernel, cosine"


def hand_made():
    """Three seeds with 2^14 tasks, most like kernel regression by cosine; two with 2^5; with 2^8 one is missing."""
    many = [row(14, s, {NEAREST: e, "ridge": e - 0.15 - 0.05 * s}, m)
            for s, e, m in ((0, 0.6, "0123"), (1, 0.7, "0113"), (2, 0.8, "0193"))]  # fmt: skip
    return [*many, row(5, 0, same_class=0.1), row(5, 1, same_class=0.2), row(8, 0, same_class=0.3)]


def test_summary_of_hand_made_rows():
    found = summarise(Settings(), hand_made())
    assert found["verdict"] == "beyond" and found["nearest"] == NEAREST
    half = 4.302653 * 0.1 / 3**0.5  # Student's t with 2 degrees of freedom, standard deviation .1
    assert found["likeness"][NEAREST]["errors"] == pytest.approx([0.7, 0.7 - half, 0.7 + half], abs=1e-6)
    assert found["ahead"].keys() == {*CLASSICAL} - {NEAREST}
    assert found["ahead"]["ridge"] == pytest.approx([0.2, 0.2 - half / 2, 0.2 + half / 2], abs=1e-6)
    assert found["ahead"]["1-NN"] == pytest.approx([0.4, 0.4 - half, 0.4 + half], abs=1e-6)
    # each pair is wrong together three times, and alike in the first and the last of them
    assert found["between_seeds"] == pytest.approx([(2 / 3 - 1 / 9) / (8 / 9)] * 3)
    points = found["points"]
    assert list(points) == [5, 8, 14] and points[5]["same_class"][0] == pytest.approx(0.15)
    assert points[8]["same_class"] == [0.3, -math.inf, math.inf] and points[14]["errors"][0] == pytest.approx(0.7)
    assert [s["kernels"][0] for s in found["replaced"]] == pytest.approx([0.6, 0.5])
    for text in (
        "meta-trained on 2^14 tasks (unseen accuracy 0.700) it is, of the classical learners, most like kernel, cosine "
        "(setting 0; setting 1): where both are wrong", "corrected for chance, is 0.700 [0.452, 0.948]",
        "against 0.500 [0.376, 0.624] with ridge (difference 0.200 [0.076, 0.324])",
        "and 0.625 between Transformers", "with 2^5 tasks 0.150 [0.000, 0.785] and 0.400 [0.400, 0.400]",
        "layer 1 0.600, 0.200, layer 2 0.500, 0.200",
    ):  # fmt: skip
        assert text in found["words"]


@pytest.mark.parametrize(
    ("others", "verdict"),
    [
        ({"ridge": [0.5, 0.6, 0.7]}, "beyond"),  # .1 less with each seed: paired, its own spread does not count
        ({"ridge": [0.7, 0.6, 0.6]}, "open"),  # less in the mean, more with one seed
        ({TWO_KERNELS: [0.9] * 3}, "beyond"),  # no classical learner
        ({"ridge": [None] * 3}, "open"),  # nothing is known of it
        ({"ridge": [None, 0.6, 0.7]}, "beyond"),
    ],
)
def test_the_most_alike_must_be_ahead_of_each_other_one_with_every_seed(others, verdict):
    rows = [row(14, s, {NEAREST: 0.6 + 0.1 * s} | {n: v[s] for n, v in others.items()}) for s in range(3)]
    for r in rows:  # of the rest none is near
        for name in {*CLASSICAL} - {NEAREST, *others}:
            r["classical"][name]["errors"] = r["classical"][NEAREST]["errors"] - 0.2
    found = summarise(Settings(), rows)
    assert (found["verdict"], found["nearest"]) == (verdict, NEAREST)


PARTIAL = {
    "all": lambda r: True,
    "one seed": lambda r: r["seed"] == 0,
    "one row": lambda r: r["seed"] == 0 and r["exponent"] == 14,
    "few tasks alone": lambda r: r["exponent"] == 5,
    "no example": lambda r: r["seed"] == 1,
}


@pytest.mark.parametrize("what", PARTIAL)
def test_partial_results_have_a_table_and_a_picture(what, tmp_path):
    rows = [r for r in hand_made() if PARTIAL[what](r)]
    made = as_json({"rows": rows, "summary": summarise(Settings(), rows), "settings": Settings()})
    result = json.loads(json.dumps(finite_or_null(made), allow_nan=False))
    lines = mechanism.table(result).splitlines()
    assert [line.split("  ")[0] for line in lines[1 : 2 + len(CLASSICAL)]] == [*CLASSICAL, TWO_KERNELS]
    found = {line.split()[0]: line for line in lines[-len({r["exponent"] for r in rows}) :]}
    for e in {r["exponent"] for r in rows}:
        seeds = sum(r["exponent"] == e for r in rows)
        assert found[f"2^{e}"].split()[1] == str(seeds) and ("[" in found[f"2^{e}"]) == (seeds > 1)
    if len({r["seed"] for r in rows}) == 1:
        assert result["summary"]["verdict"] == "open", "a single seed shows no spread"
    mechanism.draw(result, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
