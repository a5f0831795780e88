"""Learned losses elsewhere: transfer, MNIST, refinement, speed; toy runs from end to end."""

import json

import jax
import numpy as np
import pytest

from experiments.losses import mnist as mnist_losses
from experiments.losses import refinement
from experiments.losses import transfer as loss_transfer
from experiments.losses._comparison import compare, held_out_tasks
from metalearn_models.losses import SymbolicLoss, load, parse
from metalearn_models.losses.refinement.refine import Candidate, RefineResult
from metalearn_models.losses.search.population import TrainingConfig
from metalearn_tasks import datasets


def test_transfer_compares_every_network_and_data_set_by_the_same_rule(tmp_path, monkeypatch):
    part = loss_transfer.Part("regression", "mse", ("mse", "mae"), (0.2, 0.0), ("friedman2",), ("friedman3",), (4,))
    monkeypatch.setattr(loss_transfer, "parts", lambda config: (part,))
    config = loss_transfer.LossTransferConfig(networks=("3-2",), learning_rates=(1e-2,), steps=2, seeds=2, out=tmp_path)
    found = loss_transfer.run(config)
    rows = found["parts"]["regression"]["rows"]
    names = ["friedman2, 4", "friedman2, 3-2", "friedman3, 4"]
    assert list(rows) == [f"{name}, {kind}" for kind in ("20% noise", "clean") for name in names]
    training = TrainingConfig(steps=2, learning_rates=(1e-2,))
    alone = compare({"mae": load("mae")}, {"t": held_out_tasks("friedman2", 0.2, (3, 2), 2)}, training)["t"]["mae"]
    np.testing.assert_allclose(rows["friedman2, 3-2, 20% noise"]["mae"]["each"], alone.test, rtol=1e-5)
    assert json.loads((tmp_path / "result.json").read_text()) == found
    assert (tmp_path / "transfer.png").stat().st_size > 10_000
    better = sum(row["mae"]["mean"] < row["mse"]["mean"] for name, row in rows.items() if name.endswith("clean"))
    assert f"clean, 3 rows: better than mse: mae in {better}" in loss_transfer.format_result(found)


def test_transfer_of_the_shipped_losses_is_to_other_networks_and_data():
    config = loss_transfer.LossTransferConfig()
    for part in loss_transfer.parts(config):
        base = "-".join(map(str, part.hidden))
        assert base not in config.networks and part.losses[-1] in ("label-noise", "robust-regression")
        assert not {*part.networks_on} & {"digits-low", "wine", "diabetes", "friedman1"}
    assert [loss_transfer.read_widths(text) for text in ("none", "16", "64-32")] == [(), (16,), (64, 32)]
    for wrong in ("", "0", "64,32", "64-"):
        with pytest.raises(ValueError, match="written as 64-32"):
            loss_transfer.read_widths(wrong)


def test_convolutions_by_patches_are_those_of_jax():
    x = jax.random.normal(jax.random.key(0), (2, 7, 6, 3))
    weight = jax.random.normal(jax.random.key(1), (4, 3, 3, 5))
    exact = jax.lax.conv_general_dilated(x, weight, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(mnist_losses.convolve(x, weight), exact, rtol=1e-4, atol=1e-4)
    means = np.asarray(x)[:, :6].reshape(2, 3, 2, 3, 2, 3).mean((2, 4))
    np.testing.assert_allclose(mnist_losses.halve(x), means, rtol=1e-5, atol=1e-6)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (60, 12, 12), np.uint8), np.arange(60) % 4
    return datasets.load((x[:40], y[:40], x[40:], y[40:]))


