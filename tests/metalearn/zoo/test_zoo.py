"""Checkpoints of many runs: what is recorded, on disk and read again; files that cannot be used are refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn.errors import RunError
from metalearn.zoo import ZooConfig, fill_zoo, log_spaced_steps, open_zoo, record_runs, train_by_gradients

TARGET = jnp.arange(3.0)


def squares(params, batch):
    return jnp.sum(jnp.square(params["x"] - TARGET)) + 0 * batch


def noisy(params, batch):
    return squares(params, batch) + batch * jnp.sum(params["x"])


def descent(rate=0.1, loss=squares):
    return train_by_gradients(
        lambda key: {"x": jax.random.normal(key, (3,))},
        loss,
        lambda key: jax.random.normal(key, ()),
        optax.sgd(rate),
        lambda params: {"train": squares(params, jnp.zeros(())), "validation": params["x"][0]},
    )


SMALL = ZooConfig(runs=5, unseen=2, steps=6, snapshots=4, shard=2)
DESCENT = descent()


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return fill_zoo(tmp_path_factory.mktemp("zoo"), DESCENT, SMALL, {"network": "three numbers"})


def test_steps_are_log_spaced():
    assert log_spaced_steps(1500, 11) == (0, 1, 2, 5, 11, 25, 57, 129, 292, 662, 1500)
    assert log_spaced_steps(3, 4) == (0, 1, 2, 3)
    assert log_spaced_steps(7, 2) == (0, 7)
    for steps in (5, 40, 1000):
        at = log_spaced_steps(steps, 6)
        assert at[0] == 0 and at[-1] == steps and (np.diff(at) > 0).all()
    with pytest.raises(ValueError, match=r"between 2 and steps [+] 1 = 4, got 5"):
        log_spaced_steps(3, 5)


def test_what_is_recorded_is_gradient_descent(zoo):
    """x - target shrinks by 1 - 2 rate at each step."""
    seen = zoo.seen()
    assert zoo.at == (0, 1, 2, 6) and seen.runs.tolist() == [0, 1, 2] and zoo.unseen().runs.tolist() == [3, 4]
    start = np.asarray(seen.params[:, :1]) - np.asarray(TARGET)
    expected = start * 0.8 ** np.array(zoo.at)[:, None] + np.asarray(TARGET)
    np.testing.assert_allclose(seen.params, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(zoo.loss(seen, "train"), np.square(expected - np.asarray(TARGET)).sum(-1), rtol=1e-5)
    np.testing.assert_array_equal(zoo.loss(seen, "validation"), seen.params[..., 0])
    assert len({x.tobytes() for x in np.asarray(seen.params[:, 0])}) == 3  # each run has its own start
    with pytest.raises(ValueError, match=r"no loss 'test', only train, validation"):
        zoo.loss(seen, "test")


def test_runs_do_not_depend_on_who_is_beside_them():
    keys = jax.random.split(jax.random.key(3), 2)
    both = record_runs(DESCENT, keys, jax.random.key(4), (0, 3))
    alone = record_runs(DESCENT, keys[1:], jax.random.key(4), (0, 3))
    np.testing.assert_array_equal(both.params[1], alone.params[0])
    with pytest.raises(ValueError, match=r"must increase from 0 on, got \(0, 0\)"):
        record_runs(DESCENT, keys, jax.random.key(4), (0, 0))


def test_checkpoints_are_mapped_and_come_back_as_parameters(zoo):
    assert all(isinstance(shard.params, np.memmap) for shard in zoo.shards)
    params = zoo.unflatten({"x": TARGET})(jnp.asarray(zoo.seen().params[0, 0]))
    np.testing.assert_array_equal(params["x"], zoo.seen().params[0, 0])
    with pytest.raises(RunError, match=r"a network of 3 parameters, got one of 4; .* x: expected \(3,\), got \(4,\)"):
        zoo.unflatten({"x": jnp.zeros(4)})
    assert zoo.about == {"network": "three numbers"}


def test_what_was_interrupted_goes_on_to_the_same_bits(tmp_path):
    """Also where each step reads a random batch."""
    training, about = descent(loss=noisy), {"network": "three numbers"}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fill_zoo(whole, training, SMALL, about)
    fill_zoo(parts, training, SMALL, about)
    kept = (parts / "shard-00000.safetensors").stat().st_mtime_ns
    (parts / "shard-00001.safetensors").unlink()
    with pytest.raises(RunError, match=r"shard-00001.safetensors is missing"):
        open_zoo(parts)
    fill_zoo(parts, training, SMALL, about)
    assert (parts / "shard-00000.safetensors").stat().st_mtime_ns == kept  # it was not made again
    for path in sorted(whole.glob("*.safetensors")):
        assert path.read_bytes() == (parts / path.name).read_bytes()
    with pytest.raises(RunError, match=r"other checkpoints, old -> new: config.seed: 0 -> 1"):
        fill_zoo(parts, training, ZooConfig(runs=5, unseen=2, steps=6, snapshots=4, shard=2, seed=1), about)


def test_damaged_files_are_refused(zoo, tmp_path):
    for path in zoo.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    shard = tmp_path / "shard-00001.safetensors"
    whole = shard.read_bytes()
    for length in (len(whole) - 4, 40, 4):
        shard.write_bytes(whole[:length])
        with pytest.raises(RunError, match=r"truncated|not a shard"):
            open_zoo(tmp_path)
    shard.write_bytes(whole)
    card = json.loads((tmp_path / "zoo.json").read_text())
    (tmp_path / "zoo.json").write_text(json.dumps({**card, "shapes": {"x": [4]}}))
    with pytest.raises(RunError, match=r"other steps: expected 4 checkpoints of 4 parameters"):
        open_zoo(tmp_path)
    with pytest.raises(RunError, match=r"no zoo.json"):
        open_zoo(tmp_path / "nowhere")


def test_diverged_runs_are_dropped_and_counted(tmp_path):
    """A run grows by |1 - 2 rate| = 3 per step, so those that began near the target stay below the limit."""
    limited = ZooConfig(runs=6, unseen=1, steps=2, snapshots=2, shard=3, largest=14.0)
    training = descent(rate=2.0)
    zoo = fill_zoo(tmp_path / "some", training, limited)
    ends = record_runs(
        training,
        jnp.stack([jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), run) for run in range(6)]),
        jax.random.key(0),
        (2,),
    )
    fine = np.abs(np.asarray(ends.params)).max((1, 2)) <= 14
    assert 0 < zoo.diverged < 6 and zoo.diverged == (~fine).sum()
    assert np.concatenate([shard.runs for shard in zoo.shards]).tolist() == np.flatnonzero(fine).tolist()
    with pytest.raises(RunError, match=r"all 6 runs of .* diverged: lower the learning rate"):
        fill_zoo(tmp_path / "all", training, ZooConfig(runs=6, unseen=1, steps=2, snapshots=2, shard=3, largest=1e-3))


@pytest.mark.parametrize("wrong", [{"runs": 0}, {"unseen": 1024}, {"snapshots": 1}, {"shard": 0}])
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match=r"got"):
        ZooConfig(**wrong)
