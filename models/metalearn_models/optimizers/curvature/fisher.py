"""The Fisher matrix of the model's own predictions: what must be known of a loss, and two ways to take it.

The Fisher matrix is the mean over inputs of the covariance of the score, with labels drawn from the model, and not the
labels of the data (Kunstner, Balles and Hennig 2019, arXiv 1905.12558, on the difference). A loss function marks what
its predictions are; the mark changes nothing else:

    logits = mark_logits(jax.vmap(network, (None, 0))(params, x))
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

Sampled: one label per example, one more backward pass. Exact: all labels, as many backward passes as there are
outputs. Empirical: the labels of the data, `value_grad_and_statistics`, which needs no mark.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn_models.optimizers.curvature.layers import LayerStatistics
from metalearn_models.optimizers.curvature.tracing.perturbed import MARK, Unknown, check_unknown, gather, trace_function

__all__ = [
    "mark_logits",
    "mark_means",
    "value_grad_and_exact_statistics",
    "value_grad_and_sampled_statistics",
    "value_grad_and_sampled_statistics_if",
]

Columns = Callable[[str, Array, Any], Array]
"""`(name of the mark, marked values, key) -> cotangents[K, ...]` whose outer products sum to their Fisher matrix."""


def mark_logits(logits: Float[Array, "*B C"]) -> Float[Array, "*B C"]:
    """Say that a loss is the negative log-likelihood of classes with these logits.

    Args:
        logits: of all examples; the last axis counts the classes. Mark them outside of `jax.vmap`.

    Returns:
        The logits.
    """
    return checkpoint_name(logits, f"{MARK}classes")


def mark_means(means: Float[Array, "*B C"], precision: float = 1.0) -> Float[Array, "*B C"]:
    """Say that a loss is, up to a constant, the negative log-likelihood of normal values with these means.

    Args:
        means: of all examples. Mark them outside of `jax.vmap`.
        precision: inverse variance: 1 for half the squared error, 2 for the squared error.

    Returns:
        The means.

    Raises:
        ValueError: the precision is not positive.
    """
    if not precision > 0:
        raise ValueError(f"precision must be positive, got {precision}")
    return checkpoint_name(means, f"{MARK}{float(precision)!r}")


def value_grad_and_sampled_statistics(
    loss_fn: Callable[..., Any], has_aux: bool = False, unknown: Unknown = "warn"
) -> Callable[..., tuple[Any, Any, dict[str, LayerStatistics]]]:
    """As `value_grad_and_statistics`, with `fisher_grads` of labels drawn from the model (Monte Carlo Fisher).

    Args:
        loss_fn: `(params, *args, **kwargs) -> loss`, with one call of `mark_logits` or `mark_means`.
        has_aux: `loss_fn` returns `(loss, aux)`.
        unknown: parameters of two or more axes without statistics are named in a warning, in an error, or not at all.

    Returns:
        `(key, params, *args, **kwargs) -> (loss, grads, statistics)`, or with `(loss, aux)` in place of the loss. It
        raises ValueError unless the loss function has exactly one mark.

    Raises:
        UnknownNameError: `unknown` is none of the three.
    """
    compute = _with_columns(loss_fn, has_aux, unknown, _sampled_columns)
    return lambda key, params, *args, **kwargs: compute(None, key, params, *args, **kwargs)


def value_grad_and_sampled_statistics_if(
    loss_fn: Callable[..., Any], has_aux: bool = False, unknown: Unknown = "warn"
) -> Callable[..., tuple[Any, Any, dict[str, LayerStatistics]]]:
    """As `value_grad_and_sampled_statistics`, without the backward pass for a Fisher matrix that nobody reads.

        loss, grads, statistics = step(reads_statistics(state), key, params, x, y)
        updates, state = tx.update(grads, state, params, statistics=statistics)

    Args:
        loss_fn: as there.
        has_aux: as there.
        unknown: as there.

    Returns:
        `(wanted, key, params, *args, **kwargs) -> (loss, grads, statistics)`, whose `fisher_grads` are 0 unless the
        scalar `wanted` is true. Inputs and output gradients are there in either case. It raises ValueError unless the
        loss function has exactly one mark.

    Raises:
        UnknownNameError: `unknown` is none of the three.
    """
    return _with_columns(loss_fn, has_aux, unknown, _sampled_columns)


def value_grad_and_exact_statistics(
    loss_fn: Callable[..., Any], has_aux: bool = False, unknown: Unknown = "warn"
) -> Callable[..., tuple[Any, Any, dict[str, LayerStatistics]]]:
    """As `value_grad_and_statistics`, with `fisher_grads` of all labels: K is the number of an example's outputs.

    Args:
        loss_fn: as in `value_grad_and_sampled_statistics`.
        has_aux: as there.
        unknown: as there.

    Returns:
        `(params, *args, **kwargs) -> (loss, grads, statistics)`, or with `(loss, aux)` in place of the loss. It
        raises ValueError unless the loss function has exactly one mark.

    Raises:
        UnknownNameError: `unknown` is none of the three.
    """
    compute = _with_columns(loss_fn, has_aux, unknown, _exact_columns)
    return lambda params, *args, **kwargs: compute(None, None, params, *args, **kwargs)


def _with_columns(loss_fn: Callable[..., Any], has_aux: bool, unknown: Unknown, columns: Columns) -> Callable[..., Any]:
    check_unknown(unknown)

    def compute(
        wanted: Any, key: Any, params: Any, *args: Any, **kwargs: Any
    ) -> tuple[Any, Any, dict[str, LayerStatistics]]:
        traced = trace_function(lambda p: loss_fn(p, *args, **kwargs), params, unknown)
        if len(traced.marks) != 1:
            raise ValueError(
                "the Fisher matrix needs the model's predictions: call mark_logits(logits) or mark_means(means) once "
                f"in the loss function, outside of scan, cond and custom derivatives; got {len(traced.marks)} calls"
            )
        (place, name), *_ = traced.marks.items()

        def whole(params: Any, perturbations: Any) -> tuple[tuple[Array, Array], tuple[Any, dict[str, Array]]]:
            result, inputs, outputs = traced.evaluate(params, perturbations)
            loss, aux = result if has_aux else (result, None)
            return (loss, outputs[place]), (aux, inputs)

        (loss, outputs), pullback, (aux, inputs) = jax.vjp(whole, params, traced.zeros, has_aux=True)
        grads, slopes = pullback((jnp.ones_like(loss), jnp.zeros_like(outputs)))

        def fisher() -> dict[str, Array]:
            scores = jax.lax.stop_gradient(columns(name.removeprefix(MARK), outputs, key))
            pull = lambda score: pullback((jnp.zeros_like(loss), score))[1]  # noqa: E731
            return jax.tree.map(lambda x: x[None], pull(scores[0])) if len(scores) == 1 else jax.vmap(pull)(scores)

        if wanted is None:
            found = fisher()
        else:
            nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(fisher))
            found = jax.lax.cond(wanted, fisher, lambda: nothing)
        statistics = gather(traced.products, inputs, slopes, grads, found)
        return (loss, aux) if has_aux else loss, grads, statistics

    return compute


def _sampled_columns(kind: str, outputs: Float[Array, "*B C"], key: PRNGKeyArray | None) -> Float[Array, "1 *B C"]:
    if key is None:
        raise ValueError(
            "labels are drawn from the model with a random key, got key=None: where there is none, take the exact or "
            "the empirical Fisher matrix"
        )
    if kind == "classes":
        drawn = jax.random.categorical(key, outputs)
        return (jax.nn.softmax(outputs) - jax.nn.one_hot(drawn, outputs.shape[-1], dtype=outputs.dtype))[None]
    return float(kind) ** 0.5 * jax.random.normal(key, (1, *outputs.shape), outputs.dtype)


def _exact_columns(kind: str, outputs: Float[Array, "*B C"], key: Any) -> Float[Array, "K *B C"]:
    """One column per position of an example and class, all others of its positions being 0."""
    del key
    classes = outputs.shape[-1]
    each = jnp.expand_dims(jnp.eye(classes, dtype=outputs.dtype), tuple(range(outputs.ndim - 1)))
    if kind == "classes":
        p = jax.nn.softmax(outputs)
        columns = jnp.sqrt(p)[..., :, None] * (p[..., None, :] - each)
    else:
        columns = jnp.broadcast_to(float(kind) ** 0.5 * each, (*outputs.shape, classes))
    columns = jnp.moveaxis(columns, -2, 0)  # [C, *B, C]
    if outputs.ndim <= 2:
        return columns
    at = jnp.eye(outputs[0, ..., 0].size, dtype=outputs.dtype).reshape(-1, 1, 1, *outputs.shape[1:-1], 1)
    return rearrange(at * columns[None], "p c ... -> (p c) ...")
