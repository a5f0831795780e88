"""Toy runs: the table against trainings, replayed searches against searches, verdicts, a candidate trained again."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.architectures import _correlations, _formulas, cells, digits, early_stopping, retrain, shared_weights
from experiments.architectures._problems import CellProblem, help_text
from experiments.architectures._replay import judge, replay, summarise
from experiments.architectures._report import verdict
from experiments.architectures._table import Table
from metalearn.errors import RunError, UnknownNameError
from metalearn.search.rank_correlation import spearman
from metalearn.search.successive_halving import plan_rungs, successive_halving
from metalearn_models.architectures import Candidate, classification_search, feedforward_cell, scored_by_loss
from metalearn_models.losses.formulas import parse
from metalearn_models.losses.search import table
from metalearn_models.losses.search.screening import scale

SMALL = {"nodes": 1, "operations": ("tanh", "relu"), "width": 4, "batch": 4, "steps": 4, "first": (1,), "budgets": (2,),
         "draws": 3, "seeds": 3}  # fmt: skip


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    config = digits.ArchitecturesConfig(**SMALL, grids=("wide",), out=tmp_path_factory.mktemp("architectures"))
    return config, digits.run(config)


def test_the_table_is_that_of_searches(toy):
    config, result = toy
    table, _ = digits.read_table(config, "wide", None)
    assert table.valid.shape == (3, 2, 6) and result["parts"]["wide"]["candidates"] == 6
    settings = {"nodes": 1, "operations": ("tanh", "relu"), "rates": (0.003, 0.03, 0.3), "width": 4, "batch": 4}
    problem, rungs = digits.rebuild(settings), plan_rungs(6, 1, 4, 4)
    state = successive_halving(problem.search, problem.thetas, problem.data, jax.random.key(1), rungs)
    searched = int(np.nanargmin(np.asarray(state.scores[-1])))
    assert replay(table.valid[1], np.arange(6), rungs, table.steps) == searched


def test_what_is_there_is_continued_and_another_space_is_refused(toy):
    config, result = toy
    again = digits.run(config)
    assert again["parts"] == result["parts"] and again["cell_seconds"] == result["cell_seconds"]
    assert "Spearman of each rung with the end" in digits.format_result(again)
    other = digits.ArchitecturesConfig(**SMALL | {"operations": ("tanh", "sine")}, grids=("wide",), out=config.out)
    with pytest.raises(RunError, match=r"another space.*node 1 operation"):
        digits.run(other)
    assert json.loads((config.out / "cells" / "wide-seed-0.json").read_bytes())["settings"]["operations"] == [
        "tanh", "relu"]  # fmt: skip


def test_a_candidate_is_trained_again_from_its_file(toy):
    config, _ = toy
    file = config.out / "cells" / "wide-seed-2.json"
    again = retrain.run(retrain.Options(file, candidate=4))
    np.testing.assert_allclose(again["scores"], again["file_scores"], atol=0.006)
    np.testing.assert_allclose(again["test"], again["file_test"], atol=0.006)
    assert again["architecture"] == {"node 1 input": "stem", "node 1 operation": "relu"}
    assert "candidate 4: node 1 input stem" in retrain.format_result(again)
    with pytest.raises(ValueError, match="from 0 to 5, got 6"):
        retrain.run(retrain.Options(file, candidate=6))


def planted(early):
    """A table of 12 candidates, all of which halving can afford; the first scores are a function of the last."""
    end, rng = np.arange(12) / 12, np.random.default_rng(0)
    valid = np.stack([np.stack([early(end), end]) + 1e-4 * rng.normal(size=(2, 12)) for _ in range(3)])
    return Table((4, 16), valid, np.stack([end + 0.01 * rng.normal(size=12) for _ in range(3)]))


def test_verdicts_on_planted_tables():
    config = digits.ArchitecturesConfig(steps=16, first=(4,), budgets=(8,), draws=20)
    good = summarise(config, planted(lambda end: end))
    assert [c["state"] for c in good["claims"]] == ["holds"] and "one standard error" in good["claims"][0]["claim"]
    bad = summarise(config, planted(lambda end: -end))
    assert [c["state"] for c in bad["claims"]] == ["holds"] and "loses to random" in bad["claims"][0]["claim"]
    assert bad["correlation"]["4"][0] < -0.9 < 0.9 < good["correlation"]["4"][0]
    by = {row["method"]: row["regret"][0] for row in bad["rows"]}
    assert by["halving r=4"] > by["random"] + 0.1
    assert verdict({"good": good, "bad": bad})["verdict"] == "reproduced"
    regrets = {("halving r=4", 8): np.full((3, 5), 0.5) + 0.01 * np.arange(3)[:, None], ("random", 8): np.ones((3, 5))}
    for correlation, state in ((0.9, "fails"), (-0.5, "fails")):
        claims = judge(config, {4: [correlation]}, regrets, 0.1)
        assert [c["state"] for c in claims] == [state]
        assert verdict({"x": {"claims": claims}})["verdict"] == "not reproduced"
    assert verdict({"x": {"claims": []}})["verdict"] == "open"


def test_early_ranks_of_large_rates_are_wrong(tmp_path):
    config = early_stopping.EarlyStoppingConfig(
        problems=("large-rates",), candidates=32, first=(2, 128), draws=5, out=tmp_path
    )
    result = early_stopping.run(config)
    assert np.mean(result["parts"]["large-rates"]["correlation"]["2"]) < -0.5
    assert "halving loses to random search" in early_stopping.format_result(result)


def test_shared_scores_are_judged_on_seeds_that_chose_nothing():
    """Planted scores: by loss they are the truth, by error noise, and training alone for few steps knows a little."""
    config, rng = (
        shared_weights.SharedWeightsConfig(seeds=8, shared_steps=(1, 4), rates=(0.1,)),
        np.random.default_rng(0),
    )
    truth = rng.normal(size=162)
    alone = np.stack([np.stack([truth + s * rng.normal(size=162) for s in (1, 0.5, 0.1)]) for _ in range(8)])
    shared = {
        (times, 0.1, seed): {way: (truth if (way, times) == ("loss", 4) else rng.normal(size=162)) for way in
                             shared_weights.WAYS} for times in (1, 4) for seed in range(8)
    }  # fmt: skip
    result = shared_weights.summarise(config, alone, shared, 0.1)
    assert [c["state"] for c in result["claims"]] == ["open", "holds", "holds"] and result["verdict"] == "open"
    assert "loss, 4 R steps at rate 0.1" in result["claims"][1]["claim"] and abs(result["chosen"]) < 0.2
    assert result["alone"]["R / 16"][0] < result["alone"]["R / 4"][0] < result["alone"]["R"][0]
    backwards = {key: {way: -np.asarray(values) for way, values in row.items()} for key, row in shared.items()}
    result = shared_weights.summarise(config, alone, backwards, 0.1)
    assert [c["state"] for c in result["claims"]][2] == "fails" and result["verdict"] == "not reproduced"


def test_intervals_of_correlations_are_wide_with_few_cells_even_if_all_seeds_agree():
    """Equal seeds know no more than one, and the interval is Fisher's for 162 cells: atanh(r) +- 1.96 / sqrt(159)."""
    rng = np.random.default_rng(1)
    truth = rng.normal(size=162)
    scores = np.stack([np.tile(truth + noise * rng.normal(size=162), (6, 1)) for noise in (0.5, 2.0)])
    end = np.tile(truth, (6, 1))
    found = _correlations.correlate_with_others(scores, end)
    np.testing.assert_allclose(found, [[spearman(row[0], truth)] * 6 for row in scores], rtol=1e-12)
    drawn = list(_correlations.resample(scores, end, 300))
    means = _correlations.interval(lambda c: c.mean(1), found, drawn)
    fisher = np.tanh(np.arctanh(found[:, :1]) + np.array([[0.0, -1.96, 1.96]]) / np.sqrt(159))
    np.testing.assert_allclose(means, fisher, atol=0.04)
    mixed = rng.normal(size=(1, 6, 162))  # the truth of a seed is the mean of the others
    wanted = spearman(mixed[0, 2], np.delete(end + mixed[0], 2, 0).mean(0))
    np.testing.assert_allclose(_correlations.correlate_with_others(mixed, end + mixed[0])[0, 2], wanted)
    constant = _correlations.correlate_with_others(np.zeros((1, 6, 162)), end)
    assert np.isnan(_correlations.interval(lambda c: c.mean(1), constant, [constant])).all()


