"""The same code on one device, on eight, and on four of two processes; and the bytes that its programs send."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn.costs.messages import Messages
from metalearn_models.optimizers.distributed import data_parallel
from tests.models.optimizers.distributed import spread
from tests.two_processes import run_two_processes

SCRIPT = "import json; from tests.models.optimizers.distributed.spread import *; print(json.dumps(on_eight_devices()))"


@pytest.fixture(scope="module")
def found(on_eight_devices):
    return json.loads(on_eight_devices(SCRIPT))


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    return run_two_processes(spread.__file__, "worker", tmp_path_factory.mktemp("processes"), 2)


def imitated(name, devices):
    """Losses and parameters with devices that `vmap` imitates on this one."""
    tx = spread.OPTIMIZERS[name]
    split = lambda x: x.reshape(spread.STEPS, devices, -1, x.shape[-1])  # noqa: E731

    def on_device(*batches):
        def body(carry, batch):
            params, state = carry
            value, grads = jax.value_and_grad(spread.loss)(params, batch)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), jax.lax.pmean(value, spread.AXIS)

        start = jax.tree.map(jnp.asarray, spread.params())
        (params, _), losses = jax.lax.scan(body, (start, tx.init(start)), batches)
        return losses, jax.lax.pmean(params, spread.AXIS)

    together = jax.vmap(on_device, in_axes=1, axis_name=spread.AXIS)
    return jax.tree.map(lambda x: np.asarray(x[0]), jax.jit(together)(*map(split, spread.batches())))


@pytest.mark.parametrize("name", spread.OPTIMIZERS)
def test_eight_devices_do_what_vmap_imitates(found, name):
    losses, params = imitated(name, 8)
    np.testing.assert_allclose(found["8"][name]["losses"], losses, rtol=1e-5)
    for leaf, x in params.items():
        np.testing.assert_allclose(found["8"][name]["params"][leaf], x, atol=2e-5)
    assert abs(losses[-1] - losses[0]) > 1  # there is something to agree on


@pytest.mark.parametrize("name", spread.ON_PROCESSES)
def test_two_processes_do_what_one_does(found, processes, name):
    for one in processes:
        assert one[name]["placed"] == found["4"][name]["placed"] == [[4, 1]]
        np.testing.assert_allclose(one[name]["losses"], found["4"][name]["losses"], rtol=1e-5)
        for leaf, x in found["4"][name]["params"].items():
            np.testing.assert_allclose(one[name]["params"][leaf], x, atol=2e-5)
    assert processes[0] == processes[1]


def test_programs_send_the_bytes_of_their_messages(found):
    """To eight devices: a matrix of 12 by 10 and a vector of 10, and the loss."""
    ring = 2 * 7 / 8
    sizes = (120, 10)
    expected = {
        "all_reduce": ring * 4 * sum(sizes),
        "top_k": 7 * sum(math.ceil(0.1 * n) * (4 + 2) for n in sizes),
        "sign": 7 * sum(math.ceil(n / 8) + 4 for n in sizes),
        "eight_bit": 7 * sum(n + 4 for n in sizes),
        "eight_bit in two stages": ring * sum(8 * (math.ceil(n / 8) + 4) for n in sizes),
        "low_rank": ring * 4 * (2 * (12 + 10) + 10),
        "diloco": ring * sum(8 * (math.ceil(n / 8) + 4) for n in sizes),  # of a step that ends a round
    }
    sent = {name: Messages(*found["8"][name]["messages"]).sent - ring * 4 for name in expected}
    assert sent == pytest.approx(expected)


def test_without_a_mesh_one_device_does_the_same():
    for name in ("top_k", "diloco"):
        alone = spread.train(name, None)
        on_mesh = spread.train(name, 1)
        np.testing.assert_allclose(alone["losses"], on_mesh["losses"], rtol=1e-5)
        assert alone["placed"] == on_mesh["placed"] == [(1, 1)]


def test_what_cannot_be_split_is_refused(found):
    expected = "split over 3 devices, got shape (16, 12) at batch[0]: make its leading axis a multiple of 3"
    assert expected in found["error"]
    wrong = jax.make_mesh((1, 1), ("a", "b"))
    with pytest.raises(ValueError, match="needs a mesh of one axis, got the axes a, b"):
        data_parallel(spread.loss, optax.sgd(0.1), wrong)
