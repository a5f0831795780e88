"""The comparison of generators of parameters, at toy size, and its verdict."""

import dataclasses

import pytest

from experiments.gpt import _arms, checkpoints

TINY = checkpoints.CheckpointsConfig(
    hidden=(3,), arms=("regression", "codes"), runs=80, train_steps=8, snapshots=4, rate=0.1, width=8, layers=1,
    steps=4, batch=4, sampler=4, judged=2, prompts=3, neighbours=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def result(tmp_path_factory, fit_only):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_arms, "fit", fit_only("flow"))  # of codes
        return checkpoints.run(dataclasses.replace(TINY, out=tmp_path_factory.mktemp("gpt")))


def test_every_row_is_there(result):
    assert set(result["designs"]) == {"regression", "codes"}
    assert {
        "constant: mean of the ends", "constant: aligned mean", "soup of 16", "aligned soup of 16",
        "nearest stored checkpoint", "single gradient step", "stored + noise, as far as regression",
        "Adam, operations of codes", checkpoints.CEILING,
    } <= set(result["trivial"])  # fmt: skip
    near = result["trivial"]["nearest stored checkpoint"]
    assert near["distance"] == pytest.approx(0, abs=1e-4) and near["disagreement"] == 0  # it is its own neighbour
    noisy = result["trivial"]["stored + noise, as far as regression"]
    assert noisy["distance"] == pytest.approx(result["designs"]["regression"][0]["distance"], rel=0.3)
    # One prompt for all: R^2 cannot be above 0.
    assert result["trivial"]["constant: mean of the ends"]["r2"] <= 0
    text = checkpoints.format_result(result)
    assert "verdict: " in text and "aligned soup of 16" in text


def rows(**losses):
    return {name.replace("_", " "): {"r2": r2, "loss": loss, "steps": 3} for name, (r2, loss) in losses.items()}


def test_the_verdict_follows_its_rule():
    trivial = rows(single_gradient_step=(0.1, 2.0), nearest_stored_checkpoint=(0.5, 0.5), constant=(-1, 1.0))
    trivial["stored + noise, as far as regression"] = {"r2": 0.2, "loss": 0.6}
    designs = {"regression": [{"r2": 0.95, "loss": 0.3}, {"r2": 0.93, "loss": 0.3}]}
    found = checkpoints.judge_claims(designs, trivial, True)
    assert found["verdict"] == "reproduced" and found["first"] == "No trivial row is as good."
    trivial["nearest stored checkpoint"] = {"r2": 0.99, "loss": 0.02}
    assert "nearest stored checkpoint" in checkpoints.judge_claims(designs, trivial, True)["first"]
    trivial["stored + noise, as far as regression"] = {"r2": 0.2, "loss": 0.2}
    assert checkpoints.judge_claims(designs, trivial, True)["verdict"] == "not reproduced"
    both = designs | {"diffusion": [{"r2": 0.955, "loss": 0.2}]}
    trivial["stored + noise, as far as diffusion"] = {"r2": 0.2, "loss": 0.9}
    assert "plain regression" in checkpoints.judge_claims(both, trivial, True)["first"]


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"unknown design 'fow'. Did you mean 'flow'"):
        checkpoints.run(dataclasses.replace(TINY, arms=("fow",)))
    with pytest.raises(ValueError, match=r"exactly one with --arms codes; got \(\)"):
        checkpoints.run(dataclasses.replace(TINY, hidden=()))
