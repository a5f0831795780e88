"""Multinomial logistic regression with an L2 penalty, refitted after every example from a warm start.

The optimum that scikit-learn's `LogisticRegression` finds, by bound majorisation (Böhning 1992, "Multinomial
logistic regression algorithm"). A softmax's Hessian never exceeds 1/2, so each iteration is a ridge regression
with an unpenalised intercept on working responses, and all iterations between two examples share one inverse
matrix. They update the examples' fitted values through their Gram matrix, and are accelerated (Nesterov 1983,
restarted as in O'Donoghue and Candès 2015). No LAPACK routine is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn.learner import Labels, Learner, Signature
from metalearn.ranges import Positive, Steps
from metalearn_models.learners._common import check_settings, dot, no_theta
from metalearn_models.learners.reference.neighbours import UNSEEN

__all__ = ["LogisticConfig", "LogisticState", "logistic"]

CONDITION = 1e-3
"""Smallest ridge of the bound, relative to the first example's squared length: the least that float32 can invert. With
a weaker penalty, the steps are shorter and the optimum is the same."""


class _Fit(NamedTuple):
    """One iterate: coefficients of the examples, the examples' fitted logits, one intercept per class.

    Its rows are classes. Most arithmetic is along the examples, of which there are more: on a CPU, an iteration takes
    half the time that it takes with rows of ten classes.
    """

    dual: Float[Array, "C T"]
    fitted: Float[Array, "C T"]
    intercept: Float[Array, "C"]


class LogisticState(NamedTuple):
    """The examples so far and the fit to them: `logits = intercept + sum_i dual_i <x_i, x>`.

    Attributes:
        xs: examples; rows `stored` and later are 0.
        one_hot: their labels; rows `stored` and later are 0.
        inverse: of (Gram matrix + ridge I) of the first `stored` examples; the rest is 0.
        ridge: set at the first example, see `CONDITION`.
        dual: coefficients of the examples.
        intercept: one value per class.
        stored: number of examples.
    """

    xs: Float[Array, "T D"]
    one_hot: Float[Array, "T C"]
    inverse: Float[Array, "T T"]
    ridge: Float[Array, ""]
    dual: Float[Array, "T C"]
    intercept: Float[Array, "C"]
    stored: Int[Array, ""]


@dataclass(frozen=True)
class LogisticConfig:
    """Multinomial logistic regression with an L2 penalty."""

    inverse_penalty: Positive = 10.0
    """scikit-learn's C: multiplies the sum of cross-entropies; half the sum of squared weights is added. The default is
    our choice, tuned on randomly projected digits (16 inputs of unit variance); accuracy is flat from 3 to 30."""
    iterations: Steps = 80
    """Accelerated steps after each example, from the previous solution. For the same precision (probabilities within
    0.01), a C ten times smaller needs half as many; a larger C needs more."""


def logistic(signature: Signature, config: LogisticConfig = LogisticConfig()) -> Learner:
    """Penalised multinomial logistic regression on all examples so far.

    Minimises `C sum_i cross-entropy_i + |W|^2 / 2` with a free intercept over the classes seen so far, as
    scikit-learn does; classes without an example get the logit `UNSEEN`. With exactly two classes, this is still the
    softmax of two weight vectors. Its optimum is that of scikit-learn's one vector at twice the C. Before any example,
    all logits are 0. The memory holds `signature.length` examples; later ones are ignored.

    Args:
        signature: shapes of the task; classification.
        config: penalty and number of steps.

    Returns:
        A learner without meta-parameters.

    Raises:
        ValueError: a field of `config` or of `signature` is out of range, which is named;
            a regression signature.
    """
    check_settings(signature, config)
    if signature.regression:
        raise ValueError(f"logistic regression predicts classes, got the regression signature {signature}")
    length, inputs, outputs = signature.length, signature.inputs, signature.outputs
    # C/4 sum |u_i - b - W x_i|^2 + |W|^2 / 2, the bound for working responses u, is a ridge regression of this penalty
    penalty = 2 / config.inverse_penalty

    def start(theta: Any, key: PRNGKeyArray) -> LogisticState:
        del theta, key
        return LogisticState(
            jnp.zeros((length, inputs), jnp.float32),
            jnp.zeros((length, outputs), jnp.float32),
            jnp.zeros((length, length), jnp.float32),
            jnp.float32(penalty),
            jnp.zeros((length, outputs), jnp.float32),
            jnp.zeros(outputs, jnp.float32),
            jnp.int32(0),
        )

    def predict(theta: Any, state: LogisticState, x: Float[Array, "D"]) -> Float[Array, "C"]:
        del theta
        logits = dot(dot(state.xs, x), state.dual) + state.intercept
        seen = state.one_hot.any(0)
        return jnp.where(seen, logits, jnp.where(seen.any(), UNSEEN, 0.0))

    def observe(theta: Any, state: LogisticState, x: Float[Array, "D"], y: Labels) -> LogisticState:
        del theta
        first = state.stored == 0
        ridge = jnp.where(first, jnp.maximum(penalty, CONDITION * dot(x, x)), state.ridge)
        inverse = jnp.where(state.stored < length, grow_inverse(state, ridge, x), state.inverse)
        xs = state.xs.at[state.stored].set(x, mode="drop")
        one_hot = state.one_hot.at[state.stored].set(jax.nn.one_hot(y, outputs, dtype=jnp.float32), mode="drop")
        fitted = dot(xs, dot(xs.T, state.dual)) + state.intercept[None]
        dual, intercept = fit(inverse, ridge, one_hot, _Fit(state.dual.T, fitted.T, state.intercept))
        return LogisticState(xs, one_hot, inverse, ridge, dual, intercept, state.stored + 1)

    def grow_inverse(state: LogisticState, ridge: Float[Array, ""], x: Float[Array, "D"]) -> Float[Array, "T T"]:
        """The inverse of (Gram matrix + ridge I) with one more example."""
        column = dot(state.xs, x)
        solved = dot(state.inverse, column)
        # One step of iterative refinement: the inverse is in float32, and its rounding errors would accumulate.
        residual = column - dot(state.xs, dot(state.xs.T, solved)) - ridge * solved
        solved = solved + dot(state.inverse, residual)
        corner = jnp.maximum(dot(x, x) - dot(column, solved), 0.0) + ridge
        row = jax.nn.one_hot(state.stored, length, dtype=jnp.float32) - solved
        return state.inverse + jnp.outer(row, row) / corner

    def fit(inverse: Array, ridge: Array, one_hot: Array, begin: _Fit) -> tuple[Array, Array]:
        one_hot = one_hot.T
        known, seen = one_hot.any(0)[None], one_hot.any(1)[:, None]
        sums = inverse.sum(1)  # the inverse is symmetric

        def minimise_bound(at: _Fit) -> _Fit:
            probabilities = jax.nn.softmax(jnp.where(seen, at.fitted, UNSEEN), axis=0)
            # At the optimum, dual = C (one_hot - probabilities); the free intercept keeps the sum of each class 0
            gap = jnp.where(known, 2 * (one_hot - probabilities) - penalty * at.dual, 0.0)
            intercept = dot(gap, sums) / sums.sum()
            dual = dot(gap, inverse) - intercept[:, None] * sums[None]
            return _Fit(at.dual + dual, at.fitted + gap - ridge * dual, at.intercept + intercept)

        def body(_: Array, carry: tuple[_Fit, _Fit, Array]) -> tuple[_Fit, _Fit, Array]:
            ahead, old, age = carry
            new = minimise_bound(ahead)
            # Momentum that points uphill is dropped: (ahead - new) is the gradient at `ahead`, preconditioned
            uphill = jnp.sum((ahead.fitted - new.fitted) * (new.fitted - old.fitted)) > 0
            age = jnp.where(uphill, 1.0, age + 1)
            momentum = jnp.where(uphill, 0.0, (age - 1) / (age + 2))
            return jax.tree.map(lambda new, old: new + momentum * (new - old), new, old), new, age

        begin = begin._replace(fitted=jnp.where(known, begin.fitted, 0.0))
        ahead, *_ = jax.lax.fori_loop(0, config.iterations - 1, body, (begin, begin, jnp.float32(1)))
        end = minimise_bound(ahead)
        return end.dual.T, end.intercept

    size = length * (inputs + 2 * outputs + length) + outputs + 1
    return Learner(no_theta, start, predict, observe, None, size, signature)
