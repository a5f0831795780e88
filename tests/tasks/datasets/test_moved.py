import dataclasses
import re

import numpy as np
import pytest

from metalearn.recipes.in_context.build import load_dataset
from metalearn.recipes.in_context.config import DataConfig, TrainConfig, from_json, to_json
from metalearn_tasks.datasets import load
from metalearn_tasks.datasets.moved import DEGREES, SCALE, SHIFT, move, moved_copies


def images(n, channels=(), seed=0):
    return np.random.default_rng(seed).uniform(0, 1, (n, 6, 5, *channels))


def own_splits(n=12, m=7):
    return images(n), np.arange(n) % 3, images(m, seed=1), np.arange(m) % 3


def test_a_whole_shift_moves_pixels_down_and_right_and_repeats_the_edge():
    image = images(1)[0]
    expected = np.roll(image, (2, -1), (0, 1))
    expected[:2], expected[:, -1] = expected[2], expected[:, -2]
    np.testing.assert_allclose(move(image, (2, -1), 0.0, 1.0), expected, atol=1e-12)


def test_a_quarter_turn_is_anticlockwise_channel_by_channel():
    image = np.random.default_rng(0).uniform(0, 1, (7, 7, 2))
    np.testing.assert_allclose(move(image, (0, 0), 90.0, 1.0), np.rot90(image), atol=1e-12)


def test_scale_two_keeps_the_centre_and_shows_every_second_place_at_its_old_pixel():
    image = np.random.default_rng(0).uniform(0, 1, (7, 7))
    np.testing.assert_allclose(move(image, (0, 0), 0.0, 2.0)[1::2, 1::2], image[2:5, 2:5], atol=1e-12)


def test_a_shift_comes_after_turn_and_scale():
    image = np.random.default_rng(0).uniform(0, 1, (7, 7))
    turned = move(image, (0, 0), 30.0, 1.3)
    np.testing.assert_allclose(move(image, (1, 2), 30.0, 1.3)[1:, 2:], turned[:-1, :-2], atol=1e-12)


def test_a_moved_image_keeps_to_its_own_range():
    image = np.zeros((7, 7))
    image[3, 3] = 1.0  # a cubic spline would go below 0 beside it
    assert move(image, (0.4, 0.3), 10.0, 1.0).min() == 0.0


def test_every_copy_of_every_image_is_moved_by_a_draw_of_its_own_within_the_limits(monkeypatch):
    moves = []
    monkeypatch.setattr(
        "metalearn_tasks.datasets.moved.move", lambda image, *how: (moves.append((*how[0], *how[1:])), image)[1]
    )
    copies = moved_copies(images(200), 3, seed=0)
    np.testing.assert_array_equal(copies, np.tile(images(200), (3, 1, 1)))
    drawn = np.array(moves)
    assert len(np.unique(drawn, axis=0)) == 600
    limits = np.array([SHIFT * 6, SHIFT * 5, DEGREES, np.log(SCALE)])
    drawn[:, 3] = np.log(drawn[:, 3])
    assert (np.abs(drawn) <= limits).all()
    assert (drawn.min(0) < -0.9 * limits).all() and (drawn.max(0) > 0.9 * limits).all()


def test_the_seed_decides_and_more_copies_leave_the_first_as_they_are():
    one, two, other = moved_copies(images(4), 1, 0), moved_copies(images(4), 2, 0), moved_copies(images(4), 1, 1)
    np.testing.assert_array_equal(two[:4], one)
    assert not np.allclose(two[4:], one) and not np.allclose(other, one)


@pytest.mark.parametrize("source", [own_splits(), own_splits()[:2]])
@pytest.mark.parametrize("pca", [None, 4])
def test_copies_come_behind_the_images_and_leave_them_the_test_split_and_all_statistics_alone(source, pca):
    plain, more = load(source, pca=pca), load(source, pca=pca, copies=3)
    n = len(plain.train.labels)
    assert (more.shape, more.classes, more.origin) == (plain.shape, plain.classes, plain.origin)
    np.testing.assert_array_equal(more.train.inputs[:n], plain.train.inputs)
    np.testing.assert_array_equal(more.train.labels, np.tile(plain.train.labels, 3))
    for found, expected in zip(more.test, plain.test, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert more.train.inputs.dtype == np.float32 and more.train.inputs.shape == (3 * n, plain.inputs)


def test_copies_are_prepared_as_the_images_are():
    x, y, *test = own_splits()
    copies = load((x, y, *test), pca=4, copies=2).train.inputs[len(x) :]
    as_test = load((x, y, moved_copies(x, 1, 0), y), pca=4).test.inputs
    np.testing.assert_allclose(copies, as_test, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("source", ["iris", (np.ones((9, 4), np.uint8), np.arange(9) % 3)])
def test_rows_without_height_and_width_have_no_copies(source):
    with pytest.raises(
        ValueError, match=r"copies=2 needs images \[N, H, W\] or \[N, H, W, C\], an example here is \(4,\)"
    ):
        load(source, copies=2)


@pytest.mark.unchecked_types
def test_the_option_is_handed_on_and_errors_name_it():
    assert len(load_dataset(DataConfig("digits", copies=2)).train.labels) == 2 * 1400
    with pytest.raises(ValueError, match=re.escape("--data.copies 2 needs images")):
        load_dataset(DataConfig("iris", copies=2))
    for wrong in (None, 0):
        with pytest.raises(ValueError, match=f"copies must be an integer of at least 1, got {wrong}"):
            load("digits", copies=wrong)


def test_a_run_from_before_there_were_copies_has_the_same_configuration():
    config = TrainConfig()
    assert "copies" not in to_json(config)["data"]
    more = dataclasses.replace(config, data=DataConfig(copies=8))
    assert from_json(to_json(config)) == config and from_json(to_json(more)) == more
