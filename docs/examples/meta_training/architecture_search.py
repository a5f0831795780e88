"""Search among 162 networks for digits: halving, and random search at the same budget, which shows how ranks change."""

import jax
import jax.numpy as jnp
import numpy as np

# [space]
from metalearn.search.population import score_members
from metalearn.search.random_search import random_search, trained_within
from metalearn.search.rank_correlation import rung_correlations
from metalearn.search.successive_halving import candidates_within, cost, plan_rungs, successive_halving
from metalearn_models.architectures import Candidate, Examples, SearchData, classification_search, feedforward_cell
from metalearn_tasks import datasets

digits = datasets.load("digits")
network = feedforward_cell(digits.inputs, digits.classes)  # 3 nodes, each tanh, relu or identity of an earlier one
search = classification_search(network)


def split(part, rows):
    """Some rows of a split of the data."""
    return Examples(jnp.asarray(part.inputs[rows]), jnp.asarray(part.labels[rows]))


train, valid = split(digits.train, slice(1000)), split(digits.train, slice(1000, None))
data = SearchData(train, valid)
tested = SearchData(train, split(digits.test, slice(None)))


def candidates(number, key):
    """Architectures at random, each with the same learning rate."""
    codes = network.space.draw(key, number)
    return Candidate(jnp.asarray(codes), jnp.full(len(codes), 0.1))


# [search]
def main(steps=256, budget=8):
    """Test errors of both searches, and the rank correlation of each rung with the end."""
    key, first = jax.random.key(0), steps // 16
    number = min(network.space.architectures, candidates_within(budget * steps, first, steps))
    rungs = plan_rungs(number, first, steps)
    thetas = candidates(number, key)
    halved = successive_halving(search, thetas, data, key, rungs)
    whole = random_search(search, candidates(trained_within(budget * steps, steps), key), data, key, rungs.steps)
    print(f"{network.space.architectures} architectures; halving trains {number} for {cost(rungs)} steps in all")
    # [report]
    errors = {}
    for name, state in {"halving": halved, "random": whole}.items():
        scores = np.asarray(state.scores, np.float64)
        winner = np.array([np.nanargmin(scores[-1])])
        population = thetas if name == "halving" else candidates(scores.shape[1], key)
        errors[name] = float(score_members(search, population, state.states, winner, tested)[0])
        cell = network.space.describe(np.asarray(population.code)[winner[0]])
        print(f"{name}: test error {errors[name]:.3f}, {', '.join(map(str, cell.values()))}")
    correlations = rung_correlations(rungs.steps, np.asarray(whole.scores, np.float64))
    for row in correlations:
        print(f"after {row.step} steps: rank correlation {row.spearman:.2f} with the end, of {row.scored} candidates")
    return errors, correlations


# [end]
if __name__ == "__main__":
    main()
