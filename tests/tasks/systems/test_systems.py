"""All systems compute in the float type of theta."""

import jax
import jax.numpy as jnp
import pytest

from metalearn.inner import start
from metalearn_tasks.systems import influence as balancing
from metalearn_tasks.systems import linear, lorenz, mlp_schedule, schedule_2d

KEY = jax.random.key(0)
P, T, C = 3, 12, 3


LOOPS = {
    "linear": lambda dtype: (linear.linear(T), jnp.zeros(P, dtype), linear.linear_system(KEY, 4, P, T)),
    "influence": lambda dtype: (balancing.influence_balancing(), jnp.array(0.5, dtype), ()),
    "schedule_2d": lambda dtype: (schedule_2d.schedule_2d(), jnp.array(schedule_2d.START, dtype), ()),
    "lorenz": lambda dtype: (lorenz.lorenz(), jnp.array(lorenz.START, dtype), ()),
    "mlp_schedule": lambda dtype: (
        mlp_schedule.mlp_schedule(mlp_schedule.MLPScheduleConfig((4,), C, batch=8)),
        jax.tree.map(lambda leaf: leaf.astype(dtype), mlp_schedule.schedule(0.1, 1.0)),
        (jnp.zeros((40, 6)), jnp.zeros(40, jnp.int64)),
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LOOPS)
def test_float_type_is_thetas_whatever_that_of_the_data(name, dtype):
    loop, theta, data = LOOPS[name](dtype)

    def first_step(theta):
        state = start(loop, theta, data, KEY)
        return state, loop.step(theta, state, jnp.int32(1), KEY, data)

    state, (new, loss, aux) = jax.eval_shape(first_step, theta)
    assert {leaf.dtype for leaf in jax.tree.leaves((state, new, loss, aux))} == {jnp.dtype(dtype)}
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)
    assert loss.shape == () and all(value.shape == () for value in aux.values())
