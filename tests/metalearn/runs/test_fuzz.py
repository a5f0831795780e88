"""Mutated files of runs: each gives a clear error or a valid object, whatever was changed in it."""

import copy
import dataclasses
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metalearn.errors import MetalearnError, RunError
from metalearn.learner import Signature
from metalearn.ranges import check
from metalearn.recipes.in_context import config as in_context
from metalearn.recipes.in_context.presets import PRESETS
from metalearn.recipes.learned_optimizer import config as learned_optimizer
from metalearn.runs.checkpoints import restore_checkpoint, save_checkpoint
from metalearn.runs.folder import create_run, open_run
from metalearn.runs.weights import load_weights, save_weights
from metalearn_models import optimizers
from metalearn_models.learners import library as learners_library
from metalearn_models.learners.lstm import LSTMConfig
from metalearn_models.tabular.transformer import library as tables
from metalearn_models.tabular.transformer.config import TableTransformerConfig
from metalearn_models.tabular.transformer.learner import network
from metalearn_tasks.families.registry import FAMILIES

VALUES = st.sampled_from([None, True, 0, -1, 3.5, 1e400, math.nan, "", "x", "1nn", [], [1], {}, {"x": 1}, "1" * 500])
FUZZ = settings(max_examples=150, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def mutated(draw, values):
    """The values with one to three changes: something is replaced, removed, renamed, added or moved up."""
    values = copy.deepcopy(values)
    for _ in range(draw(st.integers(1, 3))):
        node = values
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(node[key], dict | list) and node[key] and draw(st.booleans()):
                node = node[key]
                continue
            kind = draw(st.sampled_from(["replace", "remove", "rename", "add"]))
            if kind == "replace":
                node[key] = copy.deepcopy(draw(VALUES))
            elif kind == "add" and isinstance(node, dict):
                node[draw(st.sampled_from(["task", "outer", "x", "name"]))] = copy.deepcopy(draw(VALUES))
            else:
                value = node.pop(key)
                if kind == "rename" and isinstance(node, dict):
                    node[f"{key}_"] = value
            break
    return values


LEARNER = json.loads(json.dumps(in_context.to_json(PRESETS["digits"][1])))


def _learners():
    """Every preset, every learner that can be meta-trained and every family of tasks, as JSON values."""
    linear = PRESETS["linear"][1]
    configs = [
        *(config for _, config in PRESETS.values()),
        *(in_context.with_learner(linear, name) for name in in_context.learner_names()),
        *(dataclasses.replace(linear, family=entry.config()) for entry in FAMILIES.values()),
    ]
    return [json.loads(json.dumps(in_context.to_json(config))) for config in configs]


def _optimizers():
    """Every optimizer whose meta-parameters can be trained, as JSON values."""
    module = learned_optimizer
    return [json.loads(json.dumps(module.to_json(module.recommended(name)))) for name in module.optimizer_names()]


@pytest.mark.parametrize(
    ("configurations", "module"),
    [(_learners, in_context), (_optimizers, learned_optimizer)],
    ids=["learners", "optimizers"],
)
def test_mutated_configurations(configurations, module):
    """Those that exist now, so a preset, a learner, a family or an optimizer that is added is changed too."""
    refused, wholes = 0, configurations()

    @settings(FUZZ, max_examples=300)
    @given(st.sampled_from(wholes).flatmap(mutated))
    def read(changed):
        nonlocal refused
        try:
            config = module.from_json(changed)
        except MetalearnError as error:
            refused += 1
            assert str(error)
        else:
            check(config)
            again = json.loads(json.dumps(module.to_json(config)))
            assert json.loads(json.dumps(module.to_json(module.from_json(again)))) == again

    read()
    assert refused > 100
    for values in wholes:
        assert json.loads(json.dumps(module.to_json(module.from_json(values)))) == values


def test_mutated_folders(tmp_path: Path):
    run = create_run(tmp_path / "run", LEARNER)
    path = run.folder / "config.json"
    whole, refused = path.read_text(), 0

    @FUZZ
    @given(mutated(json.loads(whole)))
    def read(changed):
        nonlocal refused
        path.write_text(json.dumps(changed))
        try:
            found = open_run(run.folder, in_context.rename_old_fields)
        except RunError as error:
            refused += 1
            assert str(path) in str(error)
        else:
            assert isinstance(found.config, dict)

    read()
    assert refused > 5


def test_mutated_manifests(tmp_path: Path):
    run = create_run(tmp_path / "run", {"seed": 1})
    state = {"x": jnp.arange(3), "y": jnp.float32(2)}
    path = save_checkpoint(run, 3, state) / "manifest.json"
    whole, read_back = json.loads(path.read_text()), 0

    @settings(FUZZ, max_examples=60)
    @given(mutated(whole))
    def read(changed):
        nonlocal read_back
        path.write_text(json.dumps(changed))
        try:
            found = restore_checkpoint(run, state, lambda note: None)
        except RunError as error:
            assert str(run.checkpoints) in str(error)
        else:
            read_back += 1
            assert (found["x"] == state["x"]).all() and found["y"] == 2

    read()
    assert read_back < 30


def _weights(kind, path):
    """A small file of this kind, and the function that reads it: `path` is written."""
    if kind == "optimizers":
        optimizers.save(path, "learnable-adam", optimizers.make("learnable-adam").init(jax.random.key(0)), {}, CARD)
        return lambda: optimizers.load(path, 10).init({"w": jnp.ones(2)})
    if kind == "learners":
        signature, config = Signature(3, 2, 4), LSTMConfig(hidden=2)
        theta = jax.jit(learners_library.learner_for(signature, config).init)(jax.random.key(0))
        learners_library.save(path, config, signature, theta, CARD)
        return lambda: repr(learners_library.load(path))
    config = TableTransformerConfig(width=4, layers=1, cell_layers=1, key_size=2, hidden=4)
    tables.save(path, config, jax.jit(network(config).init)(jax.random.key(0)), CARD)
    return lambda: repr(tables.load(path))


CARD = {"horizon": 20, "config": {"length": 20, "steps": 3}, "objective": "mlp-digits", "measured_to": 30}


@pytest.mark.unchecked_types
@pytest.mark.parametrize("kind", ["optimizers", "learners", "tables"])
def test_mutated_cards_of_weights(kind, tmp_path: Path):
    path = tmp_path / "x.safetensors"
    read = _weights(kind, path)
    (theta, whole), refused = load_weights(path), 0

    @settings(FUZZ, max_examples=350)
    @given(mutated(whole))
    def read_again(changed):
        nonlocal refused
        save_weights(path, theta, changed)
        try:
            read()
        except MetalearnError as error:
            refused += 1
            assert str(path) in str(error) or "unknown learn" in str(error)
            assert len(str(error)) < 1500

    read_again()
    assert refused > 40


def test_mutated_bytes_of_weights(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    save_weights(path, {"w": jnp.arange(4.0)}, {"learner": {"name": "lstm"}, "steps": 3})
    whole = path.read_bytes()

    @FUZZ
    @given(st.integers(0, len(whole) - 1), st.integers(1, 255), st.booleans())
    def read(place, flip, cut):
        content = bytearray(whole)
        content[place] ^= flip
        path.write_bytes(bytes(content[:place] if cut else content))
        try:
            theta, card = load_weights(path)
        except RunError as error:
            assert str(path) in str(error)
        else:
            assert isinstance(card, dict) and (theta["w"] == jnp.arange(4.0)).all()

    read()
