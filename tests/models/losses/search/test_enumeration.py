"""Listing of small formulas against trees made without any pruning, and the model that chooses among them."""

import dataclasses
import itertools

import numpy as np
import pytest

from metalearn_models.losses.formulas import OPERATORS, Const, Op, Var, size, variables
from metalearn_models.losses.search.enumeration import enumerate_losses, list_formulas
from metalearn_models.losses.search.screening import fingerprint, reject
from metalearn_models.losses.search.search import search
from metalearn_models.losses.search.surrogate import _expected_improvement, choose_next, predict_scores
from metalearn_models.losses.search.table import screening_table
from tests.models.losses.search.test_search import CONFIG, numbers_task, reused

__all__ = ["reused"]


def all_trees(nodes):
    """Every tree of exactly so many nodes, without pruning."""
    if nodes == 1:
        return [Var("y"), Var("f"), Const(1.0), Const(-1.0)]
    trees = []
    for name, operator in OPERATORS.items():
        if operator.arity == 1:
            trees += [Op(name, (a,)) for a in all_trees(nodes - 1)]
        else:
            pairs = [itertools.product(all_trees(i), all_trees(nodes - 1 - i)) for i in range(1, nodes - 1)]
            trees += [Op(name, pair) for group in pairs for pair in group]
    return trees


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_pruning_loses_no_loss_and_keeps_the_smallest_formula(kind):
    least = {}
    for nodes in (3, 4):
        for tree in all_trees(nodes):
            if variables(tree) == {"y", "f"}:
                table = screening_table(tree, kind)
                if reject(table, kind, 10) is None:
                    least.setdefault(fingerprint(table, kind), nodes)
    listed = enumerate_losses(kind, 10, 4)
    assert {one.key: size(one.expr) for one in listed} == least
    assert len(listed) == len(least) > 10


def test_formulas_of_five_nodes_are_listed_once():
    formulas = list(list_formulas("classification", 5))
    assert [size(one) for one in formulas] == sorted(size(one) for one in formulas)
    assert len(set(formulas)) == len(formulas) > 1000
    with pytest.raises(ValueError, match="at least 3 nodes"):
        list(list_formulas("classification", 2))


def test_predictions_are_those_of_a_gaussian_process():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(12, 3))
    rows, scores = np.arange(7), rng.normal(size=7)
    mean, deviation = predict_scores(features, rows, scores)
    targets = (scores - scores.mean()) / scores.std()
    assert scores.max() < np.median(scores) + 3 * (np.median(scores) - scores.min())  # nothing is cut
    squared = np.square(features[:, None] - features[None, :7]).sum(-1)
    unit = np.median(squared[squared > 1e-9])
    best = (-np.inf, None, None)
    for length, noise in itertools.product((0.25, 0.5, 1.0, 2.0), (0.01, 0.05, 0.2, 0.5)):
        kernel = (1 - noise) * np.exp(-squared / (2 * length**2 * unit))
        inverse = np.linalg.inv(kernel[:7] + (noise + 1e-8) * np.eye(7))
        likelihood = 0.5 * (np.linalg.slogdet(inverse)[1] - targets @ inverse @ targets)
        if likelihood > best[0]:
            variance = 1 - noise - np.einsum("ni,ij,nj->n", kernel, inverse, kernel)
            best = (likelihood, kernel @ inverse @ targets, np.sqrt(variance))
    np.testing.assert_allclose(mean, scores.mean() + scores.std() * best[1], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(deviation, scores.std() * best[2], rtol=1e-5)


def test_expected_improvement_is_its_integral():
    grid = np.linspace(-12, 12, 200_001)
    density = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
    for mean, deviation in ((0.3, 0.5), (-1.0, 0.2), (2.0, 1.0)):
        exact = np.trapezoid(np.maximum(0.1 - mean - deviation * grid, 0) * density, grid)
        found = _expected_improvement(np.array([mean]), np.array([deviation]), 0.1)
        np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-12)


def test_the_model_finds_the_least_of_a_smooth_function_sooner_than_chance():
    rng = np.random.default_rng(1)
    features = rng.uniform(-1, 1, size=(200, 2))
    scores = np.square(features - 0.3).sum(1)
    trained = list(range(6))
    for _ in range(4):
        trained += choose_next(features, np.array(trained), scores[trained], 4)
    assert len(set(trained)) == 22
    assert scores[trained].min() == scores.min()
    with pytest.raises(ValueError, match="two or more finite scores"):
        choose_next(features, np.array([0]), scores[:1], 2)


def test_a_search_by_enumeration_trains_listed_losses_once_and_goes_on_from_its_folder(tmp_path, reused):
    config = dataclasses.replace(CONFIG, strategy="enumeration", largest=4, generations=3)
    whole = search([numbers_task()], config, tmp_path / "whole")
    listed = {str(one.expr) for one in enumerate_losses("regression", 1, 4)}
    assert [g.trained for g in whole.generations] == [8, 8, 8]
    assert {str(entry.expr) for entry in whole.trained} <= listed
    record = (tmp_path / "whole" / "search.json").read_text()
    search([numbers_task()], dataclasses.replace(config, generations=2), tmp_path / "part")
    shorter = (tmp_path / "part" / "search.json").read_text().replace('"generations": 2', '"generations": 3')
    (tmp_path / "part" / "search.json").write_text(shorter)
    assert search([numbers_task()], config, tmp_path / "part").trained == whole.trained
    assert "enumeration" in record
