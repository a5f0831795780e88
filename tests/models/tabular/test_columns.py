"""What columns mean: numbers, categories, missing values; arrays, and frames of pandas and polars."""

import numpy as np
import pytest
from sklearn.utils import get_tags

from metalearn_models.tabular.classifier import InContextClassifier
from metalearn_models.tabular.columns import as_numbers, encode, fit_columns
from metalearn_models.tabular.sequences import GROUP

NAME = "digits-synthetic-16x10"
"""A learner that knows numbers alone."""
COLOURS = ["red", "blue", "green", "red", None, "blue"]
SIZES = [1.0, 2.5, np.nan, 4.0, 5.0, 6.0]


class Column(list):
    """A column of a frame of no library."""

    def __init__(self, values, dtype):
        super().__init__(values)
        self.dtype, self.to_list = dtype, lambda: list(self)


class Frame(dict):
    """A frame of no library."""

    def __init__(self, **columns):
        super().__init__({name: Column(*column) for name, column in columns.items()})
        self.columns, self.shape = list(columns), (len(next(iter(self.values()))), len(columns))

    def __len__(self):
        return self.shape[0]


def _frame(library, colours=COLOURS, sizes=SIZES):
    if library == "none":
        return Frame(colour=(colours, "object"), size=(sizes, "float64"))
    if library == "polars":
        frame = pytest.importorskip("polars").DataFrame({"colour": colours, "size": sizes})
        return frame.with_columns(frame["colour"].cast(pytest.importorskip("polars").Categorical))
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"colour": colours, "size": sizes})
    return frame.astype({"colour": "category"}) if library == "pandas categories" else frame


@pytest.mark.parametrize("library", ["none", "pandas", "pandas categories", "polars"])
def test_a_frames_texts_are_categories_and_unknown_ones_are_missing(library):
    columns = fit_columns(_frame(library), "from_dtype")
    assert columns.levels == (("blue", "green", "red"), None) and columns.categorical.tolist() == [True, False]
    encoded = encode(columns, _frame(library))
    np.testing.assert_array_equal(encoded[:, 0], [2, 0, 1, 2, np.nan, 0])
    np.testing.assert_array_equal(encoded[:, 1], SIZES)
    later = encode(columns, _frame(library, ["violet", "red"], [0.0, 1.0]))
    np.testing.assert_array_equal(later[:, 0], [np.nan, 2])
    wide = as_numbers(columns, encoded)
    np.testing.assert_array_equal(wide[:, :3], [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(wide[:, 3], [1.0, 2.5, 3.7, 4.0, 5.0, 6.0])  # 3.7 is the mean of the others
    # Categories that fit has met decide, so a column of numbers named as one is encoded too.
    named = fit_columns(_frame(library), ["size", "colour"])
    np.testing.assert_array_equal(encode(named, _frame(library))[:, 1], [0, 1, np.nan, 2, 3, 4])


def test_arrays_have_categories_where_it_is_said():
    X = np.array([[5.0, 1.0], [7.0, 2.0], [5.0, 3.0], [9.0, np.nan]])
    assert not fit_columns(X, "from_dtype").categorical.any() and not fit_columns(X, None).categorical.any()
    for chosen in ([0], [True, False], np.array([True, False]), [-2]):
        columns = fit_columns(X, chosen)
        assert columns.levels == ((5.0, 7.0, 9.0), None)
        np.testing.assert_array_equal(encode(columns, X)[:, 0], [0, 1, 0, 2])
    mixed = np.array([["b", 1], ["a", 2], ["b", None]], object)
    np.testing.assert_array_equal(encode(fit_columns(mixed, [0]), mixed)[:, 0], [1, 0, 1])


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("colour", "a single name comes in a list"),
        ([True], "a mask of 1 columns, and the table has 2"),
        ([2], "has 2, and the table has the columns 0 to 1"),
        ([1.5], "has 1.5, and the table has the columns 0 to 1"),
        (["colour"], "names the column 'colour', and the table has no names"),
    ],
)
@pytest.mark.unchecked_types
def test_columns_that_do_not_exist_are_refused(chosen, message):
    X, y = np.ones((4, 2)), np.array([0, 1, 0, 1])
    with pytest.raises(ValueError, match=message):
        InContextClassifier(categorical_features=chosen).fit(X, y)


def test_a_text_among_numbers_is_named():
    frame = Frame(colour=(["red", "blue"], "object"), size=([1.0, 2.0], "float64"))
    with pytest.raises(ValueError, match=r"column 'colour' holds a value that is no number.*categorical_features"):
        fit_columns(frame, ["size"])
    with pytest.raises(ValueError, match="names the column 'weight', and the table has the columns colour, size"):
        fit_columns(frame, ["weight"])


def test_the_classifier_learns_from_categories_and_survives_missing_values():
    rng = np.random.default_rng(0)
    code = rng.integers(0, 6, 90)
    y = np.isin(code, [0, 3, 4]).astype(int)  # no order of the codes tells this
    X = np.stack([code.astype(float), rng.standard_normal(90)], axis=1)
    plain, told = (
        InContextClassifier(NAME, n_estimators=GROUP, categorical_features=c).fit(X[:50], y[:50]).score(X[50:], y[50:])
        for c in (None, [0])
    )
    assert told >= 0.95 and told > plain
    frame = Frame(code=([f"level {c}" for c in code[:50]], "object"), x=(X[:50, 1].tolist(), "float64"))
    classifier = InContextClassifier(NAME, n_estimators=GROUP).fit(frame, y[:50])
    later = Frame(code=([f"level {c}" for c in code[50:]], "object"), x=([None] * 40, "float64"))
    assert classifier.score(later, y[50:]) >= 0.95 and get_tags(classifier).input_tags.allow_nan
    X[::7, 1], X[3, :] = np.nan, np.nan
    holed = InContextClassifier(NAME, n_estimators=GROUP, categorical_features=[0]).fit(X[:50], y[:50])
    assert holed.score(X[50:], y[50:]) > 0.9
    X[:, 1] = np.nan  # a column of which nothing is known
    assert np.isfinite(InContextClassifier(NAME, n_estimators=GROUP).fit(X[:50], y[:50]).predict_proba(X)).all()


def test_a_text_in_an_array_of_objects_is_named_by_its_place():
    with pytest.raises(ValueError, match="column 1 holds a value that is no number"):
        fit_columns(np.array([["a", "1"], ["b", "x"]], object), [0])


def test_columns_of_one_name_are_told_apart_by_their_places():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame([[1.0, 5.0], [2.0, 6.0]], columns=["a", "a"])
    np.testing.assert_array_equal(encode(fit_columns(frame, None), frame), [[1, 5], [2, 6]])
