"""`metalearn search-loss` and `metalearn loss` at toy size, and a learned loss in a stranger's loop."""

import json

import jax
import numpy as np
import pytest

from experiments.losses import downstream as downstream_loss
from metalearn.cli.main import main
from metalearn_models.losses import SymbolicLoss

TINY = [
    *("--data", "iris", "--noise", "0.3", "--hidden", "4", "--population", "4", "--generations", "2"),
    *("--training.steps", "10", "--training.seeds", "1", "--training.learning-rates", "0.01", "--quiet", "--json"),
    *("--refinement.meta-steps", "2", "--refinement.candidates", "1", "--refinement.inner-steps", "1"),
    *("--refinement.judge-seeds", "2", "--refinement.judge-learning-rates", "0.01"),
]


def run(capsys, *words):
    status = main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search") / "found"
    assert main(["search-loss", *TINY, "--out", str(folder)]) == 0
    return folder


def test_a_search_leaves_the_loss_its_picture_and_its_result(searched):
    result = json.loads((searched / "result.json").read_text())
    loss = SymbolicLoss.read(searched / "loss.json")
    assert loss.provenance["tasks"] == "iris" and loss.provenance["noise"] == 0.3
    assert result["finalists"][0]["formula"] == result["formula"]
    assert result["candidates"] == 8 and 0 < result["trained"] <= 8
    assert set(result["refined"]) == {"before", "after", "accepted"}
    assert (searched / "loss.png").stat().st_size > 10_000
    values = loss(np.zeros((2, 3), np.float32), np.array([0, 2]))
    assert values.shape == (2,) and np.isfinite(values).all()


def test_a_finished_search_is_not_made_again_and_another_one_is_refused(searched, capsys):
    before = (searched / "search.json").read_bytes()
    status, out, err = run(capsys, "search-loss", *TINY, "--out", searched, "--no-refine")
    assert status == 0, err
    assert (searched / "search.json").read_bytes() == before
    assert json.loads(out.splitlines()[-1])["refined"] is None
    status, _, err = run(capsys, "search-loss", *TINY, "--out", searched, "--seed", 1, "--generations", 3)
    assert status == 1 and len(err.splitlines()) == 1 and "{" not in err
    assert "another search, old -> new: config.generations: 2 -> 3; config.seed: 0 -> 1; tasks.0 iris: " in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search-loss", "--data", "wein"], "Did you mean 'wine'"),
        (["search-loss", "--data", "wine", "diabetes"], "kind"),
        (["search-loss", "--data", "wine", "--noise", "1.5"], "noise"),
        (["search-loss", "--control"], "--strategy random is that search already: leave --control out, or choose"),
        (["loss", "show", "fokal"], "Did you mean 'focal'"),
        (["loss", "show"], "name a loss to show"),
        (["loss", "show", "nowhere.json"], "there is no file nowhere.json"),
        (["loss", "draw"], "unknown action 'draw'"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(words, message, capsys, tmp_path):
    extra = ["--out", tmp_path / "x", "--quiet"] if words[0] == "search-loss" else []
    status, _, err = run(capsys, *words, *extra)
    assert status in (1, 2) and message in err and len(err.splitlines()) == 1


def test_show_prints_formula_and_provenance_of_a_file_and_of_a_name(searched, capsys, tmp_path):
    status, out, _ = run(capsys, "loss", "show", searched / "loss.json", "--picture", tmp_path / "l.png", "--json")
    shown = json.loads(out.splitlines()[-1])
    assert status == 0 and shown["link"] == "softmax" and shown["  tasks"] == "iris"
    assert (tmp_path / "l.png").stat().st_size > 10_000
    status, out, _ = run(capsys, "loss", "show", "focal")
    assert status == 0 and "by hand" in out
    status, out, _ = run(capsys, "loss", "list", "--json")
    listed = json.loads(out.splitlines()[-1])
    assert status == 0 and listed["cross-entropy"] == "for classes, made by hand"
    assert listed["mae"] == "for numbers, made by hand; scale= is the unit of the targets (default 1)"
    assert listed["label-noise"] == "for classes, learned; 2 to 1,000 classes"
    assert listed["robust-regression"] == "for numbers, learned; scale= is the unit of the targets (default 1)"
    status, out, _ = run(capsys, "loss", "show", "label-noise")
    assert status == 0 and "range:        2 to 1,000 classes" in out and "9 / (C - 1)" in out


def test_a_strangers_flax_loop_trains_by_a_loss_of_the_library():
    config = downstream_loss.DownstreamConfig(losses=("cross-entropy", "gce"), noise=0.0, steps=150, seeds=1)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # a stranger's are the defaults
        found = downstream_loss.run(config)
    assert min(accuracies[0] for accuracies in found["each"].values()) > 0.85
    assert downstream_loss.format_result(found).split()[:2] == [
        "cross-entropy",
        f"{found['each']['cross-entropy'][0]:.3f}",
    ]
