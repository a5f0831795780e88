import inspect
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from metalearn.errors import DataNotPreparedError, UnknownNameError
from metalearn_tasks import datasets
from metalearn_tasks.datasets import _tfds

ROOT = Path(__file__).resolve().parents[3]
PREPARED = Path(os.environ.get("METALEARN_TEST_DATA", "nowhere"))
needs_prepared = pytest.mark.skipif(
    not (PREPARED / "mnist_10k").is_dir(),
    reason=f"needs 10,000 prepared MNIST images; METALEARN_TEST_DATA must name a folder with mnist_10k, got {PREPARED}",
)


def images(n, height=6, width=5, channels=(), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, *channels), dtype=np.uint8)


def four(n=40, m=12):
    rng = np.random.default_rng(3)
    return (
        rng.normal(2.0, [1.0, 50.0, 0.01], (n, 3)),
        np.arange(n) % 4,
        rng.normal(2.0, [1.0, 50.0, 0.01], (m, 3)),
        np.arange(m) % 4,
    )


def write_prepared(folder, splits, file_format="array_record", supervised=("image", "label"), feature=None):
    """A data set as tensorflow-datasets prepares it, written without TensorFlow."""
    from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]  # compiled
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2

    folder.mkdir(parents=True)
    for split, (xs, ys) in splits.items():
        path = folder / f"toy-{split}.array_record-00000-of-00001"
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for x, y in zip(xs, ys, strict=True):
            png = io.BytesIO()
            Image.fromarray(x.squeeze(-1) if x.shape[-1] == 1 else x).save(png, "PNG")
            example = tf_example_pb2.Example()  # pyright: ignore[reportAttributeAccessIssue]  # generated
            example.features.feature["image"].bytes_list.value.append(png.getvalue())
            example.features.feature["label"].int64_list.value.append(int(y))
            writer.write(example.SerializeToString())
        writer.close()
    info = {
        "name": "toy",
        "version": "1.0.0",
        "fileFormat": file_format,
        "splits": [
            {
                "name": split,
                "shardLengths": [str(len(ys))],
                "numBytes": "1",
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
            for split, (_, ys) in splits.items()
        ],
    }
    if supervised:
        info["supervisedKeys"] = {"tuple": {"items": [{"featureKey": k} for k in supervised]}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    base = "tensorflow_datasets.core.features."
    channels = str(next(iter(splits.values()))[0][0].shape[-1])
    image = {
        "pythonClassName": base + "image_feature.Image",
        "image": {"dtype": "uint8", "shape": {"dimensions": ["-1", "-1", channels]}},
    }
    label = {
        "pythonClassName": base + "class_label_feature.ClassLabel",
        "classLabel": {"numClasses": "3"},
    }
    features = {"image": feature or image, "label": label}
    (folder / "features.json").write_text(
        json.dumps(
            {
                "pythonClassName": base + "features_dict.FeaturesDict",
                "featuresDict": {"features": features},
            }
        )
    )
    return folder


# The bundled sets


def test_digits_is_the_default_with_1400_and_397_examples_of_its_own():
    import sklearn.datasets

    data = datasets.load()
    assert data.name == "digits" and data.classes == 10 and data.shape == (8, 8) and data.inputs == 64
    assert data.train.inputs.shape == (1400, 64) and data.test.inputs.shape == (397, 64)
    assert data.train.inputs.dtype == np.float32 and data.train.labels.dtype == np.int32
    # Undoing the normalisation gives back every digit with its label, each exactly once.
    x, y = sklearn.datasets.load_digits(return_X_y=True)
    both = np.concatenate([data.train.inputs, data.test.inputs])
    back = np.rint((both - both.min()) / np.ptp(both) * 16).astype(int)
    got = np.column_stack([back, np.concatenate([data.train.labels, data.test.labels])])
    want = np.column_stack([x.astype(int), y])
    assert sorted(map(tuple, got)) == sorted(map(tuple, want))


@pytest.mark.parametrize("name", datasets.names())
def test_every_bundled_set_loads_normalised_with_all_its_classes(name):
    data = datasets.load(name)
    assert abs(data.train.inputs.mean(dtype=np.float64)) < 1e-6
    assert abs(data.train.inputs.std(dtype=np.float64) - 1) < 1e-6
    assert sorted(set(data.train.labels.tolist())) == list(range(data.classes))
    assert np.isfinite(data.test.inputs).all() and data.inputs == int(np.prod(data.shape))


def test_the_split_depends_on_the_seed_and_on_nothing_else():
    first, again, other = datasets.load(seed=1), datasets.load(seed=1), datasets.load(seed=2)
    np.testing.assert_array_equal(first.train.inputs, again.train.inputs)
    np.testing.assert_array_equal(first.test.labels, again.test.labels)
    assert not np.array_equal(first.test.labels, other.test.labels)


def test_random_is_ten_uniform_images_to_be_remembered():
    data = datasets.load("random", seed=4)
    assert data.shape == (14, 14) and data.classes == 10
    np.testing.assert_array_equal(data.train.labels, np.arange(10))
    np.testing.assert_array_equal(data.train.inputs, data.test.inputs)
    x = np.random.default_rng(4).uniform(size=(10, 196))
    np.testing.assert_allclose(data.train.inputs, (x - x.mean()) / (x.std() + 1e-8), atol=1e-5)
    assert datasets.load("random", size=5).shape == (5, 5)


def test_a_split_is_a_pytree_that_a_compiled_function_takes():
    data = datasets.load("iris")
    total = jax.jit(lambda split: split.inputs.sum() + split.labels.sum().astype("float32"))(data.train)
    np.testing.assert_allclose(total, data.train.inputs.sum() + data.train.labels.sum(), rtol=1e-5)


def test_names_is_a_copy_of_the_table():
    datasets.names()["mine"] = ""
    assert "mine" not in datasets.names() and "digits" in datasets.names()


# Preprocessing


@pytest.mark.parametrize("shape,size", [((28, 28), 14), ((28, 20), 9), ((5, 8), 11), ((6, 6), 6), ((7, 3), 1)])
def test_the_resize_is_jax_image_resize(shape, size):
    x = images(10, *shape, channels=(3,))
    data = datasets.load((x, np.arange(10) % 2, x, np.arange(10) % 2), size=size)
    want = jax.image.resize(x / np.float32(255), (10, size, size, 3), "bilinear", antialias=True)
    want = np.asarray(want, np.float64).reshape(10, -1)
    assert data.shape == (size, size, 3)
    np.testing.assert_allclose(data.train.inputs, (want - want.mean()) / (want.std() + 1e-8), atol=2e-5)


def test_images_are_normalised_by_one_scalar_of_the_training_split():
    x, x_test = images(50), images(20, seed=1) // 2
    data = datasets.load((x, np.arange(50) % 3, x_test, np.arange(20) % 3))
    mean, std = (x / 255).mean(), (x / 255).std() + 1e-8
    np.testing.assert_allclose(data.train.inputs, ((x / 255 - mean) / std).reshape(50, -1), atol=1e-5)
    np.testing.assert_allclose(data.test.inputs, ((x_test / 255 - mean) / std).reshape(20, -1), atol=1e-5)


def test_uint8_tables_count_as_flattened_images():
    x = images(50)
    flat = datasets.load((x.reshape(50, -1), np.arange(50) % 3))
    np.testing.assert_array_equal(flat.train.inputs, datasets.load((x, np.arange(50) % 3)).train.inputs)
    assert flat.shape == (30,)


def test_tables_are_standardised_by_column():
    from sklearn.preprocessing import StandardScaler

    x, y, x_test, y_test = four()
    data = datasets.load((x, y, x_test, y_test))
    scaler = StandardScaler().fit(x)
    np.testing.assert_allclose(data.train.inputs, scaler.transform(x), atol=1e-5)
    np.testing.assert_allclose(data.test.inputs, scaler.transform(x_test), atol=1e-5)


def test_a_constant_column_is_centred_and_not_blown_up():
    x, y, x_test, y_test = four()
    x[:, 1], x_test[:, 1] = 0.1, 0.3
    data = datasets.load((x, y, x_test, y_test))
    np.testing.assert_allclose(data.train.inputs[:, 1], 0, atol=1e-12)
    # Two columns of unit variance and one of none leave a scalar deviation of sqrt(2 / 3).
    np.testing.assert_allclose(data.test.inputs[:, 1], 0.2 / np.sqrt(2 / 3), rtol=1e-5)


@pytest.mark.parametrize("n,d", [(300, 20), (15, 40)])  # by the scatter matrix; by the SVD of the inputs
def test_pca_is_that_of_scikit_learn_up_to_one_scale(n, d):
    from sklearn.decomposition import PCA

    rng = np.random.default_rng(0)
    mix = rng.normal(size=(d, d)) * 2.0 ** -np.arange(d)[:, None]
    x, x_test = rng.normal(size=(n, d)) @ mix, rng.normal(size=(9, d)) @ mix
    y, y_test = np.arange(n) % 2, np.arange(9) % 2
    plain, data = datasets.load((x, y, x_test, y_test)), datasets.load((x, y, x_test, y_test), pca=6)
    pca = PCA(6, svd_solver="full").fit(plain.train.inputs.astype(np.float64))
    want, want_test = pca.transform(plain.train.inputs), pca.transform(plain.test.inputs)
    flip = np.sign((want * data.train.inputs).sum(0))
    scale = want.std() + 1e-8
    np.testing.assert_allclose(data.train.inputs, want * flip / scale, atol=1e-4)
    np.testing.assert_allclose(data.test.inputs, want_test * flip / scale, atol=1e-4)
    assert data.shape == (d,) and data.inputs == 6
    axes = np.linalg.lstsq(plain.train.inputs.astype(np.float64), data.train.inputs, rcond=1e-6)[0]
    assert (axes[np.abs(axes).argmax(0), np.arange(6)] > 0).all()


def test_the_sign_of_a_principal_axis_does_not_depend_on_the_order_of_the_rows():
    x, y, x_test, y_test = four(60)
    order = np.random.default_rng(0).permutation(60)
    first = datasets.load((x, y, x_test, y_test), pca=3)
    second = datasets.load((x[order], y[order], x_test, y_test), pca=3)
    np.testing.assert_allclose(first.test.inputs, second.test.inputs, atol=1e-5)


@pytest.mark.parametrize("pca", [None, 2])
def test_the_training_split_never_looks_at_the_test_rows(pca):
    x, y, x_test, y_test = four()
    first = datasets.load((x, y, x_test, y_test), pca=pca)
    second = datasets.load((x, y, 7.0 - 5.0 * x_test, np.arange(12) - 8), pca=pca)  # and labels sorted before all
    np.testing.assert_array_equal(first.train.inputs, second.train.inputs)
    np.testing.assert_array_equal(first.train.labels, second.train.labels)
    assert not np.array_equal(first.test.inputs, second.test.inputs) and second.classes == 4 + 8


def test_the_rows_drawn_for_testing_do_not_reach_the_statistics_of_the_rest():
    x, y = four()[:2]
    clean = datasets.load((x, y), test_fraction=0.25, seed=5)
    held = np.random.default_rng(5).permutation(40)[:10]
    moved = x.copy()
    moved[held] += 100.0
    dirty = datasets.load((moved, y), test_fraction=0.25, seed=5)
    np.testing.assert_array_equal(clean.train.inputs, dirty.train.inputs)
    assert clean.test.inputs.shape == (10, 3) and np.abs(clean.test.inputs - dirty.test.inputs).min() > 1


def test_the_callers_arrays_are_left_alone():
    x, y, x_test, y_test = four()
    before = x.copy(), x_test.copy()
    datasets.load((x, y, x_test, y_test), pca=2)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(x_test, before[1])


@pytest.mark.parametrize(
    "labels",
    [["b", "a", "c", "a"], [10, -3, 20, -3], [("x", 1), ("a", 2), ("y", 0), ("a", 2)], [1.0, 0.0, 2.0, 0.0]],
)
def test_labels_are_numbered_in_sorted_order(labels):
    y = [*labels] * 5
    data = datasets.load((four(20)[0], y, four(20)[0], y))
    assert data.train.labels.tolist() == [1, 0, 2, 0] * 5 and data.classes == 3


# Bad input


@pytest.mark.parametrize(
    "change,options,match",
    [
        (lambda x, y: (np.where(x > 2, np.nan, x), y), {}, "finite, got .* NaN or infinite"),
        (lambda x, y: (np.where(x > 2, np.inf, x), y), {}, "finite"),
        (lambda x, y: (x[:0], y[:0]), {}, "no empty axis"),
        (lambda x, y: (x[:, :0], y), {}, "no empty axis"),
        (lambda x, y: (x[:, 0], y), {}, r"must be \[N, ...\]"),
        (lambda x, y: (x, y[:-1]), {}, "40 inputs and needs 40 labels, got 39"),
        (lambda x, y: (x, y * 0), {}, "same label"),
        (lambda x, y: (x, np.stack([y, y], 1)), {}, "one hashable value"),
        (lambda x, y: (x, y + 0.5), {}, "real numbers such as"),
        (lambda x, y: (x, np.where(y == 1, np.nan, y)), {}, "NaN"),
        (lambda x, y: (x, None), {}, "40 labels, got None"),
        (lambda x, y: (x * 0 + 3, y), {}, "nothing to tell the classes by"),
        (lambda x, y: (x * 1e300, y), {}, "too large"),
        (lambda x, y: (x.astype(complex), y), {}, "complex128"),
        (lambda x, y: (x.astype(object), y), {}, "dtype object"),
        (lambda x, y: ([[1.0], [1.0, 2.0]], [0, 1]), {}, "different shapes"),
        (lambda x, y: (x, y), {"size": 4}, "needs images"),
        (lambda x, y: (x, y), {"size": 0}, "size must be an integer of at least 1"),
        (lambda x, y: (x, y), {"pca": 4}, "at most 3 components"),
        (lambda x, y: (x, y), {"pca": True}, "pca must be"),
        (lambda x, y: (x, y), {"test_fraction": 0.0}, "test_fraction must"),
        (lambda x, y: (x, y), {"test_fraction": 1.0}, "test_fraction must"),
        (lambda x, y: (x, y), {"test_fraction": float("nan")}, "test_fraction must"),
        (lambda x, y: (x, y), {"test_fraction": 0.001}, "leaves one split empty"),
        (lambda x, y: (x, y), {"seed": -1}, "seed must"),
        (lambda x, y: (x, y, x[:, :2], y), {}, "an example is"),
        (lambda x, y: (x, y, np.where(x > 2, 1e300, x), y), {}, "overflow float32"),
        (lambda x, y: (x.astype("f4"), y, np.where(x > 2, 1e300, x), y), {}, "overflow float32"),
        (lambda x, y: (x, y, x), {}, "got 3 items"),
    ],
)
def test_bad_input_is_refused_with_what_was_got(change, options, match):
    x, y = four()[:2]
    with pytest.raises(ValueError, match=match):
        datasets.load(change(x, y), **options)


@pytest.mark.parametrize(
    "source,options,match",
    [(7, {}, "got int"), ([1, 2], {}, "got list"), ("iris", {"size": 4.0}, "size must be an integer")],
)
def test_wrong_types_are_refused_by_load_itself(source, options, match):
    """Where annotations are checked, the check would come first: the function below it is called."""
    with pytest.raises(ValueError, match=match):
        inspect.unwrap(datasets.load)(source, **options)


def test_size_on_a_bundled_table_is_refused():
    with pytest.raises(ValueError, match="needs images"):
        datasets.load("wine", size=3)


# tensorflow-datasets


def test_an_unknown_name_gets_the_nearest_ones():
    with pytest.raises(UnknownNameError, match=r"unknown data set 'digit'.*'digits'"):
        datasets.load("digit")
    with pytest.raises(UnknownNameError, match="'fashion_mnist'"):
        datasets.load("fashion-mnist")
    with pytest.raises(UnknownNameError, match="'letters'"):
        datasets.load("emnist/leters")


@pytest.mark.parametrize("place", ["data", "it's $HOME `x`"])
def test_the_message_about_a_missing_set_holds_a_command_that_prepares_it(tmp_path, place):
    with pytest.raises(DataNotPreparedError) as error:
        datasets.load("mnist", data_dir=tmp_path / place)
    assert not (tmp_path / place).exists()
    install, command = str(error.value).splitlines()[-1].strip().split(" && ")
    assert install.startswith("pip install tensorflow ")
    # The shell hands Python the very call that prepares it: run it against a stand-in for tensorflow-datasets.
    (tmp_path / "tensorflow_datasets.py").write_text(
        "class builder:\n"
        "    def __init__(self, *names, **options): self.got = names, options\n"
        "    def download_and_prepare(self): print(self.got)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PATH": os.path.dirname(sys.executable)}
    shell = subprocess.run(["/bin/sh", "-c", command], env=environment, capture_output=True, text=True, check=True)
    options = {"file_format": "array_record", "data_dir": str(tmp_path / place)}
    assert shell.stdout.strip() == repr((("mnist",), options))


def test_tensorflow_datasets_prepares_by_the_call_of_the_message():
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import dataset_builder

    assert "array_record" in [f.value for f in tfds.core.FileFormat]
    assert "mnist" in tfds.list_builders(with_community_datasets=False)
    assert "file_format" in inspect.signature(dataset_builder.FileReaderBuilder.__init__).parameters
    assert callable(tfds.core.DatasetBuilder.download_and_prepare)


def test_a_prepared_set_is_read_by_name_by_path_and_from_above(tmp_path):
    train, test = images(30, 6, 6, (1,)), images(9, 6, 6, (1,), seed=1)
    splits = {"train": (train, np.arange(30) % 3), "test": (test, np.arange(9) % 3)}
    folder = write_prepared(tmp_path / "toy" / "1.0.0", splits)
    want = datasets.load((train, np.arange(30) % 3, test, np.arange(9) % 3))
    for source, place in [("toy", tmp_path), (folder, None), (str(folder.parent), None), (str(tmp_path), None)]:
        got = datasets.load(source, data_dir=place)
        np.testing.assert_array_equal(got.train.inputs, want.train.inputs)
        np.testing.assert_array_equal(got.test.labels, want.test.labels)
        assert got.shape == (6, 6, 1) and got.classes == 3 and "test" in got.origin


def test_without_a_test_split_validation_serves_and_else_rows_are_drawn(tmp_path):
    x, y = images(30, 6, 6, (3,)), np.arange(30) % 3
    valid = write_prepared(tmp_path / "a", {"train": (x, y), "validation": (x[:6], y[:6])})
    got = datasets.load(valid)
    assert len(got.test.labels) == 6 and "validation" in got.origin
    got = datasets.load(write_prepared(tmp_path / "b", {"train": (x, y)}), test_fraction=0.5)
    assert len(got.test.labels) == 15 and "at random" in got.origin


def test_images_of_different_sizes_need_a_size(tmp_path):
    x = [images(1, 5 + i % 3, 6, (3,), seed=i)[0] for i in range(12)]
    folder = write_prepared(tmp_path / "toy", {"train": (x, np.arange(12) % 3), "test": (x, np.arange(12) % 3)})
    with pytest.raises(ValueError, match="size="):
        datasets.load(folder)
    data = datasets.load(folder, size=4)
    want = np.stack([jax.image.resize(i / np.float32(255), (4, 4, 3), "bilinear") for i in x]).reshape(12, -1)
    want = want.astype(np.float64)
    np.testing.assert_allclose(data.train.inputs, (want - want.mean()) / (want.std() + 1e-8), atol=1e-5)


def test_broken_folders_are_named(tmp_path):
    x, y = images(30, 6, 6, (1,)), np.arange(30) % 3
    splits = {"train": (x, y), "test": (x, y)}

    def broken(name, spoil):
        folder = write_prepared(tmp_path / name, splits)
        spoil(folder)
        with pytest.raises(DataNotPreparedError, match=name):
            datasets.load(folder)

    record = "toy-train.array_record-00000-of-00001"
    broken("features", lambda f: (f / "features.json").unlink())
    broken("info", lambda f: (f / "dataset_info.json").write_text("{"))
    broken("missing", lambda f: (f / record).unlink())
    broken("empty", lambda f: (f / record).write_bytes(b""))
    broken("junk", lambda f: (f / record).write_bytes(b"x" * 100_000))
    broken("half", lambda f: (f / record).write_bytes((f / record).read_bytes()[: (f / record).stat().st_size // 2]))
    (tmp_path / "nothing").mkdir()
    for nothing in ("nothing", "nowhere"):
        with pytest.raises(DataNotPreparedError, match=nothing):
            datasets.load(tmp_path / nothing)
    with pytest.raises(ValueError, match="several"):
        datasets.load(tmp_path)


def test_sets_that_are_no_readable_classification_say_why(tmp_path):
    x, y = images(6, 6, 6, (1,)), np.arange(6) % 3
    splits = {"train": (x, y)}
    with pytest.raises(DataNotPreparedError, match=r"(?s)prepared as tfrecord.*another folder.*array_record"):
        datasets.load(write_prepared(tmp_path / "a", splits, file_format="tfrecord"))
    with pytest.raises(ValueError, match="supervised_keys"):
        datasets.load(write_prepared(tmp_path / "b", splits, supervised=None))
    with pytest.raises(ValueError, match="no split 'train'"):
        datasets.load(write_prepared(tmp_path / "c", {"extra": (x, y)}))
    text = {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text", "text": {}}
    with pytest.raises(ValueError, match="images or numeric arrays"):
        datasets.load(write_prepared(tmp_path / "d", splits, feature=text))


def test_importing_and_bundled_sets_import_nothing_heavy_and_warn_of_nothing():
    program = (
        "import sys, metalearn_tasks.datasets as d\n"
        "heavy = {'sklearn', 'tensorflow_datasets', 'tensorflow', 'PIL'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "d.load('random'); assert not heavy & set(sys.modules)\n"
        "d.load(); assert not heavy - {'sklearn'} & set(sys.modules)\n"
    )
    path = os.pathsep.join(str(ROOT / part) for part in (".", "tasks", "models"))
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], env=environment, capture_output=True)
    assert done.returncode == 0 and not done.stderr, done.stderr.decode()


@needs_prepared
def test_ten_thousand_real_images_are_separable_after_resize_and_pca():
    data = datasets.load("mnist_10k", data_dir=PREPARED, size=14, pca=32)
    assert data.train.inputs.shape == (8000, 32) and data.test.inputs.shape == (2000, 32)
    assert data.shape == (14, 14, 1) and data.classes == 10
    # One nearest neighbour: a scrambled resize, projection or labelling would show.
    (x, y), (x_test, y_test) = data.train, data.test
    distance = (x**2).sum(1) - 2 * x_test[:300] @ x.T
    assert (y[distance.argmin(1)] == y_test[:300]).mean() > 0.93


@needs_prepared
def test_reading_a_prepared_set_logs_and_warns_of_nothing():
    program = f"import metalearn_tasks.datasets as d; d.load('mnist_10k', data_dir={str(PREPARED)!r}, size=14)"
    path = os.pathsep.join(str(ROOT / part) for part in (".", "tasks", "models"))
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], env=environment, capture_output=True)
    assert done.returncode == 0 and not done.stderr, done.stderr.decode()


def test_the_command_names_the_set_and_no_folder_when_none_was_given():
    command = _tfds.prepare_command("emnist/letters", None)
    assert "tfds.builder('emnist/letters', file_format='array_record').download_and_prepare()" in command
