"""Fourteen small training tasks that no optimizer in this repository was meta-trained on.

Meta-training here uses scikit-learn's digits and breast tumours, random linear regression and quadratics. These tasks
have other data, other networks and other batch sizes. All data are synthetic or lie in packages that every user has.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn_models.networks import attention, conv, layer_norm_mlp, mlp
from metalearn_models.networks.network import Network

__all__ = ["TASKS", "SuiteTask", "make_task"]

CHARACTERS = 48
"""Characters of the texts; all others count as one more."""


class SuiteTask(NamedTuple):
    """One task.

    Attributes:
        init: `(key) -> params`.
        loss: `(params, inputs, targets) -> mean loss`.
        score: `(params, inputs, targets) -> number`: accuracy of a classification, else the loss.
        train: inputs and targets, by example.
        test: the same of other examples.
        batch: examples per step.
    """

    init: Callable[[PRNGKeyArray], Any]
    loss: Callable[[Any, Array, Array], Float[Array, ""]]
    score: Callable[[Any, Array, Array], Float[Array, ""]]
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    batch: int


def make_task(name: str) -> SuiteTask:
    """One of `TASKS`, with its data; equal at each call."""
    return TASKS[name]()


def _classify(network: Network, data: Any, batch: int) -> SuiteTask:
    def logits(params: Any, x: Array) -> Array:
        return jax.vmap(network.apply, (None, 0))(params, x)

    def loss(params: Any, x: Array, y: Array) -> Array:
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean()

    def score(params: Any, x: Array, y: Array) -> Array:
        return (logits(params, x).argmax(-1) == y).mean()

    return SuiteTask(network.init, loss, score, *_halves(*data), batch)


def _fit(network: Network, data: Any, batch: int) -> SuiteTask:
    def loss(params: Any, x: Array, y: Array) -> Array:
        return jnp.square(jax.vmap(network.apply, (None, 0))(params, x) - y).mean()

    return SuiteTask(network.init, loss, loss, *_halves(*data), batch)


def _halves(x: np.ndarray, y: np.ndarray) -> tuple[Any, Any]:
    """Four fifths to train on and the rest to test on, in an order drawn once."""
    order = np.random.default_rng(0).permutation(len(x))
    cut = 4 * len(x) // 5
    x, y = x.astype(np.float32), y.astype(np.int32 if y.dtype.kind in "iu" else np.float32)
    return (x[order[:cut]], y[order[:cut]]), (x[order[cut:]], y[order[cut:]])


def _bundled(name: str) -> tuple[np.ndarray, np.ndarray]:
    import sklearn.datasets

    x, y = getattr(sklearn.datasets, f"load_{name}")(return_X_y=True)
    return (x - x.mean(0)) / x.std(0), y


def _moons() -> tuple[np.ndarray, np.ndarray]:
    import sklearn.datasets

    x, y = sklearn.datasets.make_moons(1000, noise=0.15, random_state=0)
    return np.asarray(x), np.asarray(y)


def _teacher(noise: float, seed: int, inputs: int = 20, classes: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Labels of a random network of 32 tanh units; a share of them is drawn again."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2500, inputs))
    hidden = np.tanh(x @ rng.normal(size=(inputs, 32)) / inputs**0.5 * 2)
    y = (hidden @ rng.normal(size=(32, classes))).argmax(1)
    return x, np.where(rng.random(len(y)) < noise, rng.integers(classes, size=len(y)), y)


def _friedman() -> tuple[np.ndarray, np.ndarray]:
    import sklearn.datasets

    x, y = sklearn.datasets.make_friedman1(1500, noise=1.0, random_state=0)
    return x - 0.5, ((y - y.mean()) / y.std())[:, None]


@functools.cache
def _patches() -> tuple[np.ndarray, np.ndarray]:
    """Grey patches of 8 x 8 pixels of scikit-learn's two photographs, and the number of the photograph."""
    import sklearn.datasets

    rng, xs, ys = np.random.default_rng(0), [], []
    for label, image in enumerate(sklearn.datasets.load_sample_images().images):
        grey = image.mean(2) / 255
        rows, columns = (rng.integers(size - 8, size=1500) for size in grey.shape)
        xs += [grey[r : r + 8, c : c + 8].ravel() for r, c in zip(rows, columns, strict=True)]
        ys += [label] * 1500
    return np.stack(xs), np.array(ys)


