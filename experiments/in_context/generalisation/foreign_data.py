"""Any data set in the shapes a learner was built for: how does it do on data it was never meta-trained on?

The protocol of GPICL (Kirsch, Harrison, Sohl-Dickstein, Metz 2022, arXiv 2212.04458): every data set is projected at
random to the learner's inputs and its labels become random ones of the learner's ten, a new projection and a new choice
of labels each task. Data sets with fewer classes use as many of the ten labels. The paper's Random set draws its ten
images with replacement: what is asked is to remember them.
"""

from __future__ import annotations

import functools
import zlib
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from metalearn.errors import DataNotPreparedError
from metalearn.learner import Family, Learner, Signature
from metalearn.recipes.in_context.config import DataConfig
from metalearn.recipes.in_context.scoring import score_learner
from metalearn_tasks.datasets import Split, load, names

SIZE = 14
"""Height and width to which images of tensorflow-datasets are resized."""


@functools.cache
def examples(
    sources: tuple[str, ...], features: str | None, home: DataConfig, length: int, outputs: int
) -> tuple[dict[str, Split], dict[str, str]]:
    """The examples of each data set that is on this machine, and for the others why they are missing.

    Images keep their own test split. Tables and features without one are used whole, since a learner was meta-trained
    on none of their examples; of the data it was meta-trained on, only the held-out ones are.

    Args:
        sources: names as `metalearn_tasks.datasets.load` takes them.
        features: an .npz file of frozen features with arrays `inputs` [N, D] and `labels` [N]; None: no such set.
        home: the data of meta-training. Its number of components is that of all data sets that have more inputs, and
            more examples, than that.
        length: T, the fewest examples that a data set must have.
        outputs: C, the most classes that it may have.

    Returns:
        Inputs and labels by name, and a sentence for each name that was left out.

    Raises:
        UnknownNameError: a name that neither the library nor tensorflow-datasets knows.
        ValueError: too few examples, too many classes, or features without the two arrays.
    """
    found, missing = {}, {}
    for name in (*sources, *([] if features is None else ["features"])):
        bundled = name in names() or name == "features"
        source: Any = name if name != "features" else read_features(Path(str(features)))
        size = home.size if name == home.source else None if bundled else SIZE
        read = functools.partial(load, source, size=size, data_dir=home.data_dir)
        try:
            # Images have more pixels than components; of the others, some have fewer inputs or examples.
            enough = home.pca is not None and (not bundled or min(read().train.inputs.shape) >= home.pca)
            data = read(pca=home.pca if enough else None)
        except DataNotPreparedError:
            missing[name] = "not prepared in the folder of tensorflow-datasets"
            continue
        if data.classes > outputs:
            raise ValueError(f"{name} has {data.classes} classes, the learner tells at most {outputs} apart")
        parts = [data.test] if name in (home.source, "random") or not bundled else [data.train, data.test]
        split = Split(np.concatenate([p.inputs for p in parts]), np.concatenate([p.labels for p in parts]))
        if len(split.labels) < length and name != "random":
            raise ValueError(f"{name} has {len(split.labels)} examples, a sequence needs {length} different ones")
        found[name] = split
    return found, missing


def read_features(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of an .npz file.

    Raises:
        OSError: it is not there.
        ValueError: it is no such file, or one without `inputs` and `labels`.
    """
    with np.load(path) as arrays:
        if not {"inputs", "labels"} <= set(arrays):
            raise ValueError(f"{path} needs arrays 'inputs' [N, D] and 'labels' [N], it has {', '.join(arrays)}")
        return arrays["inputs"], arrays["labels"]


def episodes(
    name: str, split: Split, signature: Signature, tasks: int, sequences: int, seed: int
) -> tuple[Float[np.ndarray, "N T D"], Int[np.ndarray, "N T"]]:
    """Sequences of new tasks of a data set, N = tasks x sequences of them, in a learner's shapes.

    The tasks are those of `metalearn_tasks.families.projected` with labels among all outputs of the learner. They are
    drawn on the host: there they take a tenth of a second a data set, where each would be a program to compile.

    Args:
        name: of the data set; its sequences do not depend on what other sets there are.
        split: the examples; with fewer than a sequence has, they are drawn with replacement.
        signature: of the learner.
        tasks: how many projections and choices of labels.
        sequences: of each task.
        seed: of all draws.
    """
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    count, inputs = split.inputs.shape
    xs, ys = [], []
    for _ in range(tasks):
        projection = (rng.standard_normal((inputs, signature.inputs)) / inputs**0.5).astype(np.float32)
        labels = rng.permutation(signature.outputs).astype(np.int32)
        for _ in range(sequences):
            rows = rng.choice(count, signature.length, replace=count < signature.length)
            xs.append(np.asarray(split.inputs)[rows] @ projection)
            ys.append(labels[np.asarray(split.labels)[rows]])
    return np.stack(xs), np.stack(ys)


def score(learner: Learner, theta: Any, sets: dict[str, tuple[Any, Any]], seed: int) -> dict[str, np.ndarray]:
    """Whether a learner is right, [N, T], on the episodes of each data set; one program for all of them.

    Args:
        learner: any learner with the signature of the episodes.
        theta: its meta-parameters.
        sets: what `episodes` gave, as many sequences for each.
        seed: of the learner's own randomness.
    """
    xs, ys = (jnp.asarray(np.concatenate(parts)) for parts in zip(*sets.values(), strict=True))
    scored = score_learner(learner, theta, _given(learner.signature), {"": (_pick, (xs, ys))}, len(ys), 1, seed)[""]
    return dict(zip(sets, np.split(scored, len(sets)), strict=True))


def most_frequent(ys: Int[np.ndarray, "N T"], outputs: int) -> np.ndarray:
    """Whether the label seen most often so far is right, [N, T]; of equally frequent ones the lowest."""
    one_hot = np.eye(outputs)[np.asarray(ys)]
    before = one_hot.cumsum(1) - one_hot
    return (before.argmax(-1) == ys).astype(np.float32)


def _pick(data: tuple[Array, Array], index: Array) -> tuple[Array, Array]:
    return data[0][index], data[1][index]


def _given(signature: Signature) -> Family:
    """Sequences that are there already, each a task of its own."""
    return Family(signature, _pick, None, _pick, lambda data, task, key: task)
