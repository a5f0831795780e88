"""A generator as an optimizer: one or several jumps to a wished loss, then Adam.

Peebles, Radosavovic, Brooks, Efros and Malik 2022, "Learning to learn with generative models of neural network
checkpoints" (arXiv 2209.12892): an update replaces the parameters by proposed ones. Several jumps, each from where the
last one ended, are the paper's recursive prompting. Adam afterwards is our choice.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn_models.optimizers.contract import LearnedOptimizer, NumSteps, require_loss, require_params
from metalearn_models.optimizers.gpt.generator import Generator, GeneratorConfig, Scales, jump, make_generator
from metalearn_models.optimizers.gpt.tokens import Tokeniser, chunk_tokens, hidden_unit_tokens
from metalearn_models.optimizers.gpt.transformer import TransformerConfig, init_transformer

__all__ = ["GPTState", "gpt_optimizer", "mlp_shapes", "pack_theta", "tokens_of", "unflatten_like"]

TIMES = 1000
"""Steps of the noise process, each of which has an error of the prediction."""


class GPTState(NamedTuple):
    """What the optimizer remembers.

    Attributes:
        adam: of the steps after the jumps.
        step: number of updates so far.
    """

    adam: Any
    step: Int[Array, ""]


def gpt_optimizer(
    widths: tuple[int, ...] = (64, 16, 10),
    tokens: Literal["units", "chunks"] = "units",
    chunk: int = 256,
    generator: Mapping[str, Any] | None = None,
    prompt: float | None = None,
    jumps: int = 1,
    learning_rate: float = 0.01,
    seed: int = 0,
) -> LearnedOptimizer:
    """A learned optimizer that proposes parameters instead of steps.

    `update` needs `params` and `value=loss`, the present loss on the examples that the checkpoints were measured by. A
    loss that is not finite and positive makes no jump; a gradient that is not finite makes no step of Adam's. All
    trainings with one seed see the same noise.

    Args:
        widths: inputs, hidden layers and outputs of the multilayer perceptron whose checkpoints it has learned from; it
            optimises no other network.
        tokens: "units" or "chunks", see `metalearn_models.optimizers.gpt.tokens`.
        chunk: numbers per chunk.
        generator: fields of `GeneratorConfig`, as JSON values. None: the defaults.
        prompt: the wished loss. None: the lowest loss of the checkpoints.
        jumps: updates that replace the parameters; all further ones are Adam's.
        learning_rate: of Adam. 0: the parameters rest after the jumps.
        seed: of the noise of diffusion and flow.

    Returns:
        The optimizer; theta is that of `pack_theta`.

    Raises:
        ValueError: numbers out of range; by `update`, params of another network, or a missing loss.
    """
    if jumps < 0 or not (prompt is None or prompt > 0) or not learning_rate >= 0:
        raise ValueError(
            f"jumps and learning_rate must be at least 0 and the prompt a positive loss, got {jumps}, {learning_rate} "
            f"and {prompt}"
        )
    like, tokeniser, config = mlp_shapes(widths), tokens_of(widths, tokens, chunk), _config(generator)
    unflatten = unflatten_like(widths)

    def init(key: PRNGKeyArray) -> dict[str, Any]:
        size = tokeniser.size
        scales = Scales(jnp.zeros(size), jnp.ones(size), jnp.array([1e-3, 10.0], jnp.float32))
        made = make_generator(config, tokeniser, scales)
        return pack_theta(made, init_transformer(config.network, tokeniser, key))

    def transform(theta: dict[str, Any], num_steps: NumSteps | None = None) -> optax.GradientTransformationExtraArgs:
        del num_steps
        made = make_generator(config, tokeniser, Scales(theta["mean"], theta["scale"], theta["losses"]))
        wished = theta["losses"][0] if prompt is None else jnp.float32(prompt)
        _warn_outside(theta["losses"], prompt)
        adam = optax.adam(learning_rate)

        def start(params: optax.Params) -> GPTState:
            _check_network(params, like)
            with jax.numpy_dtype_promotion("standard"):  # optax relies on it
                return GPTState(adam.init(params), jnp.int32(0))

        def update(
            updates: optax.Updates, state: Any, params: optax.Params | None = None, *, value: Any = None, **extra: Any
        ) -> tuple[optax.Updates, GPTState]:
            del extra
            params, now = require_params(params), require_loss(value)
            _check_network(params, like)
            known = jnp.isfinite(now) & (now > 0)
            fine = jnp.stack([jnp.isfinite(g).all() for g in jax.tree.leaves(updates)]).all()

            def leap() -> tuple[Any, Any]:
                key = jax.random.fold_in(jax.random.key(seed), state.step)
                flat = jnp.concatenate([x.astype(jnp.float32).reshape(-1) for x in jax.tree.leaves(params)])
                new = jump(made, theta["network"], flat, jnp.where(known, now, 1.0), wished, key, theta["errors"])
                moved = jnp.where(known & jnp.isfinite(new).all(), new - flat, 0.0)
                return jax.tree.map(lambda m, p: m.astype(p.dtype), unflatten(moved), params), state.adam

            def walk() -> tuple[Any, Any]:
                with jax.numpy_dtype_promotion("standard"):
                    moved, memory = adam.update(updates, state.adam, params)
                moved = jax.tree.map(lambda m, p: jnp.where(fine, m, 0).astype(p.dtype), moved, params)
                return moved, jax.tree.map(lambda new, old: jnp.where(fine, new, old), memory, state.adam)

            moved, memory = jax.lax.cond(state.step < jumps, leap, walk)
            return moved, GPTState(memory, state.step + 1)

        return optax.GradientTransformationExtraArgs(start, update)

    return LearnedOptimizer(init, transform)


def pack_theta(generator: Generator, network: Any, errors: Float[Array, "T"] | None = None) -> dict[str, Any]:
    """The meta-parameters of `gpt_optimizer`: the Transformer, the scales, and the errors of its prediction.

    Args:
        generator: whose scales these are.
        network: weights of its Transformer.
        errors: at each time of the noise process. None: not measured, taken as 0, which makes small variances.
    """
    scales = {name: jnp.asarray(x, jnp.float32) for name, x in generator.scales._asdict().items()}
    known = jnp.zeros(TIMES, jnp.float32) if errors is None else jnp.asarray(errors, jnp.float32)
    return {"network": network, "errors": known, **scales}


def tokens_of(widths: tuple[int, ...], tokens: str, chunk: int = 256) -> Tokeniser:
    """The tokeniser of a multilayer perceptron.

    Raises:
        ValueError: there is no such tokeniser, or the network has none of this kind.
    """
    like = mlp_shapes(widths)
    if tokens not in ("units", "chunks"):
        raise ValueError(f"tokens must be units or chunks, got {tokens!r}")
    return hidden_unit_tokens(like) if tokens == "units" else chunk_tokens(like, chunk)


def mlp_shapes(widths: tuple[int, ...]) -> tuple[dict[str, jax.ShapeDtypeStruct], ...]:
    """The shapes of the parameters of `metalearn_models.networks.mlp`.

    Raises:
        ValueError: fewer than two widths, or one below 1.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths are those of inputs, hidden layers and outputs, each at least 1, got {widths}")
    return tuple(
        {"bias": jax.ShapeDtypeStruct((b,), jnp.float32), "weight": jax.ShapeDtypeStruct((a, b), jnp.float32)}
        for a, b in pairwise(widths)
    )


