"""Listing of small formulas against trees made without any pruning, and the model that chooses among them."""

import dataclasses
import itertools

import numpy as np
import pytest

from metalearn_models.losses.formulas import OPERATORS, parse, size
from metalearn_models.losses.search.enumeration import enumerate_losses, list_formulas
from metalearn_models.losses.search.screening import fingerprint, reject
from metalearn_models.losses.search.search import as_loss, search
from metalearn_models.losses.search.surrogate import _expected_improvement, choose_next, predict_scores
from metalearn_models.losses.search.table import screening_table
from tests.models.losses.search.test_search import CONFIG, classes_task, numbers_task, reused

__all__ = ["reused"]


def all_trees(nodes):
    """Every tree of f, 1 and -1 with exactly so many nodes, without pruning."""
    if nodes == 1:
        return ["f", "1", "-1"]
    trees = []
    for name, operator in OPERATORS.items():
        if operator.arity == 1:
            trees += [f"{name}({a})" for a in all_trees(nodes - 1)]
        else:
            pairs = [itertools.product(all_trees(i), all_trees(nodes - 1 - i)) for i in range(1, nodes - 1)]
            trees += [f"{name}({a}, {b})" for group in pairs for a, b in group]
    return trees


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_pruning_loses_no_loss_of_the_form(kind):
    forms = ["mul({}, y)", "mul({}, add(y, f))"] if kind == "classification" else [None]
    tables = {}
    for g, form in itertools.product([g for n in (1, 2, 3, 4) for g in all_trees(n) if "f" in g], forms):
        table = screening_table(parse(g.replace("f", "(f-y)") if form is None else form.format(g)), kind)
        if reject(table, kind, 1000) is None:
            tables.setdefault(fingerprint(table, kind), table.loss)
    listed = enumerate_losses(kind, 4, (0.0, 1.0))
    keys = {one.key for one in listed}
    assert keys <= set(tables) and len(keys) == len(listed) > 10
    kept = [tables[key] for key in keys]
    for key in set(tables) - keys:  # equal but for the slope at a kink, as max(r, abs(r)) and abs(r)
        assert any(np.allclose(tables[key], loss, rtol=1e-9, atol=0) for loss in kept)
    assert [size(one.expr) for one in listed] == sorted(size(one.expr) for one in listed)


def test_formulas_are_listed_once_and_the_smallest_of_a_value_is_kept():
    formulas = [str(one) for one in list_formulas("classification", 4)]
    assert len(set(formulas)) == len(formulas) > 100
    assert "f" in formulas and "abs(f)" not in formulas and "mul(f, f)" not in formulas and "square(f)" in formulas
    with pytest.raises(ValueError, match="at least 1 node"):
        list(list_formulas("classification", 0))


def test_the_form_weighs_label_and_prediction_alike_with_any_number_of_classes():
    """With g = -log it is bootstrapping, by the formula of Reed et al.; with 2 to 1,000 classes."""
    loss = as_loss(parse("mul(add(y, mul(0.5, f)), abs(log(f)))"), [classes_task()], "model")
    rng = np.random.default_rng(0)
    for classes in (2, 10, 1000):
        z = rng.normal(size=classes)
        log_p = z - np.log(np.exp(z).sum())
        exact = -log_p[1] - 0.5 * np.sum(np.exp(log_p) * log_p)
        np.testing.assert_allclose(float(loss(z.astype(np.float32), 1)), exact, rtol=1e-5)


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


def test_a_search_in_the_list_trains_each_loss_once_and_goes_on_from_its_folder(tmp_path, reused):
    config = dataclasses.replace(CONFIG, strategy="model", largest=4, generations=3)
    whole = search([numbers_task()], config, tmp_path / "whole")
    listed = {str(one.expr) for one in enumerate_losses("regression", 4)}
    assert [g.trained for g in whole.generations] == [8, 8, 8]
    assert {str(entry.expr) for entry in whole.trained} <= listed
    search([numbers_task()], dataclasses.replace(config, generations=2), tmp_path / "part")
    shorter = (tmp_path / "part" / "search.json").read_text().replace('"generations": 2', '"generations": 3')
    (tmp_path / "part" / "search.json").write_text(shorter)
    assert search([numbers_task()], config, tmp_path / "part").trained == whole.trained
    drawn = search([numbers_task()], dataclasses.replace(config, strategy="enumeration"))
    assert [g.trained for g in drawn.generations] == [8, 8, 8]
    assert {str(entry.expr) for entry in drawn.trained} <= listed
    assert {entry.expr for entry in drawn.trained} != {entry.expr for entry in whole.trained}
