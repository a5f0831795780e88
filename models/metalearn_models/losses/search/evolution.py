"""Genetic programming of loss functions: the first population, and breeding of the next one.

Operators and rates are those of EvoMAL: Raymond, Chen, Xue, Zhang, "Learning Symbolic Model-Agnostic Loss Functions via
Meta-Learning" (2023, arXiv 2209.08907), with Koza's ramped half-and-half (1992). Two things differ on purpose. The
smaller of two candidate parents wins with probability 0.7 (Luke and Panait 2002, "Fighting bloat with nonparametric
parsimony pressure"); the published 0.5 exerts no pressure. And the best trees are carried over.

Everything is a function of a seed and the number of the generation, so a continued search breeds the same trees. Every
tree that leaves this module contains y and f and has at most the height `max_height`.
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

__all__ = ["SEEDS", "EvolutionConfig", "crossover", "generator", "initial_population", "mutate", "next_generation"]

TERMINALS: tuple[Expr, ...] = (Var("y"), Var("f"), Const(1.0), Const(-1.0))
SEEDS = {
    "classification": ("mul(-1, mul(y, log(f)))", "square(sub(y, f))", "abs(sub(y, f))"),
    "regression": ("square(sub(y, f))", "abs(sub(y, f))"),
}
"""Cross-entropy, squared and absolute error as formulas, with which a first population may be seeded."""
_ATTEMPTS = 20
_STOP = 0.3


@dataclass(frozen=True)
class EvolutionConfig:
    """How trees are bred. The defaults are EvoMAL's except `smaller_wins` and `elites`."""

    population: int = 25
    """Trees per generation."""
    initial_height: tuple[int, int] = (2, 4)
    """Least and largest height of the first trees; a terminal has height 0."""
    max_height: int = 10
    """Largest height of a tree. A higher child is replaced by its parent."""
    tournament: int = 4
    """Trees per tournament; the fittest of them becomes a candidate parent."""
    smaller_wins: float = 0.7
    """Probability that the smaller of two candidate parents is chosen. 0.5: no pressure towards small trees."""
    crossover: float = 0.7
    """Probability that a child gets a subtree of a second parent."""
    mutation: float = 0.25
    """Probability that a child gets a new random subtree. Otherwise it is a copy of its parent."""
    mutation_height: tuple[int, int] = (0, 2)
    """Least and largest height of new subtrees."""
    elites: int = 2
    """Number of the best distinct trees that are carried over unchanged."""
    newcomers: float = 0.0
    """Share of each later generation that is random like the first trees. Without newcomers a small population that
    has converged finds nothing new."""
    seeds: tuple[str, ...] = ()
    """Formulas in the first population, such as `SEEDS["classification"]`."""

    def __post_init__(self) -> None:
        if self.population < 2:
            raise ValueError(f"population must be at least 2, got {self.population}")
        for name in ("initial_height", "mutation_height"):
            low, high = getattr(self, name)
            if not 0 <= low <= high <= self.max_height:
                raise ValueError(f"{name} must be 0 <= from <= to <= {self.max_height}, got {(low, high)}")
        if self.initial_height[0] < 1:
            raise ValueError(
                f"initial_height must start at 1 or more, since y and f need height 1, got {self.initial_height}"
            )
        if self.tournament < 1:
            raise ValueError(f"tournament must be at least 1, got {self.tournament}")
        if not 0.0 <= self.smaller_wins <= 1.0:
            raise ValueError(f"smaller_wins must be a probability, from 0 to 1, got {self.smaller_wins}")
        if min(self.crossover, self.mutation) < 0 or self.crossover + self.mutation > 1:
            raise ValueError(
                f"crossover and mutation must be probabilities of sum at most 1, got {self.crossover}, {self.mutation}"
            )
        if not 0 <= self.elites <= self.population:
            raise ValueError(f"elites must be from 0 to the population, {self.population}, got {self.elites}")
        if not 0.0 <= self.newcomers <= 1.0:
            raise ValueError(f"newcomers must be a share of the population, from 0 to 1, got {self.newcomers}")
        if len(self.seeds) > self.population:
            raise ValueError(f"a population of {self.population} cannot hold {len(self.seeds)} seeds")
        for text in self.seeds:
            check_loss(parse(text))


def generator(seed: int, generation: int) -> np.random.Generator:
    """The random numbers of one generation."""
    return np.random.default_rng([seed, generation])


def initial_population(config: EvolutionConfig, seed: int, generation: int = 0) -> tuple[Expr, ...]:
    """Draw a first population by ramped half-and-half: heights cycle through `initial_height`, half the trees are full.

    Args:
        config: how trees are bred.
        seed: seed of the search.
        generation: number of the generation; each gives an independent population, as random search needs.

    Returns:
        `config.population` trees, in generation 0 the seeds first. They are distinct unless 20 attempts fail to find a
        new tree.
    """
    rng = generator(seed, generation)
    trees = [parse(text) for text in config.seeds] if generation == 0 else []
    return tuple(_fill(config, rng, trees))


