"""`robust_units`: the unit of its test targets, its rule, and a toy run that goes on where it was."""

import numpy as np

from experiments.losses import robust_units
from experiments.losses._comparison import FRESH
from metalearn_models.losses import robust_scale
from metalearn_tasks.datasets.corrupted import clean_splits, loss_task


def test_test_targets_have_the_unit_of_the_training_targets():
    (held,) = robust_units.held_out("friedman3", 0.3, "robust", range(FRESH, FRESH + 1))
    noisy = np.asarray(loss_task("friedman3", 0.3, (32,), FRESH).train[1], np.float64)
    middle, scale = np.median(noisy), float(robust_scale(noisy))
    np.testing.assert_allclose(held.task.train[1], (noisy - middle) / scale, rtol=1e-4, atol=1e-5)
    exact = (clean_splits("friedman3", FRESH).test[1] - middle) / scale
    np.testing.assert_allclose(held.test[1], exact, rtol=1e-4, atol=1e-4)


def test_the_verdict_follows_its_rule():
    rows = {
        robust_units.title(name, *robust_units.CONDITIONS[0]): {
            label: {"each": [error]}
            for label, error in {"found": found, "welsch": 0.2, "robust-regression": 0.25, "huber": 1, "mae": 1}.items()
        }
        for name, found in zip(robust_units.HELD_OUT, (0.1, 0.39), strict=True)
    }
    verdict = robust_units.judge(rows)
    assert (verdict["found"], verdict["robust-regression"]) == ("holds", "short")
    assert np.isclose(verdict["geometric mean over welsch"]["found"], np.sqrt(0.5 * 1.95))


def test_a_toy_run_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(robust_units, "SCALES", (1.0,))
    monkeypatch.setattr(robust_units, "NAMES", ("mae", "welsch", "huber", "robust-regression"))
    monkeypatch.setattr(robust_units, "RATES", (0.01,))
    monkeypatch.setattr(robust_units, "META_TRAINING", ("friedman1",))
    config = robust_units.RobustUnitsConfig(
        seeds=1, trained=4, population=4, splits=1, choice_splits=1, fresh_seeds=1, steps=3, out=tmp_path
    )
    result = robust_units.run(config)
    assert "friedman2, 30% outliers, robust unit" in robust_units.format_result(result)
    assert (tmp_path / "robust_units.png").stat().st_size > 10_000
    monkeypatch.setattr(robust_units, "find_loss", None)
    monkeypatch.setattr(robust_units, "compare", None)
    assert robust_units.run(config)["results"] == result["results"]
