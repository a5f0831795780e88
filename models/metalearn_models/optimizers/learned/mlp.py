"""LOLv2, one multilayer perceptron applied to each parameter by itself.

Metz, Freeman, Harrison, Maheswaranathan and Sohl-Dickstein 2022, "Practical tradeoffs between memory, compute, and
performance in learned optimizers" (arXiv 2203.11860), where it is the variant without factored features. Features,
constants, their order and the initialisation are those of the authors' published code (`MLPLOpt`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn_models.optimizers.contract import (
    TIMESCALES,
    Layers,
    LearnedOptimizer,
    NumSteps,
    dense_layers,
    float32,
    inverse_rms,
    require_params,
    time_features,
)
from metalearn_models.optimizers.frame import hold_still, read_gradient, transformation
from metalearn_models.optimizers.learned.parts.blocks import Block, fold_entries
from metalearn_models.optimizers.learned.parts.placement import loose_shape, repeated_zeros

__all__ = ["MLPOptimizerState", "mlp_optimizer"]

DECAYS = (0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
"""Decays of the momenta, per step."""

NORMALISED = 2 + len(DECAYS)
"""Number of features that are divided by their root mean square over the tensor; the 11 time features follow them."""


class MLPOptimizerState(NamedTuple):
    """What the optimizer remembers: six times the parameters, and a counter.

    Attributes:
        momenta: like params, with a leading axis for the six decays.
        step: number of updates so far.
    """

    momenta: Any
    step: Int[Array, ""]


def mlp_optimizer(
    hidden: tuple[int, ...] = (32, 32), step_size: float = 1e-3, exponent: float = 1e-3
) -> LearnedOptimizer:
    """The learned optimizer LOLv2.

    A ReLU network reads the gradient, the parameter and six momenta, each divided by its root mean square over the
    tensor, and eleven time features. Its outputs are d and m; the update is `-step_size d exp(exponent m)`.

    A gradient that is not finite makes the update and the memory of its tensor not finite, as in Adam; see
    `optax.apply_if_finite`.

    Args:
        hidden: widths of the network's hidden layers; the default makes 1,762 meta-parameters.
        step_size: factor on the updates; lambda_1 of the paper.
        exponent: factor on the output m inside the exponential; lambda_2 of the paper.

    Returns:
        The optimizer; theta is a tuple of `{"weight": [in, out], "bias": [out]}`. `num_steps` is ignored.

    Raises:
        ValueError: by `init`: a width is less than 1.
    """

    def init(key: PRNGKeyArray) -> Layers:
        return dense_layers(key, (NORMALISED + len(TIMESCALES), *hidden, 2))

    def transform(theta: Layers, num_steps: NumSteps | None = None) -> optax.GradientTransformationExtraArgs:
        del num_steps

        def start(params: optax.Params) -> MLPOptimizerState:
            momenta = jax.tree.map(lambda p: repeated_zeros(p, len(DECAYS)), params)
            return MLPOptimizerState(momenta, jnp.int32(0))

        def update(
            updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra: Any
        ) -> tuple[optax.Updates, MLPOptimizerState]:
            del extra
            leaves, tree = jax.tree.flatten(require_params(params))
            first = theta[0]["weight"]
            bias = theta[0]["bias"] + time_features(state.step) @ first[NORMALISED:]
            results = []
            for p, g, momenta in zip(leaves, *map(tree.flatten_up_to, (updates, state.momenta)), strict=True):
                shape = loose_shape(p)
                g, new = read_gradient(g).reshape(shape), momenta.reshape(len(DECAYS), *shape)
                new = _decay(new, g)
                step = _steps(theta, bias, (g[None], float32(p).reshape(shape)[None], new), step_size, exponent)
                results.append((step.reshape(p.shape).astype(p.dtype), new.reshape(momenta.shape)))
            updates, momenta = (tree.unflatten([r[i] for r in results]) for i in range(2))
            return updates, MLPOptimizerState(momenta, state.step + 1)

        return transformation(theta, start, update)

    return LearnedOptimizer(init, transform)


def _decay(momenta: Float[Array, "6 *S"], g: Float[Array, "*S"]) -> Float[Array, "6 *S"]:
    """The new momenta of one tensor."""
    decays, mixing = (jnp.array(xs, jnp.float32).reshape(-1, *[1] * g.ndim) for xs in (DECAYS, [1 - d for d in DECAYS]))
    return decays * momenta + mixing * g[None]


def _steps(
    layers: Layers, bias: Float[Array, "H"], rows: tuple[Array, ...], step_size: float, exponent: float
) -> Float[Array, "*S"]:
    """The steps of one tensor, in blocks: the hidden units of all its parameters would not fit a cache.

    The features of a block are put together there too. In one array of all, they would be written and read in memory
    as often as the momenta.

    The normaliser is part of the first weights, the time features are part of the first bias.

    Args:
        layers: of the network.
        bias: of the first layer.
        rows: the features [k, *S], in this order: gradient, parameter, momenta.
        step_size: see `mlp_optimizer`; so is `exponent`.
        exponent: factor on the magnitude inside the exponential.
    """
    axes = tuple(range(1, rows[0].ndim))
    scale = inverse_rms(jnp.concatenate([jnp.square(x).mean(axes) for x in rows]))
    first = layers[0]["weight"][:NORMALISED] * jnp.broadcast_to(scale[:, None], (NORMALISED, bias.size))
    layers = ({"weight": first, "bias": bias}, *layers[1:])

    def body(block: Block, steps: Array) -> Array:
        direction, magnitude = _outputs(layers, jnp.concatenate([block.of(x, 1) for x in rows]))
        return block.put(steps, -step_size * direction * jnp.exp(exponent * magnitude), 0)

    # Measured on a CPU: small tensors come in batches of training runs, which share the cache; large ones come alone.
    width = 128 if rows[0].size <= 8192 else 512
    return fold_entries(rows[0][0], width, body, jnp.zeros_like(rows[0][0]))


def _outputs(layers: Layers, x: Float[Array, "8 *S"]) -> Float[Array, "2 *S"]:
    """The network's outputs, 0 for parameters that hold still."""
    return hold_still(_forward(layers, x), x[:1], (x[i : i + 1] for i in range(2, NORMALISED)))


def _forward(layers: Layers, x: Float[Array, "D *S"]) -> Float[Array, "C *S"]:
    """The network, with parameters along the contiguous axis: all but the products are long vector operations."""
    for i, layer in enumerate(layers):
        x = jnp.tensordot(layer["weight"].T, jax.nn.relu(x) if i else x, 1)
        x = x + layer["bias"].reshape(-1, *[1] * (x.ndim - 1))
    return x
