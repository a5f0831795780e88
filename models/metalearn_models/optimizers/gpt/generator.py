"""A generator of parameters: tokeniser, scales, network and way of sampling; one jump from present to wished.

Three methods share one network, which predicts the wished parameters: "diffusion" (Peebles et al. 2022, arXiv
2209.12892), "flow" (rectified flow), and "regression", the control that sees no noise at all and jumps to the mean.

Shapes: P parameters.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.ranges import Steps
from metalearn_models.optimizers.gpt.diffusion import (
    Schedule,
    Variance,
    linear_schedule,
    respace,
    sample_diffusion,
)
from metalearn_models.optimizers.gpt.flow import sample_flow
from metalearn_models.optimizers.gpt.tokens import Tokeniser
from metalearn_models.optimizers.gpt.transformer import TransformerConfig, apply_transformer, init_transformer

__all__ = ["Generator", "GeneratorConfig", "Method", "Scales", "fit_generator_scales", "jump", "make_generator"]

Method = Literal["diffusion", "flow", "regression"]
"""How wished parameters are drawn."""

SPREAD = 0.538
"""Standard deviation to which parameters are scaled, that of the released code; ours is reached per number."""


@dataclass(frozen=True)
class GeneratorConfig:
    """How wished parameters are drawn, and by which network."""

    method: Method = "diffusion"
    """diffusion, flow, or regression, the control without noise."""
    network: TransformerConfig = field(default_factory=TransformerConfig)
    """The Transformer."""
    steps: Steps = 50
    """Steps of the sampler: 1,000 in the paper. Regression takes one."""
    variance: Variance = "learned"
    """Of the steps of diffusion; the released code has "large" with 1,000 steps."""

    @property
    def predictions(self) -> int:
        """How often the network is evaluated in one jump."""
        return {"regression": 1, "diffusion": self.steps, "flow": 2 * self.steps - 1}[self.method]


class Scales(NamedTuple):
    """What makes parameters of order one, fitted on training runs.

    Attributes:
        mean: of each parameter; hidden units share theirs.
        scale: standard deviation over `SPREAD`.
        losses: the least and the greatest loss seen.
    """

    mean: Float[Any, "P"]
    scale: Float[Any, "P"]
    losses: Float[Any, "2"]


class Generator(NamedTuple):
    """What does not change in training.

    Attributes:
        config: method and network.
        tokeniser: of the network whose parameters are generated.
        scales: of its parameters.
        schedule: the whole noise process of diffusion.
    """

    config: GeneratorConfig
    tokeniser: Tokeniser
    scales: Scales
    schedule: Schedule

    def init(self, key: PRNGKeyArray) -> dict[str, Any]:
        """Fresh meta-parameters: the Transformer's weights."""
        return init_transformer(self.config.network, self.tokeniser, key)

    def scaled(self, flat: Float[Array | np.ndarray, "*B P"]) -> Float[Array, "*B P"]:
        """Parameters in the units of the network."""
        mean, scale = (jnp.broadcast_to(x, flat.shape) for x in self.scales[:2])
        return jnp.asarray((flat - mean) / scale)

    def predict(
        self,
        theta: dict[str, Any],
        noisy: Float[Array, "P"],
        present: Float[Array, "P"],
        time: Float[Array, ""],
        losses: Float[Array, "2"],
    ) -> Float[Array, "P"]:
        """The clean wished parameters, all in units of the network.

        Args:
            theta: the Transformer's weights.
            noisy: wished parameters with noise; ignored by "regression".
            present: parameters.
            time: in [0, 1].
            losses: the present and the wished.
        """
        logs = jnp.log(jnp.maximum(losses, 1e-6)) / 2
        scalars = jnp.stack([2 * time - 1, logs[0], logs[1], logs[0] - logs[1]])
        noisy = jnp.zeros_like(noisy) if self.config.method == "regression" else noisy
        encode = self.tokeniser.encode
        tokens = apply_transformer(self.config.network, theta, encode(noisy), encode(present), scalars)
        return self.tokeniser.decode(tokens)


def make_generator(config: GeneratorConfig, tokeniser: Tokeniser, scales: Scales) -> Generator:
    """A generator with the paper's noise process.

    Raises:
        ValueError: an unknown method, too few or too many steps, or scales of another number of parameters.
    """
    if config.method not in ("diffusion", "flow", "regression"):
        raise ValueError(f"method must be diffusion, flow or regression, got {config.method!r}")
    schedule = linear_schedule()
    respace(schedule, config.steps)
    if len(scales.mean) != tokeniser.size:
        raise ValueError(f"the tokeniser is for {tokeniser.size} parameters, got scales of {len(scales.mean)}")
    return Generator(config, tokeniser, scales, schedule)


