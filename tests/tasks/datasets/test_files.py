"""Data sets of one's own: `.npz` and `.csv` files, and frames of pandas and polars."""

import datetime
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.datasets import load_iris

from metalearn.errors import DataNotPreparedError, UnknownNameError
from metalearn_tasks.datasets import load

X, Y = load_iris(return_X_y=True)
NAMES = ("sepal length", "sepal width", "petal length", "petal width")


def same(found, wanted, classes=3):
    for split in ("train", "test"):
        np.testing.assert_allclose(getattr(found, split).inputs, getattr(wanted, split).inputs, rtol=1e-6)
        np.testing.assert_array_equal(getattr(found, split).labels, getattr(wanted, split).labels)
    assert found.classes == classes


def write(path, rows, header=None):
    lines = ([",".join(header)] if header else []) + [",".join(map(str, row)) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.parametrize("names", [("X", "y"), ("inputs", "labels"), ("DATA", "target")])
def test_an_npz_file_is_its_arrays(tmp_path, names):
    np.savez(tmp_path / "own.npz", **dict(zip(names, (X, Y), strict=True)))
    found = load(str(tmp_path / "own.npz"))
    same(found, load((X, Y)))
    assert found.name == "own.npz"


def test_an_npz_file_can_have_a_test_split_and_a_path_be_an_object(tmp_path):
    np.savez(tmp_path / "own.npz", x_train=X[::2], y_train=Y[::2], x_test=X[1::2], y_test=Y[1::2])
    same(load((tmp_path / "own.npz").rename(tmp_path / "own.NPZ")), load((X[::2], Y[::2], X[1::2], Y[1::2])))


def test_the_label_of_a_csv_file_is_its_last_column_or_the_one_that_is_named(tmp_path, monkeypatch):
    rows = [[*x, f"kind {y}"] for x, y in zip(X, Y, strict=True)]
    wanted = load((X, Y))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "headed.csv", rows, [*NAMES, "kind"])
    for source in ("headed.csv", "~/headed.csv", tmp_path / "headed.csv", "headed.csv:kind"):
        same(load(source), wanted)
    same(load(write(tmp_path / "bare.csv", rows)), wanted)
    first = [[row[-1], *row[:-1]] for row in rows]
    same(load(write(tmp_path / "first.csv", first, ["kind", *NAMES]) + ":kind"), wanted)
    same(load(write(tmp_path / "number.csv", first) + ":1"), wanted)
    (tmp_path / "semicolons.csv").write_text("\ufeff" + (tmp_path / "headed.csv").read_text().replace(",", ";"))
    same(load("semicolons.csv"), wanted)


def test_texts_are_categories_of_which_two_need_one_column(tmp_path):
    sizes, colours = np.array(["small", "large"])[Y % 2], np.array(["red", "green", "blue"])[np.arange(150) % 3]
    rows = [[x[0], s, c, y] for x, s, c, y in zip(X, sizes, colours, Y, strict=True)]
    encoded = np.stack([X[:, 0], sizes == "small", *(colours == c for c in ("blue", "green", "red"))], axis=1)
    same(load(write(tmp_path / "a.csv", rows, ["length", "size", "colour", "kind"])), load((encoded, Y)))


class Series:
    """As little of a column as pandas and polars share; `method` is what each calls its list."""

    def __init__(self, values, method):
        self.values, self.method = list(values), method

    def __getattr__(self, name):
        if name == self.method:
            return lambda: self.values
        raise AttributeError(name)

    def __len__(self):
        return len(self.values)


def stand_in(method):
    class Frame(dict):
        columns = property(lambda self: list(self))

    return SimpleNamespace(
        DataFrame=lambda data: Frame({name: Series(values, method) for name, values in data.items()}),
        Series=lambda values: Series(values, method),
    )


@pytest.fixture(params=["like pandas", "like polars", "pandas", "polars"])
def frames(request):
    if request.param.startswith("like"):
        return stand_in({"like pandas": "tolist", "like polars": "to_list"}[request.param])
    return pytest.importorskip(request.param)


def test_frames_are_inputs_labels_or_both(frames):
    columns, wanted = dict(zip(NAMES, X.T.tolist(), strict=True)), load((X, Y))
    kinds = [f"kind {y}" for y in Y]
    inputs = frames.DataFrame(columns)
    for labels in (frames.Series(Y.tolist()), frames.DataFrame({"kind": kinds}), Y[:, None], kinds):
        same(load((inputs, labels)), wanted)
    same(load(frames.DataFrame({**columns, "kind": kinds})), wanted)
    same(load((inputs, kinds, inputs, kinds)), load((X, Y, X, Y)))
    with pytest.raises(ValueError, match="labels must be one column, got a frame with a, b"):
        load((X, frames.DataFrame({"a": Y.tolist(), "b": Y.tolist()})))
    with pytest.raises(ValueError, match=r"column 'b' .* has 1 missing values, the first in row 2"):
        load((frames.DataFrame({"a": [1.0, 2.0, 3.0], "b": ["x", "y", None]}), [0, 1, 1]))


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (5, "got 5"),
        ("abc", "got 'abc'"),
        ({0, 1}, "in order, as a list or an array, got a set"),
        ([0, 1], "got 2 labels"),
    ],
)
def test_labels_that_are_no_list_say_what_they_are_and_not_how_many(labels, match):
    with pytest.raises(ValueError, match=match):
        load((X, labels))


