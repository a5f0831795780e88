"""Breeding of formulas: what every tree obeys, what selection prefers, what a seed fixes."""

import math
from collections import Counter

import numpy as np
import pytest

from metalearn_models.losses.formulas import Op, height, nodes, parse, size, variables
from metalearn_models.losses.search import evolution
from metalearn_models.losses.search.evolution import (
    SEEDS,
    EvolutionConfig,
    crossover,
    generator,
    initial_population,
    mutate,
    next_generation,
)
from metalearn_models.losses.search.neighbours import neighbours

CONFIG = EvolutionConfig(population=40)


def lexical_fitness(population):
    """Some fixed fitness of a tree, distinct for distinct trees."""
    return [sum(ord(c) * (i + 1) for i, c in enumerate(str(tree))) % 1009 / 1009 for tree in population]


def test_every_tree_of_fifty_generations_is_a_loss_of_bounded_height():
    config = EvolutionConfig(population=25, max_height=5)
    population = initial_population(config, 3)
    for generation in range(1, 51):
        population = next_generation(config, 3, generation, population, lexical_fitness(population))
        assert len(population) == 25
        assert all(variables(tree) == {"y", "f"} and height(tree) <= 5 for tree in population)


def test_first_heights_are_ramped_and_half_of_the_trees_are_full():
    grown = EvolutionConfig(population=600, initial_height=(2, 4))
    population = initial_population(grown, 0)
    assert len(set(population)) == 600
    heights = Counter(height(tree) for tree in population)
    assert set(heights) == {2, 3, 4, 5}  # 5: a terminal of the lowest level replaced, y or f was missing
    assert heights[2] > 20 and heights[3] > 100 and heights[4] > 100

    def is_full(tree, depth):
        if not isinstance(tree, Op):
            return depth == 0
        return all(is_full(arg, depth - 1) for arg in tree.args)

    full = np.mean([is_full(tree, height(tree)) for tree in population])
    assert 0.3 < full < 0.75


def test_the_first_population_begins_with_the_seeds():
    config = EvolutionConfig(population=5, seeds=SEEDS["classification"])
    assert initial_population(config, 0)[:3] == tuple(map(parse, SEEDS["classification"]))
    assert not set(initial_population(config, 0, generation=1)) & set(map(parse, SEEDS["classification"]))


def test_a_generation_is_a_function_of_seed_and_number():
    first = initial_population(CONFIG, 5)
    assert first == initial_population(CONFIG, 5) != initial_population(CONFIG, 6)
    fitness = lexical_fitness(first)
    second = next_generation(CONFIG, 5, 1, first, fitness)
    assert second == next_generation(CONFIG, 5, 1, first, fitness)
    assert second != next_generation(CONFIG, 5, 2, first, fitness)
    assert second != next_generation(CONFIG, 6, 1, first, fitness)


def test_the_best_distinct_trees_go_over_unchanged_and_refused_ones_do_not():
    population = initial_population(CONFIG, 1)
    population = (population[0], population[0], *population[2:])
    fitness = [0.1, 0.1, 0.3, 0.2] + [math.inf] * 36
    config = EvolutionConfig(population=40, elites=5)
    following = next_generation(config, 1, 1, population, fitness)
    assert following[:3] == (population[0], population[3], population[2])
    assert following[3] not in population[4:] or following[3] not in following[:3]


def test_best_fitness_never_gets_worse():
    population = initial_population(CONFIG, 2)
    best = min(lexical_fitness(population))
    for generation in range(1, 10):
        population = next_generation(CONFIG, 2, generation, population, lexical_fitness(population))
        assert min(lexical_fitness(population)) <= best
        best = min(lexical_fitness(population))


def copies(config, population, fitness):
    """Counts of the parents that selection takes: no variation, duplicates allowed."""
    rng = np.random.default_rng(0)
    return Counter(evolution._select(config, rng, population, fitness) for _ in range(4000))


def test_the_fittest_win_tournaments_as_often_as_they_must():
    """Of n trees of one size, the best is in a tournament of k with probability 1 - (1 - 1/n)^k."""
    population = [parse(f"add(mul(y, f), {i})") for i in range(10)]
    got = copies(EvolutionConfig(tournament=4), population, list(range(10)))[population[0]] / 4000
    exact = 1 - 0.9**4
    assert abs(got - exact) < 4 * math.sqrt(exact * (1 - exact) / 4000)