def fit_generator_scales(
    tokeniser: Tokeniser, params: Float[np.ndarray, "R S P"], losses: Float[np.ndarray, "R S"]
) -> Scales:
    """Scales from the checkpoints of training runs. Tokens of one group share theirs, so that units can be permuted.

    Raises:
        ValueError: a loss is not finite or negative, or the parameters are of another number.
    """
    if params.shape[-1] != tokeniser.size:
        raise ValueError(f"the tokeniser is for {tokeniser.size} parameters, got checkpoints of {params.shape[-1]}")
    bad = int((~(np.isfinite(losses) & (losses >= 0))).sum())
    if bad:
        raise ValueError(f"{bad} of {losses.size} losses are not finite and at least 0: drop these runs")
    mean, scale = np.zeros(tokeniser.size, np.float32), np.ones(tokeniser.size, np.float32)
    for places in tokeniser.places:
        values = np.asarray(params, np.float32)[..., places]
        axes = tuple(range(values.ndim - 1))
        mean[places] = values.mean(axes, dtype=np.float64)
        scale[places] = np.maximum(values.std(axes, dtype=np.float64), 1e-6) / SPREAD
    return Scales(mean, scale, np.array([losses.min(), losses.max()], np.float32))


def jump(
    generator: Generator,
    theta: dict[str, Any],
    flat: Float[Array | np.ndarray, "P"],
    present: Any,
    wished: Any,
    key: PRNGKeyArray,
    errors: Float[Array, "T"] | None = None,
) -> Float[Array, "P"]:
    """Parameters that are to have the wished loss.

    Args:
        generator: what draws.
        theta: its weights.
        flat: present parameters.
        present: their loss.
        wished: loss to reach. Outside of what was seen it is allowed, with a warning unless it is traced.
        key: random key; regression does not use it.
        errors: mean squared error of the prediction for each time of `generator.schedule`, for variance "learned".

    Raises:
        ValueError: a loss is NaN, or there are more or fewer parameters than the generator was made for.
    """
    config = generator.config
    if flat.shape != (generator.tokeniser.size,):
        raise ValueError(f"this generator is for {generator.tokeniser.size} parameters, got {list(flat.shape)}")
    _check_losses(generator, present, wished)
    size, losses = generator.tokeniser.size, jnp.stack([jnp.asarray(x, jnp.float32) for x in (present, wished)])
    start = generator.scaled(flat)
    if config.method == "regression":
        made = generator.predict(theta, jnp.zeros(size), start, jnp.float32(0), losses)
    elif config.method == "flow":
        made = sample_flow(
            lambda point, time: generator.predict(theta, point, start, time, losses), size, config.steps, key, SPREAD
        )
    else:
        schedule, last = respace(generator.schedule, config.steps), len(generator.schedule.kept) - 1
        known = None if errors is None else errors[schedule.times]
        made = sample_diffusion(
            lambda noisy, time: generator.predict(theta, noisy, start, time.astype(jnp.float32) / last, losses),
            size,
            schedule,
            key,
            "small" if config.variance == "learned" and known is None else config.variance,
            known,
        )
    return made * generator.scales.scale + generator.scales.mean


def compile_jumps(generator: Generator) -> Callable[..., Float[Array, "R Q P"]]:
    """A compiled `jump` of many networks, each with several wished losses.

    Returns:
        `(theta, flat[R, P], present[R], wished[R, Q], keys[R, Q], errors) -> parameters[R, Q, P]`.
    """

    def jumps(theta: Any, flat: Array, present: Array, wished: Array, keys: Array, errors: Any = None) -> Array:
        def of_network(x: tuple[Array, ...]) -> Array:
            flat, now, wishes, keys = x
            return jax.vmap(lambda wish, key: jump(generator, theta, flat, now, wish, key, errors))(wishes, keys)

        return jax.lax.map(of_network, (flat, present, wished, keys))

    return jax.jit(jumps)


def _check_losses(generator: Generator, present: Any, wished: Any) -> None:
    if isinstance(present, Tracer) or isinstance(wished, Tracer):
        return
    if np.isnan(present).any() or np.isnan(wished).any():
        raise ValueError(f"present and wished loss must be numbers, got {present} and {wished}")
    low, high = (float(x) for x in generator.scales.losses)
    if np.min(wished) < low or np.max(wished) > high:
        warnings.warn(
            f"the wished loss {np.min(wished):.4g} is outside of what the generator has seen, {low:.4g} to {high:.4g}: "
            "what it proposes is an extrapolation",
            stacklevel=3,
        )
