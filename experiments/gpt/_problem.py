"""The network, the digits and the checkpoints that all arms of the experiment share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.recipes.gpt.build import checkpoint_training
from metalearn.runs.progress import Progress
from metalearn.zoo import Zoo, ZooConfig, fill_zoo
from metalearn_models.networks import mlp
from metalearn_models.optimizers.gpt import Tokeniser, chunk_tokens, hidden_unit_tokens
from metalearn_tasks import datasets

OUTPUTS = 10


class Checkpoints(NamedTuple):
    """Checkpoints of a network on digits.

    Attributes:
        zoo: on disk.
        tokeniser: of the network.
        loss: `(flat) -> loss` on the training examples, what generators are prompted by.
        batch_loss: `(flat, key) -> loss` of a random batch.
        logits: `(flat) -> logits` on the test examples.
        accuracy: `(flat) -> share` of the test examples that are classified right.
        params, losses: of the training runs, `[R, S, P]` and `[R, S]`.
        starts, start_losses: of the unseen runs' initialisations, `[U, P]` and `[U]`.
        batch: examples per batch.
        examples: training examples.
    """

    zoo: Zoo
    tokeniser: Tokeniser
    loss: Callable[[Any], Any]
    batch_loss: Callable[[Any, Any], Any]
    logits: Callable[[Any], Any]
    accuracy: Callable[[Any], Any]
    params: np.ndarray
    losses: np.ndarray
    starts: np.ndarray
    start_losses: np.ndarray
    batch: int
    examples: int


def make_checkpoints(
    folder: Path, hidden: tuple[int, ...], zoo: ZooConfig, rate: float, judged: int, progress: Progress | None
) -> Checkpoints:
    """Train the runs that are missing, with SGD on batches of 100, and open them.

    The training split is cut once more, four fifths for training and one for validation.
    """
    data, batch = datasets.load("digits"), 100
    network = mlp(data.inputs, hidden, OUTPUTS)
    test_inputs, test_labels = jnp.asarray(data.test.inputs), jnp.asarray(data.test.labels)
    training, loss, sample, train = checkpoint_training(data, hidden, rate, batch)
    about = {"data": "digits", "hidden": list(hidden), "optimizer": "sgd", "rate": rate, "batch": batch}
    made = fill_zoo(folder, training, zoo, about, progress)
    like = jax.eval_shape(network.init, jax.random.key(0))
    unflatten = made.unflatten(like)

    def logits(flat: Any) -> Any:
        return jax.vmap(network.apply, (None, 0))(unflatten(flat), test_inputs)

    seen, unseen = made.seen(), made.unseen()
    return Checkpoints(
        made,
        hidden_unit_tokens(like) if len(hidden) == 1 else chunk_tokens(like, 65),
        lambda flat: loss(unflatten(flat), train),
        lambda flat, key: loss(unflatten(flat), sample(key)),
        logits,
        lambda flat: jnp.mean(logits(flat).argmax(-1) == test_labels),
        np.asarray(seen.params),
        made.loss(seen, "train"),
        np.asarray(unseen.params[:judged, 0]),
        made.loss(unseen, "train")[:judged, 0],
        batch,
        len(train[1]),
    )