def unflatten_like(widths: tuple[int, ...]) -> Callable[[Float[Array, "P"]], Any]:
    """The function that makes the parameters of a multilayer perceptron from flat ones, in the order of `ravel_pytree`.

    Raises:
        ValueError: as in `mlp_shapes`.
    """
    leaves, tree = jax.tree.flatten(mlp_shapes(widths))
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]

    def unflatten(flat: Float[Array, "P"]) -> Any:
        parts = jnp.split(flat, ends)
        return tree.unflatten([x.reshape(leaf.shape) for x, leaf in zip(parts, leaves, strict=True)])

    return unflatten


def _config(values: Mapping[str, Any] | None) -> GeneratorConfig:
    """The configuration of JSON values.

    Raises:
        ValueError: a field has another name.
    """
    fields = dict(values or {})
    try:
        network = TransformerConfig(**fields.pop("network", dataclasses.asdict(TransformerConfig())))
        return GeneratorConfig(network=network, **fields)
    except TypeError as error:
        raise ValueError(f"generator takes the fields of GeneratorConfig, got {values}: {error}") from error


def _warn_outside(seen: Any, prompt: float | None) -> None:
    if prompt is None or isinstance(seen, Tracer):
        return
    low, high = (float(x) for x in seen)
    if not low <= prompt <= high:
        warnings.warn(
            f"the prompt {prompt:g} is outside of the losses that the generator has seen, {low:.4g} to {high:.4g}: "
            "what it proposes is an extrapolation",
            stacklevel=4,
        )


def _check_network(params: Any, like: Any) -> None:
    shapes = [[tuple(jnp.shape(x)) for x in jax.tree.leaves(tree)] for tree in (params, like)]
    if shapes[0] != shapes[1] or jax.tree.structure(params) != jax.tree.structure(like):
        sizes = [sum(int(np.prod(shape)) for shape in part) for part in shapes]
        raise ValueError(
            f"this generator was made for the {sizes[1]} parameters of a network with arrays of {shapes[1]}, got "
            f"{sizes[0]} parameters in arrays of {shapes[0]}"
        )