def test_noise_is_in_the_training_labels_of_images_alone(images):
    config = mnist_losses.MnistLossesConfig(size=12, train=30, valid=10, seeds=2)
    noisy, clean = mnist_losses.image_tasks(images, config, 0.5), mnist_losses.image_tasks(images, config, 0.0)
    for a, b in zip(noisy, clean, strict=True):
        assert 5 <= (a.task.train[1] != b.task.train[1]).sum() <= 15
        for left, right in ((a.task.valid, b.task.valid), (a.test, images.test)):
            np.testing.assert_array_equal(left[0], right[0])
            np.testing.assert_array_equal(left[1], right[1])
        seen = {x.tobytes() for x in a.task.train[0]}
        assert len(seen) == 30 and not seen & {x.tobytes() for x in a.task.valid[0]}
    assert not np.array_equal(noisy[0].task.valid[1], noisy[1].task.valid[1])
    with pytest.raises(ValueError, match="40 training images, got train=31 and valid=10"):
        mnist_losses.image_tasks(images, mnist_losses.MnistLossesConfig(size=12, train=31, valid=10), 0.5)


def test_mnist_runs_end_to_end_at_toy_size(tmp_path, monkeypatch, images):
    monkeypatch.setattr(mnist_losses.datasets, "load", lambda source, size: images)
    config = mnist_losses.MnistLossesConfig(
        losses=("label-noise",),
        size=12,
        train=30,
        valid=10,
        steps=2,
        batch=8,
        learning_rates=(1e-3,),
        seeds=2,
        out=tmp_path,
    )
    found = mnist_losses.run(config)
    assert list(found["results"]) == ["40% noise", "clean"]
    assert json.loads((tmp_path / "result.json").read_text()) == found
    assert (tmp_path / "mnist_losses.png").stat().st_size > 10_000
    mean = found["results"]["clean"]["label-noise"]["mean"]
    assert f"{100 * mean:.2f}" in mnist_losses.format_result(found)


def test_where_there_is_no_mnist_the_experiment_says_so(tmp_path):
    found = mnist_losses.run(mnist_losses.MnistLossesConfig(mnist=str(tmp_path / "nothing"), out=tmp_path / "out"))
    assert (
        "nothing" in found["skipped"]
        and found["skipped"] in mnist_losses.format_result(found)
        and not (tmp_path / "out").exists()
    )
    with pytest.raises(ValueError, match="at least 10 x 10 pixels, got 8 x 8"):
        mnist_losses.lenet(8, 10)


# --- refinement, speed -----------------------------------------------------------------------------------------------


def test_refinement_reports_the_formula_that_was_kept(tmp_path, monkeypatch):
    history = (Candidate(0, float("nan"), (1.0,), 1.0), Candidate(5, 0.3, (2.0,), float("inf")))

    def refined(learnable, theta, tasks, config, progress):
        assert [task.name for task in tasks] == ["diabetes", "friedman1"] and config.moment == "last"
        kept = np.asarray([1.0, -1.0, 1.0], np.float32) if config.inner_steps == 7 else theta
        return RefineResult(kept, 1.0, 1.0, history, config.inner_steps == 7)

    monkeypatch.setattr(refinement, "refine", refined)
    formula = "square(sub(f, y))"
    config = refinement.RefinementConfig(
        formulas=(formula,), inner_steps=(1, 7), horizon=3, fresh_seeds=2, hidden=(2,), out=tmp_path
    )
    found = refinement.run(config)
    before, same, other = (found["results"][f"{formula}{end}"] for end in ("", ", K = 1", ", K = 7"))
    assert same == before
    flipped = {"l": SymbolicLoss(parse(formula), (1.0, -1.0, 1.0), "identity")}
    rows = {"friedman2": held_out_tasks("friedman2", 0.2, (2,), 2)}
    exact = compare(flipped, rows, TrainingConfig(steps=3))["friedman2"]["l"]
    np.testing.assert_allclose(other["friedman2"]["each"], exact.test, rtol=1e-5)
    assert found["refined"][f"{formula}, K = 7"] == {"accepted": True, "steps": [0, 5], "ratios": [1.0, None]}
    assert (tmp_path / "refinement.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "result.json").read_text()) == found
    assert "diverged" in refinement.format_result(found)