def test_the_smaller_of_two_equally_fit_wins_as_often_as_configured():
    """With two trees and tournaments of one: P(small) = 1/4 + 1/2 * smaller_wins."""
    small, large = parse("add(y, f)"), parse("add(add(y, f), 1)")
    for probability in (0.5, 0.7, 1.0):
        got = copies(EvolutionConfig(tournament=1, smaller_wins=probability), [large, small], [0.0, 0.0])[small] / 4000
        assert abs(got - (0.25 + 0.5 * probability)) < 0.035


def test_pressure_towards_small_trees_keeps_populations_small():
    def mean_size(smaller_wins):
        config = EvolutionConfig(population=40, smaller_wins=smaller_wins, elites=0)
        sizes = []
        for seed in range(5):
            population = initial_population(config, seed)
            for generation in range(1, 15):
                population = next_generation(config, seed, generation, population, [0.0] * 40)
            sizes.append(np.mean([size(tree) for tree in population]))
        return np.mean(sizes)

    assert mean_size(0.9) < 0.7 * mean_size(0.5)


def test_the_last_of_a_generation_are_newcomers():
    config = EvolutionConfig(population=40, crossover=0, mutation=0, newcomers=0.25)
    parent = parse("mul(y, f)")
    for population in (next_generation(config, seed, 1, [parent] * 40, [0.0] * 40) for seed in range(3)):
        assert population[:30] == (parent,) * 30
        assert len({*population[30:]} - {parent}) == 10
        assert all(variables(tree) == {"y", "f"} for tree in population)


def test_neighbours_are_all_formulas_one_change_away():
    found = set(neighbours(parse("tanh(sub(f, y))")))
    unary = ("sign", "square", "abs", "log", "sqrt")
    binary = ("add", "mul", "div", "min", "max")
    expected = {f"{name}(sub(f, y))" for name in unary} | {f"tanh({name}(f, y))" for name in binary} | {"sub(f, y)"}
    assert found == set(map(parse, expected))  # every change of a terminal would lose y or f
    assert parse("square(mul(y, f))") in neighbours(parse("square(mul(y, add(f, 1)))"))
    assert {parse("add(mul(y, f), -1)"), parse("add(mul(y, f), y)")} <= set(neighbours(parse("add(mul(y, f), 1)")))


def test_crossover_takes_everything_from_its_two_parents():
    rng = generator(0, 0)
    parent, donor = parse("add(y, mul(f, 1))"), parse("tanh(sub(y, log(f)))")
    for _ in range(50):
        child = crossover(rng, parent, donor)
        assert child is not None
        assert set(map(str, nodes(child))) & set(map(str, nodes(donor)))
        assert {type(n) for n in nodes(child)} <= {type(n) for n in nodes(parent) + nodes(donor)}


def test_every_place_of_a_tree_is_mutated():
    rng, parent = generator(0, 1), parse("add(square(y), sqrt(f))")
    assert isinstance(parent, Op)
    changed = Counter()
    for _ in range(400):
        child = mutate(rng, parent, (0, 2))
        assert child is not None
        if isinstance(child, Op) and child.name == "add" and len(child.args) == 2:
            changed.update(i for i in range(2) if child.args[i] != parent.args[i])
        else:
            changed["root"] += 1
    assert min(changed[0], changed[1], changed["root"]) > 40


@pytest.mark.parametrize("text", ["1", "y", "add(1, square(f))", "add(1, -1)"])
def test_trees_without_y_or_f_are_repaired_below_the_height_limit(text):
    for seed in range(20):
        tree = evolution._repair(generator(seed, 0), parse(text), max(height(parse(text)), 1))
        assert variables(tree) == {"y", "f"} and height(tree) <= max(height(parse(text)), 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"population": 1}, "population must be at least 2, got 1"),
        ({"initial_height": (3, 2)}, "initial_height must be 0 <= from"),
        ({"initial_height": (2, 11)}, "initial_height must be 0 <= from"),
        ({"smaller_wins": 1.2}, "smaller_wins must be a probability, from 0 to 1, got 1.2"),
        ({"crossover": 0.9, "mutation": 0.2}, "sum at most 1, got 0.9, 0.2"),
        ({"elites": 26}, "elites must be from 0 to the population, 25, got 26"),
        ({"seeds": ("add(y, 1)",)}, "lacks f"),
        ({"newcomers": 1.5}, "from 0 to 1, got 1.5"),
        ({"tournament": 0}, "tournament must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        EvolutionConfig(**wrong)


def test_fitness_must_be_given_for_each_tree_and_be_a_number():
    population = initial_population(CONFIG, 0)
    with pytest.raises(ValueError, match="40 trees and 1 fitnesses"):
        next_generation(CONFIG, 0, 1, population, [1.0])
    with pytest.raises(ValueError, match="a fitness is NaN"):
        next_generation(CONFIG, 0, 1, population, [math.nan] * 40)
