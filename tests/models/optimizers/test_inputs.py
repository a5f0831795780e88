"""What a user may hand to any learned optimizer: it works, or is refused with the reason."""

import jax
import jax.numpy as jnp
import pytest

from metalearn_models import optimizers

PLANS = {"schedule", "celo"}
"""Those that need num_steps."""
READS_LOSS = {"celo", "rnn-mlp"}
NAMES = optimizers.names()


@pytest.fixture(autouse=True)
def _optax_promotes():
    with jax.numpy_dtype_promotion("standard"):
        yield


def _made(name, num_steps=3):
    optimizer = optimizers.make(name)
    return optimizer.transform(optimizer.init(jax.random.key(0)), num_steps)


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_work_is_refused_with_the_reason(name):
    transform = _made(name)
    with pytest.raises(TypeError, match=r"int32 at params\['steps'\]"):
        transform.init({"w": jnp.ones(2), "steps": jnp.int32(3)})
    other = optimizers.make("star" if name != "star" else "small-fc").init(jax.random.key(0))
    with pytest.raises(ValueError, match="another optimizer"):
        optimizers.make(name).transform(other, 3)
    params = {"w": jnp.ones(2)}
    state = transform.init(params)
    if name in PLANS:
        with pytest.raises(ValueError, match=r"num_steps"):
            _made(name, None)
    if name in READS_LOSS:
        with pytest.raises(ValueError, match="value"):
            transform.update(params, state, params)
