"""The epinet: a small network beside a base network that turns an index into doubt.

Osband, Wen, Asghari, Dwaracherla, Ibrahimi, Lu and Van Roy 2021 (arXiv 2107.08924):

    f(x, z) = base(x) + learned(sg[features(x)], z) + scale prior(x, z),     z ~ N(0, I).

`features` are the input and what the base exposes, behind a stop-gradient, so that doubt does not shape the base. Both
added terms are products with z: `learned` is a network of [z, features] with C D_z outputs, `prior` a sum over the D_z
elements of z of small networks that are never trained. Training averages the cross-entropy over a few draws of z. The
constants are those of the neural testbed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.learner import Signature
from metalearn.ranges import NonNegative, Positive, Size, Steps
from metalearn_models.epistemic._common import adam, check_agent, cross_entropy, released_mlp, sum_of_squares
from metalearn_models.epistemic.index import Agent, Examples, Knowledge, Params
from metalearn_models.networks.network import Network

__all__ = ["Base", "EpinetConfig", "epinet", "epinet_on", "expose_outputs", "mlp_base"]


class Base(NamedTuple):
    """A base network that shows an epinet what it computes.

    Attributes:
        init: `(key) -> params`.
        apply: `(params, x[D]) -> (logits[C], features[F])`.
    """

    init: Callable[[PRNGKeyArray], Any]
    apply: Callable[[Any, Float[Array, "D"]], tuple[Float[Array, "C"], Float[Array, "F"]]]


@dataclass(frozen=True)
class EpinetConfig:
    """An epinet on a multilayer perceptron that exposes its last hidden layer."""

    hidden: tuple[Size, ...] = (50, 50)
    """Widths of the base's hidden layers."""
    index: Size = 8
    """D_z, the width of the index; also the number of draws of it per training step."""
    epinet_hidden: tuple[Size, ...] = (15, 15)
    """Widths of the learned part of the epinet."""
    prior_hidden: tuple[Size, ...] = (5, 5)
    """Widths of each of the D_z prior networks."""
    prior_scale: NonNegative = 0.3
    """What multiplies the prior networks, over the temperature; 0: there are none."""
    decay: NonNegative = 0.2
    """Weight decay, times `(D / n)^0.7`."""
    learning_rate: Positive = 1e-3
    """Of Adam."""
    steps: Steps = 1000
    """Training steps."""


def mlp_base(inputs: int, hidden: tuple[int, ...], outputs: int) -> Base:
    """A ReLU network that exposes its last hidden layer, or its input if it has none.

    Args:
        inputs: D.
        hidden: widths of the hidden layers.
        outputs: C.
    """
    network = released_mlp(inputs, hidden, outputs)

    def apply(params: Any, x: Float[Array, "D"]) -> tuple[Float[Array, "C"], Float[Array, "F"]]:
        for layer in params[:-1]:
            x = jax.nn.relu(x @ layer["weight"] + layer["bias"])
        return x @ params[-1]["weight"] + params[-1]["bias"], x

    return Base(network.init, apply)


def expose_outputs(network: Network) -> Base:
    """Any network as a base that exposes nothing but its logits; the epinet also reads the input.

    Args:
        network: maps `x[D]` to `logits[C]`.
    """

    def apply(params: Any, x: Float[Array, "D"]) -> tuple[Float[Array, "C"], Float[Array, "C"]]:
        logits = network.apply(params, x)
        return logits, logits

    return Base(network.init, apply)


def epinet(signature: Signature, config: EpinetConfig = EpinetConfig()) -> Agent:
    """The testbed's epinet, on a multilayer perceptron.

    Args:
        signature: shapes of the task.
        config: base, epinet, prior and training.

    Raises:
        ValueError: a field is out of range, or the task is regression.
    """
    check_agent(signature, config)
    return epinet_on(mlp_base(signature.inputs, config.hidden, signature.outputs), signature, config)


def epinet_on(base: Base, signature: Signature, config: EpinetConfig = EpinetConfig()) -> Agent:
    """An epinet on any base network; both are trained together, and only the base's own logits train the base.

    Args:
        base: the base network.
        signature: shapes of the task.
        config: of the epinet; `hidden` is not read.

    Raises:
        ValueError: a field is out of range, or the task is regression.
    """
    check_agent(signature, config)
    inputs, outputs, width = signature.inputs, signature.outputs, config.index
    shown = jax.eval_shape(base.apply, jax.eval_shape(base.init, jax.random.key(0)), jnp.zeros(inputs))[1].size
    learned_part = released_mlp(width + inputs + shown, config.epinet_hidden, outputs * width)
    prior_part = released_mlp(inputs, config.prior_hidden, outputs)
    has_prior = config.prior_scale > 0

    def init(key: PRNGKeyArray, knowledge: Knowledge) -> Params:
        key_base, key_learned, key_prior = jax.random.split(key, 3)
        learned = {"base": base.init(key_base), "epinet": learned_part.init(key_learned)}
        if not has_prior:
            return Params(learned, ())
        networks = jax.vmap(prior_part.init)(jax.random.split(key_prior, width))
        return Params(learned, {"scale": config.prior_scale / knowledge.temperature, "networks": networks})

    def split(params: Params, xs: Float[Array, "N D"]) -> tuple[Array, Array, Array | None]:
        """What is the same for all z: logits, the features' share of the epinet's first layer, and the priors."""
        logits, features = jax.vmap(lambda x: base.apply(params.learned["base"], x))(xs)
        features = jax.lax.stop_gradient(jnp.concatenate([xs, features], -1))
        first = params.learned["epinet"][0]
        features = features @ first["weight"][width:] + first["bias"][None]
        if not has_prior:
            return logits, features, None
        prior = jax.vmap(lambda p: jax.vmap(lambda x: prior_part.apply(p, x))(xs), out_axes=-1)(
            params.fixed["networks"]
        )
        return logits, features, jax.lax.stop_gradient(params.fixed["scale"] * prior)  # [N, C, D_z]

    def add(params: Params, parts: tuple[Array, Array, Array | None], z: Array) -> Float[Array, "N C"]:
        logits, features, prior = parts
        first, *rest = params.learned["epinet"]
        out = (z @ first["weight"][:width])[None] + features
        for layer in rest:
            out = jax.nn.relu(out) @ layer["weight"] + layer["bias"][None]
        out = rearrange(out, "n (c z) -> n c z", z=width)
        return logits + (out if prior is None else out + prior) @ z

    def apply(params: Params, xs: Float[Array, "N D"], z: Float[Array, "Z"]) -> Float[Array, "N C"]:
        return add(params, split(params, xs), z)

    def draw(key: PRNGKeyArray, count: int) -> Float[Array, "count Z"]:
        return jax.random.normal(key, (count, width))

    def loss(params: Params, examples: Examples, knowledge: Knowledge, key: PRNGKeyArray) -> Float[Array, ""]:
        parts = split(params, examples.xs)
        each = jax.vmap(lambda z: cross_entropy(add(params, parts, z), examples))(draw(key, width))
        decay = config.decay * (inputs / knowledge.examples) ** 0.7
        return each.mean() + decay * sum_of_squares(params.learned)

    return Agent(init, apply, draw, loss, adam(config.learning_rate), config.steps, signature)
