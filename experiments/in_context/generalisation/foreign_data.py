"""Any data set in the shapes that a learner was built for, to score the learner on data it was not meta-trained on.

The protocol of GPICL (Kirsch, Harrison, Sohl-Dickstein, Metz 2022, arXiv 2212.04458): each task projects the data set
at random to the learner's inputs and maps its classes to random ones of the learner's ten labels. A data set with fewer
classes uses that many of the ten labels, and only these compete: a label that stands for no class is no answer of any
learner or reference. The paper's Random set draws its ten images with replacement, so that the task is to remember
them.
"""

from __future__ import annotations

import functools
import zlib
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from metalearn.errors import DataNotPreparedError
from metalearn.learner import Family, Learner, Signature
from metalearn.recipes.in_context.config import DataConfig
from metalearn.recipes.in_context.scoring import score_learner
from metalearn_tasks.datasets import Split, load, names

SIZE = 14
"""Height and width to which images of tensorflow-datasets are resized."""

__all__ = ["episodes", "examples", "most_frequent", "read_features", "score"]


@functools.cache
def examples(
    sources: tuple[str, ...], features: str | None, home: DataConfig, length: int, outputs: int
) -> tuple[dict[str, Split], dict[str, str]]:
    """The examples of each data set that is on this machine, and the reason for each that is not.

    Images keep their own test split. Tables and features have none and are used whole, since no learner was
    meta-trained on them. Of the data of meta-training only the held-out examples are used.

    Args:
        sources: names as `metalearn_tasks.datasets.load` takes them.
        features: an .npz file of frozen features with arrays `inputs` [N, D] and `labels` [N]; None: no such set.
        home: the data of meta-training. Every data set with at least as many inputs and examples is reduced to the same
            number of principal components.
        length: T, the least number of examples of a data set.
        outputs: C, the largest number of classes of a data set.

    Returns:
        Inputs and labels by name, and a reason for each name that is missing.

    Raises:
        UnknownNameError: a name that neither the library nor tensorflow-datasets knows.
        ValueError: too few examples, too many classes, or features without the two arrays.
    """
    splits, missing = {}, {}
    for name in (*sources, *([] if features is None else ["features"])):
        bundled = name in names() or name == "features"
        source: Any = name if name != "features" else read_features(Path(str(features)))
        size = home.size if name == home.source else None if bundled else SIZE
        read = functools.partial(load, source, size=size, data_dir=home.data_dir)
        try:
            # Images have more pixels than components. Some of the other sets have fewer inputs or examples.
            enough = home.pca is not None and (not bundled or min(read().train.inputs.shape) >= home.pca)
            data = read(pca=home.pca if enough else None)
        except DataNotPreparedError:
            missing[name] = "not prepared in the folder of tensorflow-datasets"
            continue
        if data.classes > outputs:
            raise ValueError(f"{name} has {data.classes} classes, the learner has only {outputs} outputs")
        parts = [data.test] if name in (home.source, "random") or not bundled else [data.train, data.test]
        split = Split(np.concatenate([p.inputs for p in parts]), np.concatenate([p.labels for p in parts]))
        if len(split.labels) < length and name != "random":
            raise ValueError(f"{name} has {len(split.labels)} examples, but a sequence needs {length} different ones")
        splits[name] = split
    return splits, missing


def read_features(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of an .npz file.

    Raises:
        OSError: the file does not exist.
        ValueError: it is not an .npz file, or it lacks `inputs` or `labels`.
    """
    with np.load(path) as arrays:
        if not {"inputs", "labels"} <= set(arrays):
            raise ValueError(f"{path} needs arrays 'inputs' [N, D] and 'labels' [N], but has {', '.join(arrays)}")
        return arrays["inputs"], arrays["labels"]


def episodes(
    name: str, split: Split, signature: Signature, tasks: int, sequences: int, seed: int
) -> tuple[Float[np.ndarray, "N T D"], Int[np.ndarray, "N T"], Bool[np.ndarray, "N C"]]:
    """N = tasks x sequences sequences of new tasks over a data set, in the shapes of a learner.

    The tasks are those of `metalearn_tasks.families.projected`, with labels among all outputs of the learner. They are
    drawn on the host, which takes a tenth of a second per data set; on the device each set would need a program of its
    own to compile.

    Args:
        name: of the data set. It is part of the seed, so that sequences do not depend on the other data sets.
        split: the examples. If there are fewer than a sequence has, they are drawn with replacement.
        signature: of the learner.
        tasks: number of projections, each with its own choice of labels.
        sequences: sequences per task.
        seed: of all draws.

    Returns:
        Inputs and labels of each sequence, and which outputs stand for a class of the data set in it.
    """
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    count, inputs = split.inputs.shape
    xs, ys, classes = [], [], []
    for _ in range(tasks):
        projection = (rng.standard_normal((inputs, signature.inputs)) / inputs**0.5).astype(np.float32)
        labels = rng.permutation(signature.outputs).astype(np.int32)
        for _ in range(sequences):
            rows = rng.choice(count, signature.length, replace=count < signature.length)
            xs.append(np.asarray(split.inputs)[rows] @ projection)
            ys.append(labels[np.asarray(split.labels)[rows]])
        classes.append(np.isin(np.arange(signature.outputs), labels[: split.labels.max() + 1]))
    return np.stack(xs), np.stack(ys), np.repeat(np.stack(classes), sequences, axis=0)


def score(learner: Learner, theta: Any, sets: dict[str, tuple[Any, Any, Any]], seed: int) -> dict[str, np.ndarray]:
    """Whether a learner is right, [N, T], on the episodes of each data set, in one program for all of them.

    Args:
        learner: any learner with the signature of the episodes.
        theta: its meta-parameters.
        sets: what `episodes` returns, by data set, with equal numbers of sequences.
        seed: of the learner's own randomness.
    """
    data = tuple(jnp.asarray(np.concatenate(parts)) for parts in zip(*sets.values(), strict=True))
    scored = score_learner(
        learner, theta, _given_sequences(learner.signature), {"": (_pick, data)}, len(data[0]), 1, seed
    )[""]
    return dict(zip(sets, np.split(scored, len(sets)), strict=True))


def most_frequent(ys: Int[np.ndarray, "N T"], classes: Bool[np.ndarray, "N C"]) -> np.ndarray:
    """Whether the class seen most often so far is right, [N, T]; of equally frequent classes the lowest."""
    one_hot = np.eye(classes.shape[1])[np.asarray(ys)]
    before = np.where(classes[:, None], one_hot.cumsum(1) - one_hot, -1.0)
    return (before.argmax(-1) == ys).astype(np.float32)


def _pick(data: tuple[Array, ...], index: Array) -> tuple[Array, ...]:
    return tuple(part[index] for part in data)


def _given_sequences(signature: Signature) -> Family:
    """The family whose tasks are given sequences, one sequence per task."""
    return Family(signature, _pick, None, _pick, lambda data, task, key: task[:2], lambda data, task: task[2])