def _fill(config: EvolutionConfig, rng: np.random.Generator, trees: list[Expr]) -> list[Expr]:
    """The trees, and as many random ones as complete the population."""
    low, high = config.initial_height
    while len(trees) < config.population:
        tall = low + len(trees) % (high - low + 1)
        full = len(trees) // (high - low + 1) % 2 == 0
        tree = _repair(rng, _grow(rng, tall, tall if full else low), config.max_height)
        for _ in range(_ATTEMPTS):
            if tree not in trees:
                break
            tree = _repair(rng, _grow(rng, tall, tall if full else low), config.max_height)
        trees.append(tree)
    return trees


def next_generation(
    config: EvolutionConfig, seed: int, generation: int, population: Sequence[Expr], fitness: Sequence[float]
) -> tuple[Expr, ...]:
    """Breed a generation from the one before it.

    Args:
        config: how trees are bred.
        seed: seed of the search.
        generation: number of the new generation, from 1.
        population: the generation before.
        fitness: fitness of each of its trees, smaller is better; infinity for a rejected tree.

    Returns:
        `config.population` trees: the elites, best first, then children, then newcomers. A child that the new
        generation already has is bred again, up to 20 times.

    Raises:
        ValueError: the numbers of trees and of fitnesses differ, or a fitness is NaN.
    """
    if len(population) != len(fitness) or not population:
        raise ValueError(f"got {len(population)} trees and {len(fitness)} fitnesses: one each, and at least one")
    if any(math.isnan(value) for value in fitness):
        raise ValueError("a fitness is NaN: use infinity for a tree that cannot be judged")
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
    return tuple(_fill(config, rng, children))


def _child(
    config: EvolutionConfig, rng: np.random.Generator, population: Sequence[Expr], fitness: Sequence[float]
) -> Expr:
    parent = _select(config, rng, population, fitness)
    kind = rng.random()
    if kind < config.crossover:
        child = crossover(rng, parent, _select(config, rng, population, fitness))
    elif kind < config.crossover + config.mutation:
        child = mutate(rng, parent, config.mutation_height)
    else:
        return parent
    if child is None or height(child) > config.max_height:
        return parent
    return _repair(rng, child, config.max_height)


def _select(
    config: EvolutionConfig, rng: np.random.Generator, population: Sequence[Expr], fitness: Sequence[float]
) -> Expr:
    """Choose a parent by double tournament: of two winners by fitness, the smaller with probability `smaller_wins`."""
    winners = []
    for _ in range(2):
        entrants = rng.integers(len(population), size=config.tournament)
        winners.append(population[min(entrants, key=lambda i: fitness[i])])
    small, large = sorted(winners, key=size)
    if size(small) == size(large):  # neither is preferred
        return winners[int(rng.random() < 0.5)]
    return small if rng.random() < config.smaller_wins else large


def crossover(rng: np.random.Generator, parent: Expr, donor: Expr) -> Expr | None:
    """Replace a uniformly chosen subtree of `parent` by one of `donor`; None if the result is too large."""
    branches = nodes(donor)
    return _try_replace(parent, int(rng.integers(size(parent))), branches[int(rng.integers(len(branches)))])


def mutate(rng: np.random.Generator, parent: Expr, heights: tuple[int, int]) -> Expr | None:
    """Replace a uniformly chosen subtree of `parent` by a random one; None if the result is too large."""
    tall = int(rng.integers(heights[0], heights[1] + 1))
    new = _grow(rng, tall, tall if rng.random() < 0.5 else 0)
    return _try_replace(parent, int(rng.integers(size(parent))), new)


def _try_replace(tree: Expr, place: int, new: Expr) -> Expr | None:
    try:
        return replace(tree, place, new)
    except ValueError:  # larger than the formula language allows
        return None


def _grow(rng: np.random.Generator, tall: int, least: int) -> Expr:
    """Draw a tree of height `tall` at most; from depth `least` on each branch ends with probability 0.3."""
    if tall == 0 or (least <= 0 and rng.random() < _STOP):
        return TERMINALS[int(rng.integers(len(TERMINALS)))]
    names = list(OPERATORS)
    name = names[int(rng.integers(len(names)))]
    return Op(name, tuple(_grow(rng, tall - 1, least - 1) for _ in range(OPERATORS[name].arity)))


def _repair(rng: np.random.Generator, tree: Expr, max_height: int) -> Expr:
    """Make a tree contain y and f: if it does not, replace a random terminal by an operator of both.

    The operator is add, sub, mul or div, with its arguments in either order. Terminals at depth `max_height` are not
    replaced; a tree that has no others is replaced by the operator.
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
