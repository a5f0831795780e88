"""Tasks for losses: what is corrupted, what is not, and that the three splits have no example in common."""

import numpy as np
import pytest

from metalearn.errors import UnknownNameError
from metalearn_models.losses.search.population import check_task
from metalearn_tasks.datasets.corrupted import clean_splits, loss_task, names
from metalearn_tasks.datasets.generated import generate


@pytest.mark.parametrize("name", names())
def test_the_three_splits_have_no_example_in_common(name):
    splits = clean_splits(name, seed=3)
    rows = [{x.tobytes() for x in split[0]} for split in splits]
    assert [len(r) for r in rows] == [len(split[1]) for split in splits]
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]


@pytest.mark.parametrize("name", names())
def test_a_task_is_valid_and_its_noise_is_in_the_training_labels_alone(name):
    clean, noisy = loss_task(name, seed=1), loss_task(name, 0.4, seed=1)
    check_task(noisy)
    for a, b in ((clean.train[0], noisy.train[0]), *zip(clean.valid, noisy.valid, strict=True)):
        np.testing.assert_array_equal(a, b)
    changed = (clean.train[1] != noisy.train[1]).mean()
    expected = 0.4 * (1 if clean.kind == "regression" else (clean.outputs - 1) / clean.outputs)
    assert abs(changed - expected) < 0.07


def test_a_fifth_of_the_targets_is_shifted_by_3_to_8_deviations_four_of_five_upward():
    clean, noisy = loss_task("friedman2", seed=2), loss_task("friedman2", 0.2, seed=2)
    shift = np.asarray(noisy.train[1], np.float64) - clean.train[1]
    shift = shift[shift != 0]
    assert len(shift) == 50 and (shift > 0).sum() == 40
    assert np.abs(shift).min() >= 3 - 1e-5 and np.abs(shift).max() <= 8 + 1e-5
    np.testing.assert_allclose([clean.train[1].mean(), clean.train[1].std()], [0, 1], atol=1e-5)


@pytest.mark.parametrize("unit", ["deviation", "robust"])
def test_targets_in_a_unit_that_a_user_knows_are_the_same_ones(unit):
    """Moved and scaled by statistics of the training targets as they are, shifted ones among them."""
    plain, found = loss_task("friedman1", 0.3, seed=4), loss_task("friedman1", 0.3, seed=4, unit=unit)
    y = np.asarray(plain.train[1], np.float64)
    middle = np.median(y) if unit == "robust" else y.mean()
    scale = 1.4826 * np.median(np.abs(y - middle)) if unit == "robust" else y.std()
    assert scale > 1.2  # the standard deviation of the targets without corruption is 1
    for split in ("train", "valid"):
        (x, y), (same, moved) = getattr(plain, split), getattr(found, split)
        np.testing.assert_array_equal(x, same)
        np.testing.assert_allclose(moved, (y - middle) / scale, rtol=1e-4, atol=1e-5)
        assert moved.dtype == np.float32
    with pytest.raises(ValueError, match=r'unit is for targets of regression .*, got "robust" for wine'):
        loss_task("wine", unit="robust")


def test_digits_are_split_by_class():
    low, high, both = (clean_splits(name) for name in ("digits-low", "digits-high", "digits"))
    sizes = [sum(len(split[1]) for split in splits) for splits in (low, high, both)]
    assert sizes == [901, 896, 1797]
    assert set(high.train[1]) == {0, 1, 2, 3, 4} and set(both.train[1]) == set(range(10))


def test_seeds_give_other_splits_and_the_same_seed_the_same():
    first, again, other = (clean_splits("wine", seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.train[0], again.train[0])
    assert not np.array_equal(first.train[1], other.train[1])


def test_bad_arguments_are_named():
    with pytest.raises(UnknownNameError, match="unknown task 'digit'"):
        loss_task("digit")
    with pytest.raises(ValueError, match=r"in \[0, 1\), got 1"):
        loss_task("iris", 1.0)
    with pytest.raises(ValueError, match="seed must not be negative, got -1"):
        clean_splits("iris", -1)


@pytest.mark.parametrize("name", ["digits-3", "template-x", "teacher-1", "template-0", "rings-5", "mixture"])
def test_generated_data_of_no_kind_or_number_are_refused(name):
    with pytest.raises(ValueError, match=f"K of at least 2, or rings; got '{name}'"):
        generate(name, 0)
