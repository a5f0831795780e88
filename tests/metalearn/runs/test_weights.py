"""Meta-parameters in a file: what goes in comes out, and damage is seen."""

import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from metalearn.errors import RunError
from metalearn.runs.weights import load_weights, save_weights, theta_sha256


def theta() -> dict:
    return {
        "layers": [{"kernel": jnp.arange(6.0).reshape(2, 3)}, {"kernel": jnp.ones((3,), jnp.bfloat16)}],
        "blocks": {0: jnp.int32(4), 10: jnp.zeros((0, 2))},
        "nothing": {},
        "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    }


def test_weights_come_back_as_they_were(tmp_path: Path):
    save_weights(tmp_path / "w.safetensors", theta(), {"task": "digits", "accuracy": 0.5})
    loaded, metadata = load_weights(tmp_path / "w.safetensors")
    assert metadata == {"task": "digits", "accuracy": 0.5}
    assert jax.tree.structure(loaded) == jax.tree.structure(theta())
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(loaded))  # so that they can be loaded in a trace
    jax.tree.map(np.testing.assert_array_equal, loaded, theta())
    assert theta_sha256(loaded) == theta_sha256(theta())


def test_the_file_holds_plain_names(tmp_path: Path):
    save_weights(tmp_path / "w.safetensors", theta(), {})
    with safetensors.safe_open(tmp_path / "w.safetensors", "numpy") as file:
        names = set(file.keys())
    assert names == {"layers/0/kernel", "layers/1/kernel", "blocks/0", "blocks/10", "transposed"}


def test_the_hash_is_the_documented_one_and_sees_every_part():
    x = np.arange(3, dtype=np.float32)
    expected = hashlib.sha256(b"a/0 float32 (3,)\n" + x.tobytes() + b"b float32 ()\n" + np.float32(1).tobytes())
    assert theta_sha256({"b": jnp.float32(1), "a": [jnp.asarray(x)]}) == expected.hexdigest()
    others = [{"c": x}, {"a": -x}, {"a": x.astype(np.int32)}, {"a": x[None]}, {"a": x[:2]}]
    assert len({theta_sha256(t) for t in [{"a": x}, *others]}) == 6


def test_every_damaged_file_is_seen_or_harmless(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    save_weights(path, theta(), {"note": "a"})
    whole, sha256 = path.read_bytes(), theta_sha256(theta())
    start = 8 + int.from_bytes(whole[:8], "little")
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        try:
            loaded, _ = load_weights(path)
        except RunError:
            continue
        assert position < start and theta_sha256(loaded) == sha256, position  # a letter of the metadata
    for length in (0, 7, start - 1, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(RunError, match="damaged"):
            load_weights(path)


def test_a_foreign_file_and_a_missing_one_are_said(tmp_path: Path):
    safetensors.numpy.save_file({"a": np.ones(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(RunError, match="not written by metalearn's save_weights"):
        load_weights(tmp_path / "foreign.safetensors")
    with pytest.raises(FileNotFoundError):
        load_weights(tmp_path / "none.safetensors")


def test_names_that_would_be_ambiguous_are_refused(tmp_path: Path):
    for bad in ({"a/b": jnp.ones(1)}, {(1, 2): jnp.ones(1)}):
        with pytest.raises(ValueError, match="cannot be part of a name"):
            save_weights(tmp_path / "w.safetensors", bad, {})
    with pytest.raises(ValueError, match="is a random key"):
        save_weights(tmp_path / "w.safetensors", {"key": jax.random.key(0)}, {})
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    resource = pytest.importorskip("resource")
    path, limits = tmp_path / "w.safetensors", resource.getrlimit(resource.RLIMIT_FSIZE)
    save_weights(path, theta(), {"version": 1})
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(RunError, match="the file that was there before is unchanged"):
            save_weights(path, theta(), {"version": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load_weights(path)[1] == {"version": 1} and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_weights_are_loaded_inside_a_trace(tmp_path: Path):
    save_weights(tmp_path / "w.safetensors", {"a": jnp.arange(3.0)}, {})
    total = jax.jit(lambda x: x + load_weights(tmp_path / "w.safetensors")[0]["a"].sum())(jnp.float32(1))
    assert total == 4
