"""The experiment on generalisation: data in a learner's shapes, arithmetic of the summary, end to end at toy size."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.in_context.generalisation import experiment as generalisation
from experiments.in_context.generalisation.experiment import LEARNERS, PRESETS, SGD, Settings, config, summarise
from experiments.in_context.generalisation.foreign_data import episodes, examples, most_frequent, score
from experiments.in_context.generalisation.picture import NEW
from experiments.in_context.state_size.experiment import RATES
from experiments.suite import run as suite
from experiments.suite.intervals import list_interval
from metalearn.learner import Signature
from metalearn.recipes.in_context.config import DataConfig
from metalearn.runs.json_values import as_json, finite_or_null
from metalearn_models.learners.reference.neighbours import nearest_neighbour
from metalearn_tasks.datasets import Split, load
from tests.experiments.in_context.toys import tiny_config
from tests.metalearn.sweeps.sweep_cells import Recorded

DIGITS = DataConfig("digits", pca=16)


def test_which_examples_are_taken(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "some.npz", inputs=rng.normal(size=(60, 30)), labels=np.arange(60) % 7)
    home = dataclasses.replace(DIGITS, data_dir=str(tmp_path))
    names = ("digits", "random", "iris", "breast_cancer", "mnist")
    found, missing = examples(names, str(tmp_path / "some.npz"), home, 50, 10)
    assert {name: split.inputs.shape for name, split in found.items()} == {
        "digits": (397, 16), "random": (10, 196), "iris": (150, 4), "breast_cancer": (569, 16), "features": (60, 16),
    }  # fmt: skip
    assert np.array_equal(found["digits"].inputs, load("digits", pca=16).test.inputs)
    assert missing == {"mnist": "not prepared in the folder of tensorflow-datasets"}
    with pytest.raises(ValueError, match="features has 7 classes, the learner has only 5 outputs"):
        examples((), str(tmp_path / "some.npz"), home, 50, 5)
    with pytest.raises(ValueError, match="iris has 150 examples, but a sequence needs 200 different ones"):
        examples(("iris",), None, home, 200, 10)
    np.savez(tmp_path / "other.npz", x=np.ones(3))
    with pytest.raises(ValueError, match="needs arrays 'inputs'"):
        examples((), str(tmp_path / "other.npz"), home, 50, 10)


def test_episodes_are_projections_with_renamed_labels():
    multiples = np.outer(np.arange(1, 31), np.eye(8)[0]).astype(np.float32)  # so that a row's length tells its number
    split, signature = Split(multiples, np.arange(30, dtype=np.int32) % 3), Signature(64, 10, 30)
    xs, ys, classes = episodes("a", split, signature, 3, 2, 0)
    assert xs.shape == (6, 30, 64) and xs.dtype == np.float32 and ys.shape == (6, 30) and ys.dtype == np.int32
    lengths = np.linalg.norm(xs, axis=-1)
    numbers = np.rint(lengths / lengths.min(1, keepdims=True)).astype(int)
    assert (np.sort(numbers) == np.arange(1, 31)).all() and len(np.unique(numbers, axis=0)) == 6
    directions = (xs / numbers[..., None]).mean(1).reshape(3, 2, 64)  # one projection a task, entries N(0, 1/N_x)
    np.testing.assert_allclose(directions[:, 0], directions[:, 1], rtol=1e-4, atol=1e-6)
    assert np.square(directions).mean() == pytest.approx(1 / 8, rel=0.3)
    assert abs(np.corrcoef(directions[:, 0])[0, 1]) < 0.5
    renamed = [
        [{int(y) for y in ys[first : first + 2][(numbers[first : first + 2] - 1) % 3 == k]} for k in range(3)]
        for first in (0, 2, 4)
    ]
    assert all(len(names) == 1 for task in renamed for names in task)
    assert all(len(set.union(*task)) == 3 for task in renamed) and len({str(task) for task in renamed}) == 3
    for row, own in zip(ys, classes, strict=True):  # the outputs that stand for a class are the names in use
        assert own.shape == (10,) and set(np.flatnonzero(own)) == {int(y) for y in row}
    assert np.array_equal(xs, episodes("a", split, signature, 3, 2, 0)[0])
    assert not np.array_equal(xs, episodes("b", split, signature, 3, 2, 0)[0])
    assert not np.array_equal(xs, episodes("a", split, signature, 3, 2, 1)[0])


def test_scores_by_hand():
    """1-NN on examples of a few places is right exactly where the place has been met; every set has its own scores."""
    few = Split(np.eye(4, dtype=np.float32), np.arange(4, dtype=np.int32))
    signature = Signature(5, 10, 12)
    sets = {name: episodes(name, few, signature, 2, 2, 0) for name in ("a", "b")}
    found = score(nearest_neighbour(signature), (), sets, 0)
    for name, (_, ys, _) in sets.items():
        met = [[label in row[:t] for t, label in enumerate(row)] for row in ys]
        assert found[name].shape == ys.shape and np.array_equal(found[name][:, 4:], np.asarray(met)[:, 4:])
    several = np.array([[True, True, True], [False, True, True]])
    ys = np.array([[2, 2, 0, 0, 0, 0], [1, 1, 2, 2, 2, 2]])
    # Of no examples, the lowest name of a class is the answer.
    assert most_frequent(ys, several).tolist() == [[0, 1, 0, 0, 1, 1], [1, 1, 0, 0, 0, 1]]


def test_a_name_that_stands_for_no_class_is_no_answer():
    """A learner that says nothing scores the share of its lowest class, not that of ten names."""
    few = Split(np.eye(4, dtype=np.float32), np.arange(4, dtype=np.int32) % 2)
    signature = Signature(5, 10, 12)
    sets = {"a": episodes("a", few, signature, 4, 2, 0)}
    silent = nearest_neighbour(signature)._replace(predict=lambda theta, state, x: jnp.zeros(10), run=None)
    lowest = sets["a"][2].argmax(1)
    assert np.array_equal(score(silent, (), sets, 0)["a"], sets["a"][1] == lowest[:, None])


def test_configurations():
    settings = Settings(seeds=2, data_dir="somewhere")
    for name in LEARNERS:
        one, two = (config(settings, {"learner": name, "seed": seed}) for seed in (0, 1))
        assert two.seed == two.family.seed == 1 and dataclasses.replace(two, seed=0, family=one.family) == one
        assert one.family.num_tasks is None and one.family.permute_prob == 1 and one.steps == 1500
        assert (one.data.source, one.data.pca, one.data.data_dir) == ("digits", 16, "somewhere")
        assert getattr(one.learner, "token", "pair") == "pair"
        assert one.outer_optimizer.learning_rate == {**RATES, "maml": generalisation.MAML_RATE}[name]
    paper = config(PRESETS["paper"], {"learner": "lstm", "seed": 0})
    assert paper.data.source == "mnist" and paper.family.num_tasks == 2**25 and paper.family.permute_prob == 0.1
    assert paper.outer_optimizer.learning_rate == 1e-3 and (paper.learner.hidden, paper.learner.token) == (256, "paper")
    found = generalisation.cells(Settings(("iris",), seeds=2))
    assert found[:2] == [{"learner": "transformer", "seed": 0}, {"learner": "vsml", "seed": 0}] and len(found) == 10
    with pytest.raises(ValueError, match="no data set other than digits"):
        generalisation.cells(Settings(("kmnist",), data_dir="nowhere"))


def hand_made(transformer=(0.1, 0.12, 0.14), on_b=0.02, lstm=-0.3, best=0.03):
    """Three seeds on digits and on a and b: leads over SGD of the Transformer, and of the LSTM the same on both."""
    rows = []
    for seed, on_a in enumerate(transformer):
        sgd = {"digits": 0.7 + 0.1 * seed, "a": 0.5 + 0.1 * seed, "b": 0.6 - 0.2 * seed}  # paired, it cancels

        def figures(digits, a, b, beside=sgd):
            accuracy = {"digits": beside["digits"] + digits, "a": beside["a"] + a, "b": beside["b"] + b}
            return {"accuracy": accuracy, "curves": {name: [0.1, value] for name, value in accuracy.items()}}

        same = {"seed": seed, "missing": {"mnist": "not there"}}
        references = {SGD: figures(0, 0, 0), "1-NN": figures(0, best, best + 0.01 * seed), "ridge": figures(9, -1, -1)}
        rows += [
            {**same, "learner": "lstm", **figures(5, lstm, lstm - 0.01 * seed)},
            {**same, "learner": "transformer", **figures(-5, on_a, on_b), "references": references},
            {**same, "learner": "vsml", **figures(0, 0.05, 0.05 + 0.01 * seed)},
        ]
    return rows


def test_summary_of_hand_made_rows():
    found = summarise(Settings(), hand_made())
    leads = found["leads"]
    assert leads["transformer"]["a"] == pytest.approx(list_interval([0.1, 0.12, 0.14]))
    assert leads["transformer"][NEW] == pytest.approx(list_interval([0.06, 0.07, 0.08]))  # without digits
    assert leads["lstm"][NEW] == pytest.approx(list_interval([-0.3, -0.305, -0.31]))
    assert found["points"][SGD]["b"] == pytest.approx(list_interval([0.6, 0.4, 0.2]))
    best = found["lead over the best reference"]
    assert best["reference"] == "1-NN" and best[NEW] == pytest.approx(list_interval([0.03, 0.035, 0.04]))
    assert list(found["points"]) == ["transformer", "vsml", "lstm", SGD, "1-NN", "ridge"]
    assert found["missing"] == {"mnist": "not there"} and found["home"] == "digits"
    assert found["verdict"] == "beyond" and "never met: Transformer +0.070 [" in found["words"]
    assert "(a +0.120, b +0.020; behind on none)" in found["words"]


def test_the_rule():
    def verdict(rows):
        return summarise(Settings(), rows)["verdict"]

    assert verdict(hand_made(best=0.2)) == "reproduced"
    assert verdict(hand_made(transformer=(0.3, 0.01, -0.01))) == "not reproduced"  # the mean lead may be nothing
    assert verdict(hand_made(on_b=-0.02)) == "not reproduced"  # ahead on average, behind on b
    assert verdict(hand_made(lstm=0.1)) == "not reproduced"
    rows = hand_made()
    assert verdict([r for r in rows if r["seed"] == 0]) == "open"
    assert verdict([r for r in rows if r["learner"] != "lstm"]) == "open"
    assert verdict([r for r in rows if r["learner"] != "transformer"]) == "open"


@pytest.mark.parametrize("kept", ["all", "one seed", "no references", "references of another seed"])
def test_pictures_and_tables_of_partial_results(tmp_path, kept):
    chosen = {
        "all": lambda r: True, "one seed": lambda r: r["seed"] == 0, "no references": lambda r: "references" not in r,
        "references of another seed": lambda r: (r["learner"] == "transformer") == (r["seed"] == 0),
    }[kept]  # fmt: skip
    rows = [r for r in hand_made() if chosen(r)]
    result = {"rows": rows, "summary": summarise(Settings(), rows)}
    result = json.loads(json.dumps(finite_or_null(as_json(result)), allow_nan=False))
    text = generalisation.table(result)
    assert "left out: mnist, not there" in text and "LSTM" in text and "digits *" in text
    generalisation.draw(result, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_runs_end_to_end_at_toy_size(tmp_path, monkeypatch, shared_programs):
    monkeypatch.setattr(generalisation, "small_config", tiny_config)
    monkeypatch.setattr(generalisation, "LEARNERS", ("transformer", "maml"))
    both = generalisation.references(Signature(16, 10, 12))
    monkeypatch.setattr(generalisation, "references", lambda signature: {k: both[k] for k in (SGD, "nearest centroid")})
    settings = Settings(("iris", "random", "mnist"), str(tmp_path), seeds=1, steps=2, transformer=8, tasks=8)
    with jax.numpy_dtype_promotion("standard"):  # optax's bias correction takes a float to an integer power
        result = suite.run(
            "experiments.in_context.generalisation.experiment", settings, tmp_path, workers=0, watch=Recorded()
        )
    assert not result["failed"] and len(result["rows"]) == 2 and result["summary"]["verdict"] == "open"
    assert list(result["summary"]["missing"]) == ["mnist"]
    assert result["summary"]["sets"] == ["digits", "iris", "random"]
    for r in result["rows"]:
        assert ("references" in r) == (r["learner"] == "transformer") and len(r["curves"]["iris"]) == 12
        assert r["value"] == pytest.approx(np.mean([r["accuracy"]["iris"], r["accuracy"]["random"]]))
    reference = result["summary"]["points"]["nearest centroid"]
    assert reference["iris"][0] > 0.6 and reference["random"][0] > 0.4  # two steps suffice for neither learner
    assert reference["iris"][0] > result["summary"]["points"]["transformer"]["iris"][0]
    assert (tmp_path / "generalisation.png").exists()
