"""Save what was meta-trained, and use it somewhere else: in the library, and as a classifier of tables.

`learners.save` writes the meta-parameters with the learner and the shapes they belong to, so that `load` needs no code.
"""

# [save]
import tempfile
from pathlib import Path

import jax
import numpy as np
import optax

from metalearn import backprop, inner_loop, outer_loop
from metalearn_models import InContextClassifier, learners
from metalearn_models.learners.transformer import TransformerConfig, transformer
from metalearn_tasks.datasets import load
from metalearn_tasks.families.projected import ProjectedConfig, projected, projected_data


def train_and_save(path, steps, width):
    """Meta-train a Transformer on maps of digits, and write it to a file."""
    digits = load("digits", pca=8)
    family = projected(digits.inputs, digits.classes, ProjectedConfig(length=30))
    config = TransformerConfig(width=width, layers=2, heads=4, key_size=width // 4, token="pair")
    learner = transformer(family.signature, config)
    loop = outer_loop(backprop(inner_loop(learner, family), batch=32), optax.adam(3e-3), steps_per_call=steps)
    data = projected_data(*digits.train)
    state, _ = loop.step(loop.init(learner.init(jax.random.key(0)), data, jax.random.key(1)), data)
    learners.save(path, config, learner.signature, state.theta, {"trained_on": "digits", "steps": steps})


# [use]
def main(steps=600, width=64, rows=50):
    """Save, load, predict; returns the accuracy on iris with that many labelled rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mine.safetensors"
        train_and_save(path, steps, width)
        loaded = learners.load(path)  # its theta, learner and signature, and all that was written beside them
        print(f"{loaded.signature}, trained on {loaded.card['trained_on']}")
        iris = load("iris")
        classifier = InContextClassifier(weights=path).fit(iris.train.inputs[:rows], iris.train.labels[:rows])
        accuracy = float(np.mean(classifier.predict(iris.test.inputs) == iris.test.labels))
    print(f"iris from {rows} rows: {accuracy:.2f}")
    return accuracy


# [end]
if __name__ == "__main__":
    main()
