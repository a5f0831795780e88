"""Genetic programming of loss functions: how populations begin and how the next one is bred.

Operators and rates are those of EvoMAL: Raymond, Chen, Xue, Zhang, "Learning Symbolic Model-Agnostic Loss Functions via
Meta-Learning" (2023, arXiv 2209.08907), with Koza's ramped half-and-half (1992). Two things differ on purpose: the
smaller of two equally chosen parents wins more often than not (Luke and Panait 2002, "Fighting bloat with nonparametric
parsimony pressure"; the published setting, one half, exerts none), and the best are carried over.

Everything is a function of a seed and the number of the generation: a search that is taken up again breeds the same
trees. Every tree that leaves this file contains y and f and is at most `max_height` high.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metalearn_models.losses.formulas import (
    OPERATORS,
    Const,
    Expr,
    Op,
    Var,
    check_loss,
    height,
    nodes,
    parse,
    replace,
    size,
)

__all__ = ["SEEDS", "EvolutionConfig", "crossover", "generator", "initial_population", "mutated", "next_generation"]

TERMINALS: tuple[Expr, ...] = (Var("y"), Var("f"), Const(1.0), Const(-1.0))
SEEDS = {
    "classification": ("mul(-1, mul(y, log(f)))", "square(sub(y, f))", "abs(sub(y, f))"),
    "regression": ("square(sub(y, f))", "abs(sub(y, f))"),
}
"""Cross-entropy, squared and absolute error, as formulas: what a first population may be seeded with."""
_ATTEMPTS = 20
_STOP = 0.3


@dataclass(frozen=True)
class EvolutionConfig:
    """How trees are bred. The defaults are EvoMAL's but for `smaller_wins` and `elites`."""

    population: int = 25
    """Trees in a generation."""
    initial_height: tuple[int, int] = (2, 4)
    """Heights of the first trees, from and to; a terminal has height 0."""
    max_height: int = 10
    """A child that is higher is replaced by its parent."""
    tournament: int = 4
    """Trees of which the fittest becomes a candidate parent."""
    smaller_wins: float = 0.7
    """Probability that the smaller of two candidate parents is taken. 0.5: no pressure towards small trees."""
    crossover: float = 0.7
    """Probability of a child that gets a subtree of a second parent."""
    mutation: float = 0.25
    """Probability of a child that gets a new random subtree. What is left to 1 is the probability of a copy."""
    mutation_height: tuple[int, int] = (0, 2)
    """Heights of those subtrees, from and to."""
    elites: int = 2
    """The best distinct trees go over unchanged."""
    newcomers: float = 0.0
    """Share of each later generation that is not bred but random, as the first trees: a small population that has
    settled on one idea finds another only so."""
    seeds: tuple[str, ...] = ()
    """Formulas that the first population contains, such as `SEEDS["classification"]`."""

    def __post_init__(self) -> None:
        if self.population < 2:
            raise ValueError(f"population must be at least 2, got {self.population}")
        for name in ("initial_height", "mutation_height"):
            low, high = getattr(self, name)
            if not 0 <= low <= high <= self.max_height:
                raise ValueError(f"{name} must be 0 <= from <= to <= {self.max_height}, got {(low, high)}")
        if self.initial_height[0] < 1:
            raise ValueError(f"a tree with y and f has height 1 at least, got initial_height {self.initial_height}")
        if self.tournament < 1:
            raise ValueError(f"tournament must be at least 1, got {self.tournament}")
        if not 0.0 <= self.smaller_wins <= 1.0:
            raise ValueError(f"smaller_wins is a probability, got {self.smaller_wins}")
        if min(self.crossover, self.mutation) < 0 or self.crossover + self.mutation > 1:
            raise ValueError(
                f"crossover and mutation are probabilities of sum at most 1, got {self.crossover} and {self.mutation}"
            )
        if not 0 <= self.elites <= self.population:
            raise ValueError(f"elites must be from 0 to the population, {self.population}, got {self.elites}")
        if not 0.0 <= self.newcomers <= 1.0:
            raise ValueError(f"newcomers is a share of the population, from 0 to 1, got {self.newcomers}")
        if len(self.seeds) > self.population:
            raise ValueError(f"a population of {self.population} cannot hold {len(self.seeds)} seeds")
        for text in self.seeds:
            check_loss(parse(text))


def generator(seed: int, generation: int) -> np.random.Generator:
    """The randomness of one generation."""
    return np.random.default_rng([seed, generation])


def initial_population(config: EvolutionConfig, seed: int, generation: int = 0) -> tuple[Expr, ...]:
    """Ramped half-and-half: heights in turn over `initial_height`; half of the trees are full, half may be ragged.

    Args:
        config: of the evolution.
        seed: of the search.
        generation: another number gives an independent population, which is what random search takes.

    Returns:
        `config.population` trees, distinct where 20 attempts each find distinct ones, the seeds among them first in
        generation 0.
    """
    rng = generator(seed, generation)
    trees = [parse(text) for text in config.seeds] if generation == 0 else []
    return tuple(_filled(config, rng, trees))


def _filled(config: EvolutionConfig, rng: np.random.Generator, trees: list[Expr]) -> list[Expr]:
    """The trees and as many random ones as there is room for."""
    low, high = config.initial_height
    while len(trees) < config.population:
        tall = low + len(trees) % (high - low + 1)
        full = len(trees) // (high - low + 1) % 2 == 0
        tree = _constrained(rng, _grown(rng, tall, tall if full else low), config.max_height)
        for _ in range(_ATTEMPTS):
            if tree not in trees:
                break
            tree = _constrained(rng, _grown(rng, tall, tall if full else low), config.max_height)
        trees.append(tree)
    return trees


