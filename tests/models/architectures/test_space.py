"""Spaces: counts, codes and numbers against enumeration, uniform draws, and bad input."""

import jax
import numpy as np
import pytest

from metalearn.errors import UnknownNameError
from metalearn_models.architectures import (
    convolutional_cell,
    feedforward_cell,
    learner_sizes,
    make_space,
    recurrent_cell,
)
from metalearn_models.learners.transformer import TransformerConfig

SPACE = make_space("toy", {"a": (1, 2), "b": ("x", "y", "z"), "c": (0.5,)})


def test_numbers_and_codes_are_inverse():
    codes = SPACE.enumerate()
    assert len(codes) == SPACE.architectures == 6 and len(set(map(tuple, codes))) == 6
    assert [SPACE.number(code) for code in codes] == list(range(6))
    for number, code in enumerate(codes):
        np.testing.assert_array_equal(SPACE.code(number), code)
        np.testing.assert_array_equal(SPACE.read(SPACE.describe(code)), code)
    assert SPACE.describe(codes[4]) == {"a": 2, "b": "y", "c": 0.5}


def test_the_cell_of_the_paper_has_as_many_architectures():
    paper = recurrent_cell(5).space
    assert paper.architectures == 2_642_411_520
    for number in (0, 12_345_678, paper.architectures - 1):
        assert paper.number(paper.code(number)) == number
    drawn = paper.draw(jax.random.key(0), 50)
    assert len({paper.number(code) for code in drawn}) == 50
    with pytest.raises(ValueError, match="2,642,411,520 architectures, too many to list"):
        paper.enumerate()
    assert feedforward_cell(4, 2).space.architectures == 162
    assert convolutional_cell(10).space.architectures == 180 * 8**8


def test_draws_are_uniform_and_differ():
    keys = jax.random.split(jax.random.key(1), 6000)
    codes = np.asarray(jax.jit(jax.vmap(SPACE.sample))(keys))
    counts = np.bincount([SPACE.number(code) for code in codes], minlength=6)
    assert ((counts - 1000) ** 2 / 1000).sum() < 20.5  # chi-square of 5 degrees, p = .001
    drawn = SPACE.draw(jax.random.key(2), 4)
    assert len({SPACE.number(code) for code in drawn}) == 4
    np.testing.assert_array_equal(SPACE.draw(jax.random.key(2), 99), SPACE.enumerate())


def test_bad_spaces_and_codes_are_refused():
    with pytest.raises(ValueError, match="no choice"):
        make_space("empty", {})
    with pytest.raises(ValueError, match="a of the space empty has no option"):
        make_space("empty", {"a": ()})
    with pytest.raises(ValueError, match="twice"):
        make_space("double", {"a": (1, 1)})
    with pytest.raises(ValueError, match="no choice and so no architecture"):
        feedforward_cell(4, 2, nodes=0)
    with pytest.raises(UnknownNameError, match="Did you mean 'tanh'"):
        feedforward_cell(4, 2, operations=("tahn",))
    with pytest.raises(UnknownNameError, match=r"unknown b 'w'.*x, y, z"):
        SPACE.read({"a": 1, "b": "w", "c": 0.5})
    with pytest.raises(UnknownNameError, match="unknown choice 'd'"):
        SPACE.read({"d": 1})
    with pytest.raises(ValueError, match="also needs b, c"):
        SPACE.read({"a": 1})
    with pytest.raises(ValueError, match="b must be from 0 to 2, got 3"):
        SPACE.number(np.array([0, 3, 0]))
    with pytest.raises(ValueError, match="has 3 entries, got 2"):
        SPACE.number(np.array([0, 3]))
    with pytest.raises(ValueError, match="0 to 5, got 6"):
        SPACE.code(6)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        SPACE.draw(jax.random.key(0), 0)


def test_sizes_of_learners_are_cells_of_a_sweep():
    space = learner_sizes("transformer")
    assert space.architectures == 4 * 3 * 4 * 3 * 2 * 2
    for code in space.draw(jax.random.key(3), 3):
        options = space.describe(code)
        sizes = {name.removeprefix("learner."): value for name, value in options.items() if name != "learner"}
        assert TransformerConfig(**sizes).width == options["learner.width"]
    assert learner_sizes("lstm").architectures == 10
    with pytest.raises(UnknownNameError, match="Did you mean 'lstm'"):
        learner_sizes("lstn")