def test_a_formula_trains_as_its_loss():
    """The table of the cross-entropy is a step of SGD on it, at the rate .03 divided by the formula's mean gradient."""
    search, thetas, data, _ = _formulas.formulas(2)
    formula = parse("mul(-1, mul(y, log(f)))")
    cells, size = _formulas.tabulate(formula), scale(table.screening_table(formula, "classification"), "classification")
    assert thetas.shape == (2, *cells.shape) and not np.array_equal(thetas[0], thetas[1])
    params, key = search.loop.init(thetas[0], data, jax.random.key(0)), jax.random.key(1)
    moved = jax.jit(search.loop.step)(jnp.asarray(cells, jnp.float32), params, jnp.int32(0), key, data)[0]
    plain = classification_search(feedforward_cell(64, 10, operations=("tanh",)))
    theta = Candidate(jnp.array([0, 0, 1, 0, 2, 0], jnp.int32), jnp.float32(0.03 / size))
    wanted = jax.jit(plain.loop.step)(theta, params, jnp.int32(0), key, data)[0]
    np.testing.assert_allclose(moved.head - params.head, wanted.head - params.head, rtol=1e-3, atol=1e-6)


def test_a_few_steps_of_the_head_leave_the_rest():
    made = digits.rebuild({"nodes": 1, "operations": ("tanh", "relu"), "rates": (0.1,), "width": 4, "batch": 4})
    network = feedforward_cell(64, 10, nodes=1, operations=("tanh", "relu"), width=4)
    problem = CellProblem(
        made.search, scored_by_loss(made.search, network), network, made.data, made.data, made.tested, 0.1, 2, "error"
    )
    searches = shared_weights.searches_of(problem)
    params, theta = network.init(jax.random.key(0)), jax.tree.map(lambda leaf: leaf[0], made.thetas)
    moved = jax.jit(searches["head"].loop.step)(theta, params, jnp.int32(0), jax.random.key(1), made.data)[0]
    all_moved = jax.jit(searches["all"].loop.step)(theta, params, jnp.int32(0), jax.random.key(1), made.data)[0]
    np.testing.assert_array_equal(moved.stem, params.stem)
    np.testing.assert_array_equal(moved.head, all_moved.head)
    assert not np.array_equal(all_moved.stem, params.stem) and not np.array_equal(moved.head, params.head)
    logits = np.asarray(network.apply(theta.code, params, made.data.valid.inputs), np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    loss = -log_probs[np.arange(len(logits)), np.asarray(made.data.valid.labels)].mean()
    np.testing.assert_allclose(searches["loss"].score(theta, params, made.data), loss, rtol=1e-4)


def test_bad_settings_are_refused(tmp_path):
    for changed, words in (
        ({"first": (3,)}, "do not reach 512"),
        ({"seeds": 2}, "--seeds must be at least 3"),
        ({"budgets": (0,)}, "trains no candidate"),
    ):
        with pytest.raises(ValueError, match=words):
            digits.run(digits.ArchitecturesConfig(**changed, out=tmp_path))
        with pytest.raises(ValueError, match=words):
            early_stopping.run(early_stopping.EarlyStoppingConfig(**changed, out=tmp_path))
    for changed, words in (
        ({"steps": 40}, "multiple of 16"),
        ({"seeds": 3}, "--seeds must be at least 4"),
        ({"shared_steps": (1,)}, "--shared-steps must hold 4"),
    ):
        with pytest.raises(ValueError, match=words):
            shared_weights.run(shared_weights.SharedWeightsConfig(**changed, out=tmp_path))
    with pytest.raises(UnknownNameError, match="Did you mean 'narrow'"):
        digits.run(digits.ArchitecturesConfig(grids=("narow",), out=tmp_path))
    with pytest.raises(UnknownNameError, match="Did you mean 'losses'"):
        early_stopping.run(early_stopping.EarlyStoppingConfig(problems=("loses",), out=tmp_path))
    assert not list(tmp_path.iterdir())


def test_three_searches_at_one_budget(tmp_path, monkeypatch):
    """A toy run on a small cell; MNIST is left out where it is not there, and what has ended is not searched again."""
    made = digits.rebuild({"nodes": 1, "operations": ("tanh", "relu"), "rates": (0.1,), "width": 4, "batch": 4})
    network = feedforward_cell(64, 10, nodes=1, operations=("tanh", "relu"), width=4)
    problem = CellProblem(
        made.search, scored_by_loss(made.search, network), network, made.data, made.data, made.tested, 0.1, 2, "error"
    )
    monkeypatch.setattr(cells, "digits", lambda: problem)
    config = cells.CellsConfig(problems=("digits", "mnist"), mnist=str(tmp_path / "none"), steps=16, budget=2, ranked=2,
                               seeds=2, out=tmp_path)  # fmt: skip
    result = cells.run(config)
    assert [row["method"] for row in result["parts"]["digits"]["methods"]] == ["random", "halving", "sharing"]
    assert "mnist" in result["skipped"] and "mnist was left out" in cells.format_result(result)
    (kept,) = (tmp_path / "cells").glob("digits-random-0-*.json")
    random = json.loads(kept.read_bytes())["result"]
    assert [row[0] for row in random["correlation"]] == [1, 4, 16] and len(random["evaluated"]) == 2
    # Both cells of the space were scored with shared weights and trained alone, whatever shared scores chose.
    sharing = result["parts"]["digits"]["methods"][2]["correlation"]
    assert [row[0] for row in sharing] == ["unselected", "chosen"]
    for method in ("random", "sharing"):
        file = tmp_path / "found" / f"digits-{method}-1.json"
        again = retrain.run(retrain.Options(file, candidate=0))
        np.testing.assert_allclose(again["scores"], again["file_scores"], atol=0.006)
    monkeypatch.setattr(cells, "search_once", None)
    assert cells.run(config)["parts"] == result["parts"]
    for changed, words in (({"steps": 40}, "multiple of 16"), ({"seeds": 1}, "at least 2")):
        with pytest.raises(ValueError, match=words):
            cells.run(cells.CellsConfig(**changed, out=tmp_path))
    with pytest.raises(UnknownNameError, match="Did you mean 'digits'"):
        cells.run(cells.CellsConfig(problems=("digit",), out=tmp_path))
    assert len(help_text()) > 100_000