def test_a_file_that_is_not_there_or_not_right_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for source in ("own.npz", "own.csv:kind", "./below/own.csv"):
        with pytest.raises(DataNotPreparedError, match="there is no file /"):
            load(source)
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(DataNotPreparedError, match=r"text\.npz cannot be read as an .npz file: it is no archive"):
        load("text.npz")
    np.savez(tmp_path / "half.npz", X=X)
    with pytest.raises(ValueError, match=r"needs arrays X and y.*but has x"):
        load("half.npz")
    np.savez(tmp_path / "objects.npz", X=X, y=np.array([{}, None], object))
    with pytest.raises(ValueError, match="save arrays of numbers or texts"):
        load("objects.npz")
    (tmp_path / "latin.csv").write_bytes("größe,kind\n1,2\n".encode("latin-1"))
    with pytest.raises(DataNotPreparedError, match="as text in UTF-8"):
        load("latin.csv")
    for text, match in (
        ("", "is empty"),
        ("a,b\n1,2,3\n", "row 0 of .* has 3 cells, the first line has 2"),
        ("a\n1\n", "at least one column of inputs and one of labels"),
        ("a,b\n", "it has 2 columns and 0 examples"),
        ("a,a\n1,2\n", "need different names"),
        ("a,b\n1,\n2,x\n", "1 examples of .* have no label, the first in row 0"),
        ("a,b\n,y\n2,x\n", "column 'a' of .* has 1 missing values, the first in row 0"),
    ):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(ValueError, match=match):
            load("bad.csv")
    write(tmp_path / "good.csv", [[1, 2], [3, 4]], ["width", "kind"])
    for label in ("kid", ""):
        with pytest.raises(UnknownNameError, match=f"'{label}'.*kind"):
            load(f"good.csv:{label}")
    (tmp_path / "table.parquet").write_text("")
    with pytest.raises(DataNotPreparedError, match=r"table.parquet is neither a folder nor an .npz or .csv file"):
        load("./table.parquet")
    with pytest.raises(UnknownNameError, match=r"a file of your own \(.npz, .csv\)"):
        load("table.parquet")


def test_what_other_programs_write_into_a_csv_file_is_understood(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = load((X, Y))
    rows = [[*x, f"kind {y}"] for x, y in zip(X, Y, strict=True)]
    for first in (0, 1):  # pandas counts rows from 0, R from 1; of sorted rows their number tells the label
        write(tmp_path / "counted.csv", [[i + first, *row] for i, row in enumerate(rows)], ["", *NAMES, "kind"])
        same(load("counted.csv"), wanted)
    for delimiter in (";", "\t"):
        text = "\n".join(delimiter.join(map(str, row)).replace(".", ",") for row in rows)
        (tmp_path / "commas.csv").write_text(delimiter.join([*NAMES, "kind"]) + "\n" + text)
        same(load("commas.csv"), wanted)
    quoted = "\n".join(f'{",".join(map(str, x))},"kind,\n{y}"' for x, y in zip(X, Y, strict=True))
    (tmp_path / "quoted.csv").write_text("a,b,c,d,kind\n" + quoted)
    same(load("quoted.csv"), wanted)


def test_a_test_frame_is_encoded_as_the_training_frame_was(frames):
    """Columns by name, whatever their order; categories of the training examples, whatever the test examples hold."""
    sizes, colours = np.array(["small", "large"])[Y % 2], np.array(["red", "green", "blue"])[np.arange(150) % 3]
    columns = {"length": X[:, 0].tolist(), "size": sizes.tolist(), "colour": colours.tolist()}
    other = {**columns, "colour": ["pink", *columns["colour"][1:]], "size": ["tiny", *columns["size"][1:]]}
    test = frames.DataFrame({name: other[name] for name in ("colour", "length", "size")})
    found = load((frames.DataFrame(columns), Y, test, Y))
    encoded = np.stack([X[:, 0], sizes == "small", *(colours == c for c in ("blue", "green", "red"))], axis=1)
    unseen = encoded.copy()
    unseen[0, 1:] = [0.5, 0, 0, 0]
    same(found, load((encoded, Y, unseen, Y)))
    for wrong, match in (
        ({"length": columns["length"], "weight": columns["length"], "size": columns["size"]}, "lacks 'colour' and has"),
        ({**columns, "length": columns["size"]}, "column 'length' of the test inputs holds 'small', .* numbers there"),
    ):
        with pytest.raises(ValueError, match=match):
            load((frames.DataFrame(columns), Y, frames.DataFrame(wrong), Y))


def test_inputs_of_other_kinds_say_what_would_be_right():
    with pytest.raises(ValueError, match=r"sparse matrix: give its .toarray\(\)"):
        load((csr_matrix(X), Y))
    with pytest.raises(ValueError, match=r"lazy frame.*\.collect\(\)"):
        load((SimpleNamespace(collect=None, collect_schema=None), Y))
    days = [datetime.date(2026, 1, 1)] * 150
    with pytest.raises(ValueError, match="column 'day' of the train inputs holds a date, 2026-01-01"):
        load((stand_in("tolist").DataFrame({"x": X[:, 0].tolist(), "day": days}), Y))
