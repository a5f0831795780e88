"""The state-size experiment: configurations, arithmetic of the summary, end to end at toy size."""

import json

import jax
import numpy as np
import pytest

from experiments.in_context.state_size import experiment as state_size
from experiments.in_context.state_size.correlations import correlations, effect
from experiments.in_context.state_size.experiment import PRESETS, RATES, Settings, config, equal_ratio, members
from experiments.suite import run as suite
from metalearn.learner import Signature
from metalearn.recipes.in_context.build import prepare
from metalearn_models.learners.registry import build_learner, learner_name
from tests.experiments.in_context.toys import tiny_config
from tests.metalearn.sweeps.sweep_cells import Recorded

SIGNATURES = {"small": Signature(16, 10, 50), "published": Signature(196, 10, 100)}


def state_and_parameters(signature, learner):
    built = build_learner(signature, learner)
    shapes = jax.tree.leaves(jax.eval_shape(built.init, jax.random.key(0)))
    return built.state_size, sum(leaf.size for leaf in shapes)


@pytest.mark.parametrize("preset", PRESETS)
def test_controls_vary_state_or_parameters_alone(preset):
    settings = PRESETS[preset]
    sizes = {group: [] for group in ("families", "window", "key size", "width")}
    for member in members(settings).values():
        found = state_and_parameters(SIGNATURES[settings.size], member.learner)
        for group in member.groups:
            sizes[group].append(found)
    windows, keys, widths = (np.asarray(sizes[group]) for group in state_size.CONTROLS)
    assert windows[-1, 0] == 16 * windows[0, 0] and np.ptp(windows[:, 1]) == 0
    assert keys[-1, 0] == 16 * keys[0, 0] and keys[:, 1].max() < 1.01 * keys[:, 1].min()
    assert np.ptp(widths[:, 0]) == 0 and widths[:, 1].max() > 8 * widths[:, 1].min()
    assert len(sizes["families"]) >= state_size.ENOUGH


def test_mlp_makes_up_for_smaller_keys_exactly():
    for key_size in (2, 4, 8, 16, 32):
        ratio = equal_ratio(32, 8, key_size, 32)
        assert 4 * 32 * 8 * key_size + 2 * ratio * 32**2 == 4 * 32 * 8 * 32 + 2 * 32**2
    with pytest.raises(ValueError, match="no multiple of the width 32"):
        equal_ratio(32, 4, 2, 5)


def test_cells_and_configurations():
    settings = Settings()
    found = state_size.cells(settings)
    assert len(found) == len({json.dumps(c) for c in found}) == 3 * len(members(settings))
    assert [c["seed"] for c in found] == sorted(c["seed"] for c in found)  # pyright: ignore[reportArgumentType]
    for cell in found:
        built = config(settings, cell)
        assert built.family.num_tasks is None and built.family.seed == built.seed == cell["seed"]
        assert built.steps == settings.steps
        assert built.outer_optimizer.learning_rate == RATES[learner_name(built.learner)]
        assert getattr(built.learner, "token", "pair") == "pair"
    cell = {"learner": "transformer-32-key-4x8-window-12", "seed": 1}
    assert prepare(config(settings, cell)).learner.state_size == 2 * 2 * 4 * 8 * 12
    paper = config(PRESETS["paper"], {"learner": "lstm-256", "seed": 0})
    assert paper.outer_optimizer.learning_rate == 1e-3 and paper.steps == 50_000


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    """The rules do not depend on the last digits of intervals."""
    monkeypatch.setattr("experiments.suite.intervals.DRAWS", 300)


def row(learner, family, groups, state, parameters, accuracy, seed=0):
    return {
        "learner": learner, "family": family, "groups": groups, "state": state, "parameters": parameters,
        "unseen_last": accuracy, "seed": seed,
    }  # fmt: skip


def hand_made():
    """Accuracy follows the state of 8 configurations exactly, and parameters not at all."""
    parameters = [30, 10, 80, 40, 60, 20, 70, 50]
    rows = [
        row(f"a{i}", "lstm" if i < 4 else "vsml", ["families"], 10 * 2**i, p, 0.1 + 0.1 * i + 0.01 * seed, seed)
        for seed in range(2)
        for i, p in enumerate(parameters)
    ]
    for seed in range(2):
        rows += [
            row(f"w{w}", "transformer", ["window"], w, 100, 0.2 + 0.01 * w + 0.02 * seed * (w > 1), seed)
            for w in (1, 4, 16)
        ]
        rows += [row(f"m{m}", "transformer", ["width"], 64, 100 * m, 0.5 + 0.1 * (m == 8), seed) for m in (1, 8)]
    return rows


