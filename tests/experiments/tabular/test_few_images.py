import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from experiments.suite.command_line import run_command
from experiments.tabular import few_images
from experiments.tabular._image_sets import BUNDLED, load_images
from experiments.tabular.few_images import LEARNERS, OURS, compare, judge
from metalearn.learner import Signature
from metalearn_models.learners.reference.kernel import kernel_ridge


@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_sets_have_ten_classes_and_no_image_twice(name):
    pixels, labels = load_images(name)
    assert np.array_equal(np.unique(labels), np.arange(10))
    assert len(np.unique(pixels, axis=0)) == len(pixels) == len(labels)
    assert pixels.shape[1] == (64 if name == "digits" else 196) and np.isfinite(pixels).all()


def test_every_letter_is_drawn():
    pixels, _ = load_images("letters")
    assert (pixels.sum(1) > 2.5).all()  # that of the noise alone has a deviation of 1.4


def test_1nn_of_a_split_is_that_of_its_examples_and_a_rotation_leaves_it(monkeypatch):
    monkeypatch.setattr(few_images, "LEARNERS", {"1-NN": LEARNERS["1-NN"]})
    images = load_images("digits")
    (row,) = compare(images, (50,), 3, False)
    order = np.random.default_rng(3).permutation(397)
    known, asked = order[:50], order[50:350]
    model = KNeighborsClassifier(1).fit(images.pixels[known], images.labels[known])
    assert row["accuracy"] == model.score(images.pixels[asked], images.labels[asked])
    (turned,) = compare(images, (50,), 3, True)
    assert turned["accuracy"] == pytest.approx(row["accuracy"], abs=0.011)  # ties and rounding


def test_other_weights_take_the_place_of_the_default_ones_and_no_others(monkeypatch):
    made = []

    def classifier(*args, **options):
        made.append((args, options))
        return KNeighborsClassifier(1)

    monkeypatch.setattr(few_images, "InContextClassifier", classifier)
    monkeypatch.setattr(few_images, "LEARNERS", {name: LEARNERS[name] for name in (OURS, "ridge")})
    ours, ridge = compare(load_images("digits"), (20,), 3, False, "runs/mine")
    assert made == [(("runs/mine",), {"n_estimators": 32})] and (ours["learner"], ridge["learner"]) == (OURS, "ridge")
    assert few_images.LEARNERS[OURS](5) and made[1:] == [((), {})]


def test_kernel_ridge_regression_is_our_reference_learner():
    pixels, labels = load_images("digits")
    examples, queries = np.arange(30), np.arange(30, 90)
    guessed = LEARNERS["kernel ridge"](1).fit(pixels[:30], labels[:30]).predict(pixels[queries])
    learner = kernel_ridge(Signature(pixels.shape[1], 10, 31))
    rows = np.stack([np.append(examples, query) for query in queries])
    logits = learner.run((), jnp.asarray(pixels[rows], jnp.float32), jnp.asarray(labels[rows], jnp.int32))[:, -1]
    np.testing.assert_array_equal(guessed, np.argmax(logits, 1))


def _rows(ours: list[float], others: float) -> list[dict]:
    values = {OURS: ours} | {name: [others] * len(ours) for name in LEARNERS if name != OURS}
    return [
        {"set": "a", "learner": name, "examples": n, "split": split, "accuracy": value if n == 99 else 1 - value}
        for name, found in values.items()
        for split, value in enumerate(found)
        for n in (10, 99)
    ]


@pytest.mark.parametrize(
    "ours, others, verdict",
    [([0.8, 0.82, 0.81], 0.7, "ahead"), ([0.6, 0.9, 0.5], 0.7, "open"), ([0.6, 0.61], 0.7, "behind")],
)
def test_the_verdict_is_that_of_the_most_examples(ours, others, verdict):
    assert judge(_rows(ours, others))["verdict"] == verdict


def test_from_the_command_line_to_the_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(few_images, "LEARNERS", {name: LEARNERS[name] for name in (OURS, "1-NN", "ridge", "logistic")})
    words = ["--sets", "digits", "--examples", "20", "--splits", "2", "--out", str(tmp_path)]
    run_command("few_images", words)
    assert "verdict" in capsys.readouterr().out and (tmp_path / "few_images.png").exists()
    monkeypatch.setattr(few_images, "compare", lambda *_: pytest.fail("what is in the folder is computed again"))
    run_command("few_images", words)


def test_too_many_examples_are_refused_before_anything_is_computed(tmp_path):
    config = few_images.FewImagesConfig(sets=("digits",), examples=(10, 397), out=tmp_path)
    with pytest.raises(ValueError, match="--examples 397 are too many for 397 images of digits"):
        few_images.run(config)
