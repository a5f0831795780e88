"""`metalearn train tables`: runs that resume to the same bits, and what is refused."""

import json

import numpy as np
import pytest

from metalearn.cli.main import main
from metalearn.recipes.tables import evaluation, feed
from metalearn.recipes.tables.feed import Shape, draw_batch
from metalearn_models.tabular.transformer import core, library
from metalearn_tasks.families.tables import TablesConfig

SMALL = "--learner.width 8 --learner.layers 1 --learner.cell-layers 1 --learner.key-size 4 --learner.hidden 8 --size 1"
RUN = [*SMALL.split(), "--optimizer.warmup", "1", "--optimizer.decay", "0", "--quiet", "--json"]


@pytest.fixture
def small(monkeypatch):
    """Few and small tables, to learn from and to be scored on."""
    monkeypatch.setattr(feed, "SHAPES", (Shape(8, 4, 3),))
    rng = np.random.default_rng(0)
    xs = rng.standard_normal((40, 3))
    monkeypatch.setattr(evaluation, "real_tables", lambda: {"made": (xs, (xs[:, 0] > 0).astype(int))})
    monkeypatch.setattr(evaluation, "ROWS", (12,))


def test_a_run_resumes_to_the_same_bits(small, tmp_path, capsys):
    def train(folder, *words):
        assert main(["train", *words]) == 0
        out = capsys.readouterr().out.splitlines()
        assert "random forest" in out[0]
        assert main(["plot", str(folder)]) == 0  # draws what the run drew
        capsys.readouterr()
        assert (folder / "training.png").read_bytes() == (folder / "tables.png").read_bytes()
        return json.loads(out[-1])

    whole = train(tmp_path / "a", "tables", "--run", str(tmp_path / "a"), "--steps", "4", *RUN)
    first = train(tmp_path / "b", "tables", "--run", str(tmp_path / "b"), "--steps", "2", *RUN)
    assert first["theta_sha256"] != whole["theta_sha256"]
    rest = train(tmp_path / "b", "--resume", str(tmp_path / "b"), "--steps", "4", "--quiet", "--json")
    assert rest["theta_sha256"] == whole["theta_sha256"] and rest["steps"] == 4
    assert rest["real_log_loss"] == whole["real_log_loss"]
    lines = [json.loads(line) for line in (tmp_path / "b" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    loaded = library.load(tmp_path / "b")
    assert loaded.card["steps_done"] == 4 and loaded.config.width == 8
    rng = np.random.default_rng(0)
    got = core.predict_log_proba(loaded, np.eye(3), np.array([0, 1, 0]), np.eye(3), views=1, rng=rng)
    np.testing.assert_allclose(np.exp(got).sum(1), 1, atol=1e-5)


def test_tables_of_a_step_do_not_depend_on_who_draws_them():
    arguments = (0, TablesConfig(classes=4), 1, 16)
    with feed.feed(*arguments) as source:
        for step in (5, 6, 9, 2):
            taken, drawn = source.take(step), draw_batch(step, *arguments)
            for a, b in zip((*taken.context, taken.xs, taken.ys), (*drawn.context, drawn.xs, drawn.ys), strict=True):
                np.testing.assert_array_equal(a, b)
    shapes = {draw_batch(step, *arguments).xs.shape[1:] for step in range(len(feed.SHAPES))}
    assert shapes == {(shape.test, shape.columns) for shape in feed.SHAPES}


def test_the_shares_of_several_processes_are_the_tables_of_one():
    arguments = (4, 0, TablesConfig(classes=4), 20, 16)
    whole, parts = draw_batch(*arguments), [draw_batch(*arguments, (number, 3)) for number in range(3)]
    assert len(whole.ys) == 5 and [len(part.ys) for part in parts] == [1, 2, 2]
    for i, ours in enumerate((*whole.context, whole.xs, whole.ys)):
        np.testing.assert_array_equal(ours, np.concatenate([(*p.context, p.xs, p.ys)[i] for p in parts]))


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("--steps 50 --optimizer.warmup 60", ("--optimizer.warmup", "60", "50")),
        ("--prior.classes 40", ("--prior.classes", "--learner.codes", "40", "16")),
        ("--learner.layers 1", ("--learner.cell-layers", "--learner.layers", "2")),
        ("--learner.width 0", ("--learner.width", "0")),
        ("--size none", ("--size", "none")),
        ("--stepz 50", ("--stepz", "--steps")),
        ("--run", ("--run", "needs a value")),
        ("--resume nowhere", ("nowhere is not a run folder",)),
    ],
)
def test_bad_options_are_named(tmp_path, monkeypatch, capsys, words, parts):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "tables", *words.split()]) in (1, 2)
    message = capsys.readouterr().err
    assert all(part in message for part in parts), message
    assert not list(tmp_path.iterdir())


def test_another_length_is_refused_once_the_rate_falls(small, tmp_path, capsys):
    run = str(tmp_path / "run")
    words = [word for word in RUN if word not in ("--optimizer.decay", "0")]
    assert main(["train", "tables", "--run", run, "--steps", "2", *words]) == 0
    assert main(["train", "--resume", run, "--steps", "9"]) == 1
    assert "the learning rate falls from step 1 on. Continue with --steps 2" in capsys.readouterr().err


def test_help(capsys):
    with pytest.raises(SystemExit):
        main(["train", "tables", "--help"])
    text = capsys.readouterr().out
    assert all(option in text for option in ("--learner.width", "--prior.causal", "--optimizer.decay", "--resume"))
    said = " ".join(text.split())
    assert "40 to 400 training rows, 5 to 56 columns and 2 to --prior.classes classes" in said
