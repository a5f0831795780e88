"""Tables: classify one with categories and missing values, predict numbers, and draw as many as a learner needs."""

# [classify]
import numpy as np

from metalearn_models import InContextClassifier


def classify(rows):
    """A table of two numbers and a category; returns the accuracy on 100 further rows."""
    rng = np.random.default_rng(0)
    weight, height, colour = rng.normal(70, 12, 300), rng.normal(170, 9, 300), rng.integers(0, 5, 300)
    label = np.where(np.isin(colour, [0, 3]), "striped", np.where(weight > 72, "large", "small"))
    table = np.stack([weight, height, colour], axis=1)
    table[rng.random(300) < 0.1, 1] = np.nan  # missing values stay as they are

    classifier = InContextClassifier(categorical_features=[2])  # a frame's columns of texts are found by themselves
    classifier.fit(table[:rows], label[:rows])  # nothing is trained
    return float(classifier.score(table[200:], label[200:]))


# [regress]
from sklearn.datasets import make_friedman1  # noqa: E402

from metalearn_models import InContextRegressor  # noqa: E402


def regress(rows):
    """A smooth function of 5 of 10 columns; returns R² on other rows, and how many of them 80 % intervals hold."""
    table, target = make_friedman1(rows + 100, noise=1.0, random_state=0)
    regressor = InContextRegressor(n_estimators=4).fit(table[:rows], target[:rows])
    low, high = regressor.predict_quantiles(table[rows:], (0.1, 0.9)).T
    held = np.mean((low <= target[rows:]) & (target[rows:] <= high))
    return float(regressor.score(table[rows:], target[rows:])), float(held)


# [draw]
from metalearn_tasks.families.tables import TablesConfig, numbered_tables  # noqa: E402


def draw(count):
    """Tables of 64 rows and 10 columns; returns the share of categories among the columns."""
    prior = TablesConfig(classes=5, categorical=0.8, missing=0.5)
    tables = numbered_tables(0, range(count), rows=64, features=10, config=prior)
    again = numbered_tables(0, [3], rows=64, features=10, config=prior)  # table 3 is table 3 whatever else is drawn
    assert np.array_equal(tables.xs[3], again.xs[0], equal_nan=True)
    print(f"classes {tables.ys.max() + 1}, missing {np.isnan(tables.xs).mean():.1%}")
    return float(tables.categorical.mean())


# [end]
def main(rows=60, count=100):
    """Classify a table, predict numbers and draw others; returns the accuracy and the share of categories."""
    accuracy, share, (score, held) = classify(rows), draw(count), regress(rows)
    print(f"R² {score:.2f}; intervals of 80 % hold {held:.0%}")
    print(f"accuracy from {rows} rows {accuracy:.2f}; {share:.0%} of the generated columns are categories")
    return accuracy, share


if __name__ == "__main__":
    main()
