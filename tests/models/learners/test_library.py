"""Learners by name, and weights that come back as the learner that wrote them."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn import Signature
from metalearn.errors import RunError, UnknownNameError
from metalearn.runs.weights import load_weights, save_weights, theta_sha256
from metalearn_models import learners
from metalearn_models.learners.library import _SHIPPED as SHIPPED
from metalearn_models.learners.registry import LEARNERS, build_learner

NAME = "digits-synthetic-16x10"
SIGNATURE = Signature(inputs=3, outputs=4, length=7)
SMALL: dict[str, dict[str, Any]] = {
    "transformer": {"width": 8, "layers": 1, "heads": 2, "key_size": 4, "token": "pair"},
    "lstm": {"hidden": 5},
    "outer-lstm": {"hidden": 3, "heads": 2},
    "vsml": {"hidden": 4},
    "mlp": {"hidden": 4},
    "maml": {"hidden": (5,)},
    "learned-optimizer": {"optimizer": "nn-adam", "hidden": (2,)},
}


def _theta(learner):
    """Any values; those of `init` take programs to draw."""
    shapes, rng = jax.eval_shape(learner.init, jax.random.key(0)), np.random.default_rng(1)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), shapes)


def test_every_name_makes_a_learner_of_the_signature():
    assert set(learners.names()) == set(LEARNERS)
    for name in learners.names():
        learner = learners.make(name, SIGNATURE, **SMALL.get(name, {}))
        assert learner.signature == SIGNATURE
        theta = jax.eval_shape(learner.init, jax.random.key(0))
        assert bool(jax.tree.leaves(theta)) == LEARNERS[name].meta_learned
    assert learners.make("lstm", SIGNATURE, hidden=5).state_size == 10
    with pytest.raises(UnknownNameError, match="Did you mean 'lstm'"):
        learners.make("lstn", SIGNATURE)
    with pytest.raises(TypeError, match="size"):
        learners.make("lstm", SIGNATURE, size=3)
    with pytest.raises(TypeError, match="a tuple is the configuration of no learner"):
        build_learner(SIGNATURE, ())


@pytest.mark.parametrize("name", [*SMALL, "ridge"])
def test_what_was_saved_comes_back_as_the_same_learner(tmp_path, name):
    """The theta of a network is a tuple and that of an optimizer a NamedTuple; both come back as they were."""
    config = LEARNERS[name].config(**SMALL.get(name, {}))
    theta = _theta(build_learner(SIGNATURE, config))
    path = tmp_path / "theta.safetensors"
    learners.save(path, config, SIGNATURE, theta, {"steps": 3})
    for source in (path, tmp_path):  # a file, and a run's folder
        loaded = learners.load(source)
        assert (loaded.config, loaded.signature, loaded.card["steps"]) == (config, SIGNATURE, 3)
        assert loaded.learner.signature == SIGNATURE
        assert jax.tree.structure(loaded.theta) == jax.tree.structure(theta)
        jax.tree.map(np.testing.assert_array_equal, loaded.theta, theta)


def test_weights_of_another_learner_are_not_saved(tmp_path):
    config = LEARNERS["lstm"].config(hidden=5)
    theta = _theta(learners.make("lstm", SIGNATURE, hidden=6))
    with pytest.raises(RunError, match=r"arrays differ; cell\.gates_input\.bias should be \(\(20,\).* is \(\(24,\)"):
        learners.save(tmp_path / "theta.safetensors", config, SIGNATURE, theta)
    assert not list(tmp_path.iterdir())


def test_damaged_or_unknown_weights_are_refused(tmp_path):
    content = (SHIPPED / f"{NAME}.safetensors").read_bytes()
    path = tmp_path / "w.safetensors"
    for damaged in (content[: len(content) // 2], content[:-8] + bytes(8), b"", b"not weights at all"):
        path.write_bytes(damaged)
        with pytest.raises(RunError, match="damaged"):
            learners.load(path)
    with pytest.raises(UnknownNameError, match=f"Did you mean '{NAME}'"):
        learners.load("digits-synthetic")
    with pytest.raises(UnknownNameError, match="unknown weights ''"):  # and not the present folder
        learners.load("")
    with pytest.raises(FileNotFoundError):
        learners.load(str(tmp_path / "none.safetensors"))
    with pytest.raises(RunError, match="is not the folder of a run"):
        learners.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RunError, match=r"holds no theta\.safetensors.*train --resume"):
        learners.load(tmp_path)
    theta, card = load_weights(SHIPPED / f"{NAME}.safetensors")
    save_weights(path, theta, {})
    with pytest.raises(RunError, match="does not say which learner"):
        learners.load(path)
    save_weights(path, theta, {"optimizer": {"name": "star"}})
    with pytest.raises(RunError, match=r"a learned optimizer, for metalearn_models\.optimizers\.load"):
        learners.load(path)
    save_weights(path, theta, {**card, "learner": {**card["learner"], "layers": 5}})
    with pytest.raises(RunError, match=r"do not fit the learner.*blocks\.3.*is \('no such array',\)"):
        learners.load(path)


@pytest.mark.parametrize("name", learners.shipped())
def test_shipped_weights_say_what_they_are_and_are_small(name):
    path = SHIPPED / f"{name}.safetensors"
    theta, metadata = load_weights(path)
    card = json.loads(path.with_suffix(".json").read_text())
    assert card == metadata == learners.load(name).card
    assert card["theta_sha256"] == theta_sha256(theta) == theta_sha256(learners.load(name).theta)
    assert {"config", "seed", "steps", "commands", "figures", "metalearn", "licence"} <= card.keys()
    assert path.stat().st_size < 3e6


@pytest.mark.parametrize("n", ["10", "20", "40"])
def test_the_figures_of_the_default_weights_beat_every_reference_with_intervals_apart(n):
    figures = json.loads((SHIPPED / f"{NAME}.json").read_text())["figures"]
    assert set(figures) == {"shipped", "1nn", "centroid", "ridge", "logistic"}
    _, low, _ = figures.pop("shipped")[n]
    assert all(low > high for _, _, high in (reference[n] for reference in figures.values()))
