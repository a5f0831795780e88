"""Damaged files of losses: each is refused with a clear error, or is a loss that is written and read back equal."""

import copy
import json
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn_models.losses import SymbolicLoss, load, shipped
from metalearn_models.losses.library import SHIPPED

JUNK = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        1e300,
        10**400,
        0.5,
        "",
        "batch",
        "softmax",
        "identity",
        "nan",
        "1",
        "f",
        "y - f",
    ),
    *([], [1.0], [[]], {}, {"a": 1}, "\u0000", "\ud800", "mul(y", "x" * 70_000, [1.0] * 5000, [None] * 6),
]


def places(record, path=()):
    """Paths to all values of a JSON object."""
    found = [path]
    if isinstance(record, dict | list):
        keys = record if isinstance(record, dict) else range(len(record))
        found += [place for key in keys for place in places(record[key], (*path, key))]
    return found


def mutate_value(rng, record):
    record = copy.deepcopy(record)
    top = [place for place in places(record) if len(place) == 1]
    *path, last = rng.choice(top if rng.random() < 0.6 else places(record)[1:])
    parent = record
    for key in path:
        parent = parent[key]
    if rng.random() < 0.2:
        del parent[last]
    else:
        parent[last] = rng.choice(JUNK)
    return json.dumps(record).encode("utf-8", "surrogatepass")


def mutate_bytes(rng, text):
    start = rng.randrange(len(text))
    match rng.randrange(4):
        case 0:
            return text[:start]
        case 1:
            return text[:start] + bytes([rng.randrange(256)]) + text[start + 1 :]
        case 2:
            return text[:start] + text[start + rng.randrange(1, 9) :]
        case _:
            return text[:start] + text[rng.randrange(len(text)) :][:40] + text[start:]


@pytest.mark.parametrize("name", shipped())
def test_a_damaged_file_is_refused_in_words_or_is_a_valid_loss(name, tmp_path):
    text = (SHIPPED / f"{name}.json").read_bytes()
    rng, refused, path = random.Random(name), 0, tmp_path / "loss.json"
    for number in range(400):
        damaged = mutate_value(rng, json.loads(text)) if number % 2 else mutate_bytes(rng, text)
        path.write_bytes(damaged)
        try:
            loss = load(path)
        except ValueError as error:
            refused += 1
            message = str(error)
            assert message.startswith(f"{path}: ") and len(message) < 800 and "Traceback" not in message, damaged
        else:
            assert isinstance(loss, SymbolicLoss)
            loss.save(path)
            again = load(path)
            assert isinstance(again, SymbolicLoss) and again == loss and again.provenance == loss.provenance
            jax.tree.unflatten(jax.tree.structure(loss), jax.tree.leaves(loss))
    assert 120 < refused < 360, "some are damaged where it matters, and some where it does not"


def test_entries_of_the_second_version_are_written_and_read(tmp_path):
    logits, labels = jnp.zeros((2, 100)), jnp.zeros(2, jnp.int32)
    loss = load("label-noise")
    assert isinstance(loss, SymbolicLoss) and loss.classes == 10
    loss.save(tmp_path / "loss.json")
    again = load(tmp_path / "loss.json")
    np.testing.assert_array_equal(again(logits, labels), loss(logits, labels))
    plain = SymbolicLoss(loss.expr)
    assert plain != loss and plain(logits, labels)[0] > 3 * loss(logits, labels)[0]
    scaled = load("robust-regression", scale="batch")
    assert isinstance(scaled, SymbolicLoss)
    scaled.save(tmp_path / "loss.json")
    assert load(tmp_path / "loss.json") == scaled != load("robust-regression")
    assert json.loads(plain.to_json())["version"] == 1, "older versions of metalearn read it"


@pytest.mark.unchecked_types
@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"classes": 1}, "classes must be at least 2, with link 'softmax', got 1"),
        ({"classes": True}, '"classes" must be an integer of at least 2, got True'),
        ({"classes": 10.0}, '"classes" must be an integer'),
        ({"scale": "bach"}, 'scale must lie in .* or be "batch", got .bach.'),
        ({"scale": [1]}, '"scale" must be a positive number or "batch"'),
        ({"scale": 2.0}, "only losses of regression have a scale, got 2.0 with link 'softmax'"),
        ({"link": "identity"}, "classes must be at least 2, with link 'softmax', got 10 with 'identity'"),
    ],
)
def test_wrong_entries_of_the_second_version_are_refused(entries, message):
    record = json.loads((SHIPPED / "label-noise.json").read_text())
    with pytest.raises(ValueError, match=message):
        SymbolicLoss.from_json(json.dumps(record | entries))