def _code_patches() -> tuple[np.ndarray, np.ndarray]:
    x = _patches()[0]
    x = (x - x.mean()) / x.std()
    return x, x


@functools.cache
def _text(window: int) -> tuple[np.ndarray, np.ndarray]:
    """One-hot windows of the text of Python's own help topics, and the character after each."""
    from pydoc_data.topics import topics

    text = "".join(topics[name] for name in sorted(topics))[:60000]
    order = sorted(set(text), key=lambda c: (-text.count(c), c))[: CHARACTERS - 1]
    codes = np.array([order.index(c) if c in order else CHARACTERS - 1 for c in text])
    starts = np.random.default_rng(0).choice(len(codes) - window, 4000, replace=False)
    windows = codes[starts[:, None] + np.arange(window)]
    return np.eye(CHARACTERS, dtype=np.float32)[windows].reshape(len(starts), -1), codes[starts + window]


def _adding(length: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of numbers, two of them marked: the target is the sum of these (Hochreiter and Schmidhuber 1997)."""
    rng = np.random.default_rng(0)
    numbers, marks = rng.random((2000, length)), np.zeros((2000, length))
    for row in marks:
        row[rng.choice(length, 2, replace=False)] = 1
    return np.stack([numbers, marks], 2).reshape(2000, -1), (numbers * marks).sum(1, keepdims=True)


def _recurrent(features: int, units: int) -> Network:
    def init(key: PRNGKeyArray) -> Any:
        keys = jax.random.split(key, 3)
        draw = jax.nn.initializers.lecun_normal()
        shapes = {"in": (features, units), "back": (units, units), "out": (units, 1)}
        return {n: draw(k, s, jnp.float32) for k, (n, s) in zip(keys, shapes.items(), strict=True)} | {
            "bias": jnp.zeros(units)
        }

    def apply(params: Any, x: Float[Array, "D"]) -> Float[Array, "1"]:
        def step(h: Array, x: Array) -> tuple[Array, None]:
            return jnp.tanh(x @ params["in"] + h @ params["back"] + params["bias"]), None

        h, _ = jax.lax.scan(step, jnp.zeros(units), x.reshape(-1, features))
        return h @ params["out"]

    return Network(init, apply)


def _ill_conditioned() -> tuple[np.ndarray, np.ndarray]:
    """Linear regression on inputs whose scales reach over two decades."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 50)) * np.logspace(-1, 1, 50)
    y = x @ (rng.normal(size=50) / np.logspace(-1, 1, 50)) / 50**0.5
    return x, (y + 0.1 * rng.normal(size=1000))[:, None]


TASKS: dict[str, Callable[[], SuiteTask]] = {
    "ill-conditioned, linear": lambda: _fit(mlp(50, (), 1), _ill_conditioned(), 16),
    "iris, relu 16": lambda: _classify(mlp(4, (16,), 3), _bundled("iris"), 8),
    "Friedman, relu 64": lambda: _fit(mlp(10, (64,), 1), _friedman(), 32),
    "teacher, linear": lambda: _classify(mlp(20, (), 8), _teacher(0.0, 2), 32),
    "moons, tanh 32-32": lambda: _classify(mlp(2, (32, 32), 2, jnp.tanh), _moons(), 64),
    "wine, tanh 64-64": lambda: _classify(mlp(13, (64, 64), 3, jnp.tanh), _bundled("wine"), 16),
    "teacher, gelu 128": lambda: _classify(mlp(20, (128,), 8, jax.nn.gelu), _teacher(0.0, 0), 128),
    "patches, autoencoder": lambda: _fit(mlp(64, (32, 8, 32), 64), _code_patches(), 64),
    "adding, recurrent 32": lambda: _fit(_recurrent(2, 32), _adding(), 32),
    "patches, layer norm 32-32-32": lambda: _classify(layer_norm_mlp(64, (32, 32, 32), 2), _patches(), 64),
    "teacher with noise, relu 64-64": lambda: _classify(mlp(20, (64, 64), 8), _teacher(0.2, 1), 64),
    "text, relu 64": lambda: _classify(mlp(4 * CHARACTERS, (64,), CHARACTERS), _text(4), 128),
    "patches, convolutions": lambda: _classify(conv((8, 8), (16, 32), 2), _patches(), 32),
    "text, Transformer": lambda: _classify(attention(12, CHARACTERS, CHARACTERS, 32, 2, 4), _text(12), 32),
}
"""`() -> task`, by name, roughly from the cheapest step to the dearest."""
