"""The attentions: fused equal to written, which kernel is asked for, and a probe that cannot drift from the model."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn.learner import Learner, Signature, prediction_loss
from metalearn.recipes.in_context.presets import PRESETS
from metalearn_models.learners._attention import fused_attention, make_attention
from metalearn_models.learners._dense import make_functional
from metalearn_models.learners.attention_probe import attention_weights
from metalearn_models.learners.transformer import Transformer, TransformerConfig, sequence_tokens, transformer

SIGNATURE = Signature(inputs=3, outputs=4, length=9)
CONFIG = TransformerConfig(width=12, layers=3, heads=2, key_size=5, token="pair")
KINDS: tuple[Literal["written"], Literal["fused"]] = ("written", "fused")


def theta_and_sequences(learner: Learner) -> tuple[Any, jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(learner.init, jax.random.key(0))
    theta = jax.tree.map(lambda a: jnp.asarray(0.3 * rng.normal(size=a.shape), a.dtype), shapes)
    xs = jnp.asarray(rng.normal(size=(4, SIGNATURE.length, SIGNATURE.inputs)), jnp.float32)
    return theta, xs, jnp.asarray(rng.integers(0, SIGNATURE.outputs, (4, SIGNATURE.length)), jnp.int32)


def queries_keys_values(dtype: Any = jnp.float32) -> tuple[jax.Array, jax.Array, jax.Array]:
    q, k, v = np.random.default_rng(1).normal(size=(3, 4, SIGNATURE.length, 2, 8))
    return jnp.asarray(q, dtype), jnp.asarray(k, dtype), jnp.asarray(v, dtype)


@pytest.mark.parametrize("window", [None, 1, 4, 9, 20])
def test_fused_equals_written_with_its_gradients(window: int | None) -> None:
    arguments = queries_keys_values()
    by_read = jnp.asarray(np.random.default_rng(2).normal(size=arguments[0].shape), jnp.float32)

    def read_and_gradients(attend: Any) -> Any:
        read, pullback = jax.vjp(attend, *arguments)
        return read, *pullback(by_read)

    written, fused = (jax.jit(read_and_gradients, static_argnums=0)(make_attention(k, 9, window)) for k in KINDS)
    for a, b in zip(written, fused, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [None, 4])
def test_a_model_with_fused_attention_has_the_same_logits_and_meta_gradient(window: int | None) -> None:
    def loss_and_gradient(learner: Learner) -> Any:
        def loss(theta: Any) -> tuple[jax.Array, jax.Array]:
            assert learner.run is not None
            logits = learner.run(theta, xs, ys)
            return prediction_loss(logits, ys).mean(), logits

        return jax.jit(jax.grad(loss, has_aux=True))(theta)

    learners = [transformer(SIGNATURE, dataclasses.replace(CONFIG, window=window, attention=kind)) for kind in KINDS]
    theta, xs, ys = theta_and_sequences(learners[0])
    written, fused = (loss_and_gradient(learner) for learner in learners)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5), written, fused)


def test_fused_attention_in_bfloat16_is_as_close_to_float32_as_the_written_one() -> None:
    exact = np.asarray(jax.jit(make_attention("written", SIGNATURE.length, None))(*queries_keys_values()))
    for kind in KINDS:
        read = jax.jit(make_attention(kind, SIGNATURE.length, None))(*queries_keys_values(jnp.bfloat16))
        assert read.dtype == jnp.bfloat16
        assert 1e-4 < np.abs(np.float32(read) - exact).max() / exact.std() < 3e-2


@pytest.mark.parametrize(
    ("backend", "dtype", "kernel"),
    [("gpu", jnp.bfloat16, "cudnn"), ("gpu", jnp.float32, None), ("cpu", jnp.bfloat16, None)],
)
@pytest.mark.parametrize(("window", "local"), [(None, None), (1, (0, 0)), (4, (3, 0)), (9, None)])
def test_cudnn_is_asked_for_bfloat16_on_a_gpu_only(
    backend: str, dtype: Any, kernel: str | None, window: int | None, local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda q, k, v, **options: (asked.update(options), v)[1])
    fused_attention(*queries_keys_values(dtype), window=window)
    assert asked == {"scale": 1.0, "is_causal": True, "local_window_size": local, "implementation": kernel}


def test_the_preset_of_the_papers_sizes_is_the_fused_one_and_its_keys_fit_cudnn() -> None:
    learners = {name: config.learner for name, (_, config) in PRESETS.items()}
    fused = [n for n, c in learners.items() if isinstance(c, TransformerConfig) and c.attention == "fused"]
    assert fused == ["paper"]
    assert learners["paper"].compute == "bfloat16" and learners["paper"].key_size % 8 == 0


@pytest.mark.parametrize("config", [CONFIG, dataclasses.replace(CONFIG, window=3, token="paper", attention="fused")])
def test_probed_weights_are_the_models_own(config: TransformerConfig) -> None:
    learner = transformer(SIGNATURE, config)
    theta, xs, ys = theta_and_sequences(learner)
    probe = jax.jit(lambda theta, xs, ys: attention_weights(SIGNATURE, config, theta, xs, ys))
    weights = np.asarray(probe(theta, xs, ys))
    assert weights.shape == (3, 4, 2, SIGNATURE.length, SIGNATURE.length)
    np.testing.assert_allclose(weights.sum(-1), np.ones(weights.shape[:-1]), atol=1e-6)
    age = np.arange(SIGNATURE.length)[:, None] - np.arange(SIGNATURE.length)
    np.testing.assert_array_equal(
        weights > 0, np.broadcast_to((age >= 0) & (age < (config.window or 9)), weights.shape)
    )
    # A loop over the layers of its own, which reads by the probed weights and never looks at queries or keys.
    _, bind = make_functional(lambda rngs: Transformer(SIGNATURE, config, rngs))
    run = learner.run
    assert run is not None

    @jax.jit
    def both(theta, xs, ys):
        model = bind(theta)
        h = model.embed(sequence_tokens(config, SIGNATURE.outputs, xs, ys)) + model.positions[...][None]
        for block, layer in zip(model.blocks, weights, strict=True):
            _, _, values = jnp.split(block.qkv(block.norm_attention(h)), 3, axis=-1)
            values = values.reshape(4, SIGNATURE.length, 2, 5)
            h = block.finish(h, jnp.einsum("bhts,bshk->bthk", jnp.asarray(layer), values))
        return model.head(model.norm(h)), run(theta, xs, ys)

    np.testing.assert_allclose(*both(theta, xs, ys), atol=1e-5, rtol=1e-5)
