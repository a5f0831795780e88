"""What is refused, and with which words."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn_models.sparsity import gradual_pruning, rigl, set_rule, snfs, sparse, sparse_with_masks, static
from tests.models.sparsity import cases


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: rigl(end=100, every=0), r"every \(Delta T\) is at least 1 step, got 0"),
        (lambda: set_rule(end=100, alpha=1.5), r"alpha is a share of the connections, in \[0, 1\], got 1.5"),
        (lambda: snfs(end=100, decay=1.0), r"decay of a running mean is in \[0, 1\), got 1.0"),
        (lambda: rigl(end=50, start=60), "end must be after start, got end=50 and start=60; end=0 never changes"),
        (lambda: rigl(end=-1), "end is a step, at least 0, got -1"),
        (lambda: rigl(end=9, start=-3), "start is a step, at least 0, got -3"),
        (lambda: gradual_pruning(end=100, every=-5), "at least 1 step, got -5"),
        (lambda: gradual_pruning(end=100, start=100), "needs 0 <= start < end, got start=100 and end=100"),
        (lambda: gradual_pruning(end=750), "no change falls on end=750, .* end=700 or end=800 reaches it"),
        (lambda: gradual_pruning(end=50, start=10), "no change falls on end=50, .*: end=110 reaches it"),
    ],
)
def test_rules_that_make_no_cycle_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_sparsity_that_leaves_nothing_is_refused_before_anything_is_drawn():
    params = cases.params()
    with pytest.raises(ValueError, match=r"in \[0, 1\), got 1.0"):
        sparse(cases.INNER, static(), sparsity=1.0).init(params)
    with pytest.raises(ValueError, match=r"leaves the layer b of shape \(9, 4\) without connections"):
        sparse(cases.INNER, static(), lambda shapes, sparsity: {"a": 0.5, "b": 0.001}, 0.5).init(params)


def test_masks_of_other_parameters_are_refused():
    params, mask = cases.params(), jnp.ones((6, 9), bool)
    with pytest.raises(ValueError, match=r"mask of a needs its shape \(6, 9\), got \(9, 6\)"):
        sparse_with_masks(cases.INNER, static(), {"a": mask.T, "b": None, "bias": None}).init(params)
    with pytest.raises(TypeError, match="mask of a must be boolean, got float32"):
        sparse_with_masks(cases.INNER, static(), {"a": mask.astype(jnp.float32), "b": None, "bias": None}).init(params)
    with pytest.raises(ValueError, match="masks need the structure of the parameters, with None for dense leaves"):
        sparse_with_masks(cases.INNER, static(), {"a": mask}).init(params)
    tx: Any = sparse(cases.INNER, static())
    state = tx.init(params)
    with pytest.raises(ValueError, match=r"mask of a needs its shape \(6, 8\), got \(6, 9\)"):
        other = {**params, "a": params["a"][:, :8]}
        tx.update(other, state, other)


def test_a_state_of_another_rule_is_refused_and_says_how_to_continue():
    params = cases.params()
    tx: Any = sparse(cases.INNER, set_rule(end=9))
    state = tx.init(params)
    with pytest.raises(ValueError, match="made under the rule set, and the optimizer has rigl: continue with the rule"):
        sparse(cases.INNER, rigl(end=9)).update(params, state, params)
    go_on: Any = sparse_with_masks(cases.INNER, rigl(end=9), state.masks)
    jax.tree.map(np.testing.assert_array_equal, go_on.init(params).masks, state.masks)
    with pytest.raises(ValueError, match="SparseState that their init made, got EmptyState"):
        tx.update(params, optax.EmptyState(), params)
    with pytest.raises(ValueError, match=r"call update\(grads, state, params\), got None"):
        tx.update(params, state)
