"""Two processes on loopback, two devices each, give the numbers of one process with one device."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from metalearn.gradients import low_rank, nres, pes
from metalearn.inner import InnerLoop
from metalearn.outer import global_mesh, outer_loop
from metalearn.runs.weights import theta_sha256
from tests.two_processes import run_two_processes

DEVICES_EACH, PAIRS, CALLS = 2, 8, 3


def recurrent() -> InnerLoop:
    """A noisy recurrent network of 6 units, whose matrix is large enough for noise of rank 1."""

    def init(theta, data, key):
        del theta
        return data + jax.random.normal(key, (6,))

    def step(theta, state, t, key, data):
        del data, t
        state = jnp.tanh(theta["w"] @ state + theta["b"] + 0.1 * jax.random.normal(key, (6,)))
        return state, jnp.mean((state - 0.5) ** 2), {"score": state[0]}

    return InnerLoop(init, step, None, 6)


def start_values():
    return {"w": 0.3 * jnp.eye(6), "b": jnp.zeros(6)}, jnp.float32(0.2)


ESTIMATORS = {
    "nres": lambda: nres(recurrent(), 0.1, PAIRS, 2, noise=low_rank(1), tasks=2),
    "pes": lambda: pes(recurrent(), 0.1, PAIRS, 2),
}


def run_steps(estimator, mesh, place=lambda data: data):
    loop = outer_loop(estimator, optax.adam(0.02), 2, mesh)
    theta, data = start_values()
    data = place(data)
    state = loop.init(theta, data, jax.random.key(3))
    held, losses = shares(state.estimator), []
    for _ in range(CALLS):
        state, metrics = loop.step(state, data)
        losses.append(np.asarray(metrics["loss"]))
    return state, np.concatenate(losses), held + shares(state.estimator)


def shares(tree):
    """The leading axis of each leaf, in all and on one device."""
    return [(x.shape[0], x.addressable_shards[0].data.shape[0]) for x in jax.tree.leaves(tree)]


def flat(theta):
    return np.concatenate([np.asarray(theta[name]).ravel() for name in sorted(theta)])


def worker(process: int) -> dict[str, Any]:
    """What each process finds."""
    found = {"processes": jax.process_count(), "devices": jax.device_count(), "errors": []}
    mesh = global_mesh(PAIRS)
    assert mesh is not None
    everywhere = NamedSharding(mesh, PartitionSpec())
    # Data of the host, and data that were put on all devices once.
    place = {"nres": lambda data: data, "pes": lambda data: jax.device_put(data, everywhere)}
    for name, make in ESTIMATORS.items():
        state, losses, held = run_steps(make(), mesh, place[name])
        found[name] = {
            "theta": flat(state.theta).tolist(),
            "sha256": theta_sha256(state.theta),
            "losses": losses.tolist(),
            "held": sorted(set(held)),
            "placed": sorted({len(x.sharding.device_set) for x in jax.tree.leaves(state)}),
        }
    theta, data = start_values()
    init, _ = outer_loop(ESTIMATORS["nres"](), optax.adam(0.02), mesh=global_mesh(PAIRS))
    for call in (lambda: global_mesh(6), lambda: init(theta, data, jax.random.key(process))):
        try:
            call()
        except ValueError as error:
            found["errors"].append(str(error))
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The findings of both processes."""
    return run_two_processes(__file__, "worker", tmp_path_factory.mktemp("processes"), DEVICES_EACH)


def test_the_mesh_spans_the_devices_of_both_processes(found):
    assert [(f["processes"], f["devices"]) for f in found] == [(2, 4), (2, 4)]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_two_processes_give_the_theta_and_the_losses_of_one(found, name):
    state, losses, _ = run_steps(ESTIMATORS[name](), None)
    before = flat(start_values()[0])
    assert np.abs(flat(state.theta) - before).max() > 0.02  # there is something to agree on
    for f in found:
        np.testing.assert_allclose(f[name]["losses"], losses, rtol=2e-6)
        np.testing.assert_allclose(f[name]["theta"], flat(state.theta), rtol=2e-5, atol=2e-6)
    for item in ("theta", "sha256", "losses"):
        assert found[0][name][item] == found[1][name][item]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_each_device_holds_its_share_of_the_pairs_and_no_more(found, name):
    for f in found:
        assert f[name]["held"] == [[PAIRS, PAIRS // 4]]
        assert f[name]["placed"] == [4]


def test_pairs_that_do_not_split_over_all_devices_are_refused_on_every_process(found):
    for f in found:
        assert f["errors"][0] == (
            "6 trajectories (or pairs) cannot be split evenly over all 4 devices of 2 processes: choose 4 or 8"
        )


def test_processes_that_start_from_different_keys_are_refused_on_every_process(found):
    for f in found:
        assert f["errors"][1].endswith("these differ from process 0: key of process 1")
