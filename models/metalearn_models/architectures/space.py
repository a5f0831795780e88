"""Search spaces as data: an architecture is a row of small integers, one per choice.

A space is a list of choices, each with a name and its options. An architecture is the array of the numbers of its
options, so a population is an integer matrix, and one compiled program can train all of it. Every architecture also has
one number, by mixed radix with the last choice fastest; it names the architecture in files and on the command line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from metalearn.errors import unknown_name
from metalearn.runs.json_values import as_json

__all__ = ["Choice", "Space", "make_space"]

Option = str | int | float


class Choice(NamedTuple):
    """One choice of a space.

    Attributes:
        name: of the choice, such as "node 2 operation".
        options: what it can be; no two are equal.
    """

    name: str
    options: tuple[Option, ...]


class Space(NamedTuple):
    """All combinations of some choices; make it with `make_space`, which checks them.

    Attributes:
        name: of the space, which its results carry.
        choices: in the order of the columns of the codes.
    """

    name: str
    choices: tuple[Choice, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of options of each choice."""
        return tuple(len(choice.options) for choice in self.choices)

    @property
    def architectures(self) -> int:
        """The number of architectures, a Python integer of any size."""
        return math.prod(self.sizes)

    def sample(self, key: PRNGKeyArray) -> Int[Array, "C"]:
        """Draw one architecture uniformly; works inside compiled functions."""
        return jax.random.randint(key, (len(self.choices),), 0, jnp.array(self.sizes, jnp.int32), jnp.int32)

    def draw(self, key: PRNGKeyArray, n: int) -> Int[np.ndarray, "N C"]:
        """Draw n different architectures uniformly; all of them in a fixed order if n is not below `architectures`.

        Raises:
            ValueError: n is below 1.
        """
        if n < 1:
            raise ValueError(f"the number of architectures must be at least 1, got {n}")
        if n >= self.architectures:
            return self.enumerate()
        seed = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        if self.architectures <= 2**20:
            numbers = seed.permutation(self.architectures)[:n].tolist()
        else:  # a duplicate is rare in such a space, and drawn again
            found: dict[int, None] = {}
            while len(found) < n:
                found[self.number(np.array([seed.integers(size) for size in self.sizes], np.int32))] = None
            numbers = list(found)
        return np.stack([self.code(number) for number in numbers])

    def enumerate(self) -> Int[np.ndarray, "N C"]:
        """All architectures in the order of their numbers.

        Raises:
            ValueError: there are more than a million.
        """
        if self.architectures > 2**20:
            raise ValueError(
                f"{self.name} has {self.architectures:,} architectures, too many to list: draw some of them"
            )
        columns = np.unravel_index(np.arange(self.architectures), self.sizes)
        return np.stack(columns, 1).astype(np.int32)

    def number(self, code: Int[np.ndarray, "C"]) -> int:
        """The number of an architecture.

        Raises:
            ValueError: the code has another length, or an entry is no option of its choice.
        """
        values = [int(value) for value in code]
        if len(values) != len(self.choices):
            raise ValueError(f"a code of {self.name} has {len(self.choices)} entries, got {len(values)}")
        number = 0
        for value, choice in zip(values, self.choices, strict=True):
            if not 0 <= value < len(choice.options):
                raise ValueError(f"{choice.name} must be from 0 to {len(choice.options) - 1}, got {value}")
            number = number * len(choice.options) + value
        return number

    def code(self, number: int) -> Int[np.ndarray, "C"]:
        """The code of the architecture of a number.

        Raises:
            ValueError: no architecture has it.
        """
        if not 0 <= number < self.architectures:
            raise ValueError(f"{self.name} has architectures 0 to {self.architectures - 1}, got {number}")
        code = []
        for size in reversed(self.sizes):
            number, value = divmod(number, size)
            code.append(value)
        return np.array(code[::-1], np.int32)

    def describe(self, code: Int[np.ndarray, "C"]) -> dict[str, Option]:
        """The options of an architecture by the names of the choices."""
        self.number(code)
        return {choice.name: choice.options[int(value)] for choice, value in zip(self.choices, code, strict=True)}

    def read(self, options: Mapping[str, Option]) -> Int[np.ndarray, "C"]:
        """The code of an architecture given in words, the inverse of `describe`.

        Raises:
            UnknownNameError: a choice or an option has no such name; with the nearest names.
            ValueError: a choice is missing.
        """
        names = [choice.name for choice in self.choices]
        for name in options:
            if name not in names:
                raise unknown_name("choice", name, names)
        if missing := [name for name in names if name not in options]:
            raise ValueError(f"an architecture of {self.name} also needs {', '.join(missing)}")
        code = []
        for choice in self.choices:
            option = options[choice.name]
            if option not in choice.options:
                raise unknown_name(choice.name, str(option), map(str, choice.options))
            code.append(choice.options.index(option))
        return np.array(code, np.int32)

    def as_json(self) -> dict[str, object]:
        """The JSON values by which results know their space."""
        return as_json({"name": self.name, "choices": {c.name: list(c.options) for c in self.choices}})


def make_space(name: str, choices: Mapping[str, Sequence[Option]]) -> Space:
    """A space of all combinations.

    Args:
        name: of the space.
        choices: options by the name of the choice. A choice with a single option is allowed and costs nothing.

    Raises:
        ValueError: there is no choice, or a choice has no option or one twice; the space would have no architecture.
    """
    if not choices:
        raise ValueError(f"the space {name} has no choice and so no architecture")
    for choice, options in choices.items():
        if not options:
            raise ValueError(f"{choice} of the space {name} has no option, so the space has no architecture")
        if len(set(options)) < len(options):
            raise ValueError(f"{choice} of the space {name} has an option twice: {', '.join(map(str, options))}")
    return Space(name, tuple(Choice(choice, tuple(options)) for choice, options in choices.items()))
