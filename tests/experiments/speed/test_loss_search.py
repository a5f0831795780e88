"""The speed of candidate losses: what is timed trains, and PyTorch gets the same trees as the tables."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.speed import loss_search
from experiments.speed.loss_search import LossSearchSpeedConfig
from experiments.speed.peers._loss_search_torch import evaluate as evaluate_lists
from experiments.speed.peers.evomal import Work, one_at_a_time
from metalearn_models.losses.formulas import evaluate, parse


def test_equal_work_is_compared_and_the_rest_is_only_reported():
    config = LossSearchSpeedConfig(
        trees=1, population=2, hidden=4, steps=3, refinements=2, filter_steps=2, batch=16, repeats=2
    )
    result = loss_search.run(config)
    tables, *others = result["seconds"]
    assert list(result["ratios"]) == others  # no ratio holds the refinement or the filter, which the tables do without
    assert result["ratios"][others[0]] == pytest.approx(result["seconds"][others[0]] / result["seconds"][tables])
    assert result["ratios"]["JAX, one tree at a time, with compiling"] > result["ratios"]["JAX, one tree at a time"] > 0
    assert result["spread"][0] <= result["seconds"][tables] <= result["spread"][1]
    assert f"{result['ratios'][others[0]]:7.1f}x" in loss_search.format_result(result)


def test_trees_are_sound_and_different():
    trees = loss_search.sound_trees(5, 0)
    assert len(set(trees)) == 5 and not {parse("sub(f, y)"), parse("add(f, y)")} & set(trees)


def test_what_is_timed_one_at_a_time_learns():
    work = Work(steps=300, refinements=1, filter_steps=1, batch=64, repeats=1, seed=0)
    task, cross_entropy = loss_search.digits_task(16), parse("mul(-1, mul(y, log(f)))")
    assert one_at_a_time(task, cross_entropy, work)[1] < 0.2


class NumPyAsTorch:
    """The functions that a tree needs, under PyTorch's names."""

    add, subtract, multiply, minimum, maximum, sign = np.add, np.subtract, np.multiply, np.minimum, np.maximum, np.sign
    square, abs, log, sqrt, tanh, full_like = np.square, np.abs, np.log, np.sqrt, np.tanh, np.full_like
    rsqrt = staticmethod(lambda x: 1 / np.sqrt(x))
    clamp = staticmethod(lambda x, min: np.maximum(x, min))


@pytest.mark.parametrize("expr", loss_search.sound_trees(12, 1), ids=str)
def test_the_process_of_pytorch_computes_the_same_formulas(expr):
    f, y = np.float64([0.2, 0.7, 1e-9, 1.0]), np.float64([0.0, 1.0, 0.0, 1.0])
    found = evaluate_lists(NumPyAsTorch, loss_search._as_lists(expr), y, f)
    assert found == pytest.approx(
        np.asarray(evaluate(expr, None, jnp.asarray(y, "float32"), jnp.asarray(f, "float32"))), rel=1e-4, abs=1e-6
    )
