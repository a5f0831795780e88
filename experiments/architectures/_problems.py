"""Problems of larger spaces: images of MNIST, the characters of Python's help, and digits beside them."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.architectures._table import digits_problem
from metalearn.search.population import Search
from metalearn_models.architectures import (
    CellNetwork,
    Examples,
    SearchData,
    Space,
    classification_search,
    convolutional_cell,
    feedforward_cell,
    recurrent_cell,
    scored_by_loss,
    sequence_search,
)
from metalearn_tasks import datasets


class CellProblem(NamedTuple):
    """A space with data.

    Attributes:
        search: what is searched.
        ranking: the same scored by what ranks cells with shared weights, the loss.
        network: of every architecture.
        data: what is learned from, with validation examples.
        few: with few of these.
        tested: with the test examples in their place.
        rate: learning rate of all trainings.
        chunk: how many candidates are trained side by side.
        unit: of the scores.
    """

    search: Search
    ranking: Search
    network: CellNetwork
    data: SearchData
    few: SearchData
    tested: SearchData
    rate: float
    chunk: int
    unit: str

    @property
    def space(self) -> Space:
        """Of the architectures."""
        return self.network.space


def _problem(
    search: Search, ranking: Search, network: CellNetwork, splits: tuple[Examples, ...], few: int, **rest: Any
) -> CellProblem:
    train, valid, test = splits
    less = Examples(*(part[:few] for part in valid))
    return CellProblem(
        search, ranking, network, SearchData(train, valid), SearchData(train, less), SearchData(train, test), **rest
    )


def digits() -> CellProblem:
    """The 162 cells of `architectures`, with one learning rate."""
    made, network = digits_problem(3, ("tanh", "relu", "identity"), (0.1,), 16, 32), feedforward_cell(64, 10)
    splits = (made.data.train, made.data.valid, made.tested.valid)
    search = classification_search(network)
    ranking = scored_by_loss(search, network)
    return _problem(search, ranking, network, splits, 100, rate=0.1, chunk=32, unit="error")


def mnist(source: str) -> CellProblem:
    """Cells of 4 nodes on images of MNIST: 1,000 validation images, the others of the training split to learn from.

    Raises:
        DataNotPreparedError: the images are not on this machine.
    """
    data = datasets.load(source)
    side = int(np.sqrt(data.inputs))

    def examples(split: Any, rows: slice) -> Examples:
        return Examples(
            jnp.asarray(split.inputs[rows]).reshape(-1, side, side), jnp.asarray(split.labels[rows], jnp.int32)
        )

    splits = (
        examples(data.train, slice(1000, None)),
        examples(data.train, slice(1000)),
        examples(data.test, slice(1000)),
    )
    network = convolutional_cell(data.classes)
    search = classification_search(network, batch=32, clip=5.0)
    return _problem(search, scored_by_loss(search, network), network, splits, 200, rate=0.1, chunk=1, unit="error")


def help_text() -> str:
    """The help topics that every Python carries, in the order of their names."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def characters(length: int = 32, symbols: int = 64) -> CellProblem:
    """Cells of 8 nodes as models of the characters of Python's help; rare characters are one symbol.

    The text is cut into pieces, of which every tenth is for validation and every tenth for testing.
    """
    text = help_text()
    alphabet = [character for character, _ in Counter(text).most_common(symbols - 1)]
    numbers = {character: i for i, character in enumerate(alphabet)}
    stream = np.array([numbers.get(character, symbols - 1) for character in text], np.int32)
    pieces = stream[: len(stream) // (length + 1) * (length + 1)].reshape(-1, length + 1)

    def examples(rows: np.ndarray) -> Examples:
        return Examples(jnp.asarray(rows[:, :-1]), jnp.asarray(rows[:, 1:]))

    part = np.arange(len(pieces)) % 10
    splits = (examples(pieces[part > 1]), examples(pieces[part == 0][:400]), examples(pieces[part == 1][:400]))
    network = recurrent_cell(symbols)
    search = sequence_search(network)  # its score is a loss
    return _problem(search, search, network, splits, 50, rate=10.0, chunk=8, unit="bits")