def test_summary_of_hand_made_rows():
    found = state_size.summarise(Settings(), hand_made())
    assert found["verdict"] == "reproduced"
    main = found["correlations"]["families"]
    x, y = np.arange(8) + 1, np.argsort(np.argsort([30, 10, 80, 40, 60, 20, 70, 50])) + 1
    by_formula = 1 - 6 * ((x - y) ** 2).sum() / (8 * 63)
    assert main["parameters"][0] == pytest.approx(by_formula, abs=0.02)  # to within ties of seeds
    assert main["state"][0] > 0.98 and main["difference"][0] == pytest.approx(main["state"][0] - main["parameters"][0])
    assert np.isnan(found["correlations"]["window"]["parameters"][0])
    nearly = [{**r, "parameters": 1000 + r["state"] // 2} for r in hand_made() if r["groups"] == ["window"]]
    assert np.isnan(correlations(nearly)["parameters"]).all() and correlations(nearly)["state"][0] > 0.9
    window, width = found["effects"]["window"], found["effects"]["width"]
    assert (window["varied"], window["least"], window["most"]) == ("state", "w1", "w16")
    assert window["spans"] == {"state": 16, "parameters": 1} and window["moved"][0] == pytest.approx(0.16)
    half = (
        12.706 * 0.02 / 2
    )  # Student's t of one degree of freedom, a difference of .15 with one seed, .17 with another
    assert window["moved"][1:] == pytest.approx([0.16 - half, 0.16 + half], abs=1e-5)
    assert width["varied"] == "parameters" and width["moved"] == pytest.approx([0.1, 0.1, 0.1])
    assert "moved by +0.160 [+0.033, +0.287] when state grew 16-fold at equal parameters" in found["words"]


def test_the_rule_needs_state_to_beat_parameters():
    both = [{**r, "parameters": r["state"]} for r in hand_made()]
    assert correlations(both)["difference"] == [0, 0, 0]
    assert state_size.summarise(Settings(), both)["verdict"] == "not reproduced"
    backwards = [{**r, "unseen_last": 1 - r["unseen_last"]} for r in hand_made()]
    assert state_size.summarise(Settings(), backwards)["verdict"] == "not reproduced"
    few = [r for r in hand_made() if r["state"] < 100]
    assert state_size.summarise(Settings(), few)["verdict"] == "open"
    one_family = [{**r, "family": "lstm"} for r in hand_made()]
    assert state_size.summarise(Settings(), one_family)["verdict"] == "open"


def test_one_seed_has_no_interval_of_an_effect():
    single = [r for r in hand_made() if r["seed"] == 0 and r["groups"] == ["window"]]
    found = effect(single, {r["learner"]: r for r in single})
    assert found is not None and np.isinf(found["moved"][1:]).all()
    assert effect(single[:1], {r["learner"]: r for r in single}) is None


@pytest.mark.parametrize("kept", ["all", "one seed", "one row", "controls"])
def test_pictures_and_tables_of_partial_results(tmp_path, kept):
    from metalearn.runs.json_values import as_json, finite_or_null

    chosen = {
        "all": lambda r: True, "one seed": lambda r: r["seed"] == 0,
        "one row": lambda r: r["learner"] == "a0" and r["seed"] == 0, "controls": lambda r: r["learner"][0] != "a",
    }[kept]  # fmt: skip
    rows = [r for r in hand_made() if chosen(r)]
    result = {"rows": rows, "summary": state_size.summarise(Settings(), rows)}
    result = json.loads(json.dumps(finite_or_null(as_json(result)), allow_nan=False))
    assert all(r["learner"] in state_size.table(result) for r in rows)
    state_size.draw(result, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_runs_end_to_end_at_toy_size(tmp_path, monkeypatch, shared_programs):
    monkeypatch.setattr(state_size, "small_config", tiny_config)
    settings = Settings((4,), (), (), (8,), 8, (), (), (8,), 2, 2)
    result = suite.run("experiments.in_context.state_size.experiment", settings, tmp_path, workers=0, watch=Recorded())
    assert not result["failed"] and result["summary"]["verdict"] == "open"
    sizes = {r["learner"]: (r["state"], r["parameters"], r["groups"]) for r in result["rows"]}
    attention, mlp, norms = 4 * 8 * 8 + 24 + 8, 2 * 4 * 8**2 + 32 + 8, 3 * 2 * 8
    outside = (16 + 10 + 16) * 8 + 8 + 12 * 8 + 8 * 10 + 10
    assert sizes == {
        "lstm-4": (8, (42 * 4 + 4) + (4 * 4 + 4) + 2 * 4 * 16 + 16 + (4 * 10 + 10), ["families"]),
        "transformer-8-key-2x4": (2 * 2 * 4 * 12, attention + mlp + norms + outside, ["families", "width"]),
    }
    assert len(result["rows"]) == 4 and all(0 <= r["unseen_last"] <= 1 for r in result["rows"])
    assert (tmp_path / "state_size.png").exists()