def next_generation(
    config: EvolutionConfig, seed: int, generation: int, population: Sequence[Expr], fitness: Sequence[float]
) -> tuple[Expr, ...]:
    """Breed a generation from the one before it.

    Args:
        config: of the evolution.
        seed: of the search.
        generation: number of the generation that is made, from 1.
        population: the generation before.
        fitness: of each of its trees, smaller is better; infinity for a tree that was refused.

    Returns:
        `config.population` trees: the elites, best first, then children, then newcomers. A child that the new
        generation already has is bred anew, up to 20 times.

    Raises:
        ValueError: numbers of trees and fitnesses differ, or a fitness is NaN.
    """
    if len(population) != len(fitness) or not population:
        raise ValueError(f"got {len(population)} trees and {len(fitness)} fitnesses: one each, and at least one")
    if any(math.isnan(value) for value in fitness):
        raise ValueError("a fitness is NaN: give a tree that cannot be judged infinity")
    rng = generator(seed, generation)
    order = sorted(range(len(population)), key=lambda i: (fitness[i], size(population[i]), i))
    children: list[Expr] = []
    for i in order:
        if len(children) < config.elites and math.isfinite(fitness[i]) and population[i] not in children:
            children.append(population[i])
    bred = config.population - round(config.newcomers * config.population)
    while len(children) < bred:
        child = _child(config, rng, population, fitness)
        for _ in range(_ATTEMPTS):
            if child not in children:
                break
            child = _child(config, rng, population, fitness)
        children.append(child)
    return tuple(_filled(config, rng, children))


def _child(
    config: EvolutionConfig, rng: np.random.Generator, population: Sequence[Expr], fitness: Sequence[float]
) -> Expr:
    parent = _selected(config, rng, population, fitness)
    kind = rng.random()
    if kind < config.crossover:
        child = crossover(rng, parent, _selected(config, rng, population, fitness))
    elif kind < config.crossover + config.mutation:
        child = mutated(rng, parent, config.mutation_height)
    else:
        return parent
    if child is None or height(child) > config.max_height:
        return parent
    return _constrained(rng, child, config.max_height)


def _selected(
    config: EvolutionConfig, rng: np.random.Generator, population: Sequence[Expr], fitness: Sequence[float]
) -> Expr:
    """Double tournament: two by fitness, of which the smaller wins with probability `smaller_wins`."""
    winners = []
    for _ in range(2):
        entrants = rng.integers(len(population), size=config.tournament)
        winners.append(population[min(entrants, key=lambda i: fitness[i])])
    small, large = sorted(winners, key=size)
    if size(small) == size(large):  # sorted is stable: no preference
        return winners[int(rng.random() < 0.5)]
    return small if rng.random() < config.smaller_wins else large


def crossover(rng: np.random.Generator, parent: Expr, donor: Expr) -> Expr | None:
    """`parent` with one of its subtrees, uniformly chosen, replaced by one of `donor`; None if that is too large."""
    branches = nodes(donor)
    return _replaced(parent, int(rng.integers(size(parent))), branches[int(rng.integers(len(branches)))])


def mutated(rng: np.random.Generator, parent: Expr, heights: tuple[int, int]) -> Expr | None:
    """`parent` with one of its subtrees, uniformly chosen, replaced by a random one; None if it would be too large."""
    tall = int(rng.integers(heights[0], heights[1] + 1))
    new = _grown(rng, tall, tall if rng.random() < 0.5 else 0)
    return _replaced(parent, int(rng.integers(size(parent))), new)


def _replaced(tree: Expr, place: int, new: Expr) -> Expr | None:
    try:
        return replace(tree, place, new)
    except ValueError:  # beyond what the formula language allows
        return None


def _grown(rng: np.random.Generator, tall: int, least: int) -> Expr:
    """A random tree of at most height `tall` whose branches may end, with chance 0.3 each, from depth `least` on."""
    if tall == 0 or (least <= 0 and rng.random() < _STOP):
        return TERMINALS[int(rng.integers(len(TERMINALS)))]
    names = list(OPERATORS)
    name = names[int(rng.integers(len(names)))]
    return Op(name, tuple(_grown(rng, tall - 1, least - 1) for _ in range(OPERATORS[name].arity)))


def _constrained(rng: np.random.Generator, tree: Expr, max_height: int) -> Expr:
    """The tree itself if it contains y and f; else with a random terminal replaced by an operator of both.

    The operator is add, sub, mul or div, its arguments in either order. Where the terminal lies at `max_height`, one
    at less height is taken; a tree that has none gets the operator at its root.
    """
    if {Var("y"), Var("f")} <= set(nodes(tree)):
        return tree
    args = (Var("y"), Var("f")) if rng.random() < 0.5 else (Var("f"), Var("y"))
    both = Op(("add", "sub", "mul", "div")[int(rng.integers(4))], args)
    places = [i for i, node in enumerate(nodes(tree)) if not isinstance(node, Op)]
    for i in rng.permutation(places):
        repaired = replace(tree, int(i), both)
        if height(repaired) <= max_height:
            return repaired
    return both
