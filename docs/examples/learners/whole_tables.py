"""Read a whole table with a Transformer that was meta-trained on synthetic ones, without scikit-learn's face.

`metalearn train tables` makes such weights; `InContextClassifier` wraps them for everyday use.
"""

# [begin]
import numpy as np
from sklearn.datasets import load_wine

from metalearn_models.tabular.transformer.core import answer, read_table
from metalearn_models.tabular.transformer.library import load


def main(source="tables", rows=50, views=2):
    """Accuracy and log loss on wine from so many labelled rows, a tenth of whose values are missing."""
    wine, rng = load_wine(), np.random.default_rng(0)
    xs, order = np.where(rng.random(wine.data.shape) < 0.1, np.nan, wine.data), rng.permutation(len(wine.data))
    train, test = order[:rows], order[rows:]
    table = read_table(load(source), xs[train], wine.target[train], views=views, rng=rng)
    shares = np.exp(answer(table, xs[test])).mean(0)  # [views, rows, classes], averaged over the views
    accuracy = float((shares.argmax(1) == wine.target[test]).mean())
    log_loss = float(-np.log(shares[np.arange(len(test)), wine.target[test]]).mean())
    print(f"wine from {rows} rows: accuracy {accuracy:.2f}, log loss {log_loss:.2f}")
    return accuracy, log_loss


# [end]
if __name__ == "__main__":
    main()
