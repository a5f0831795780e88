"""Checkpoints of many training runs as a data set: for generators of parameters, and for whatever reads networks."""

from metalearn.zoo.record import Recording, Training, log_spaced_steps, record_runs, train_by_gradients
from metalearn.zoo.shards import Shard, open_shard, write_shard
from metalearn.zoo.zoo import Zoo, ZooConfig, fill_zoo, open_zoo

__all__ = [
    "Recording",
    "Shard",
    "Training",
    "Zoo",
    "ZooConfig",
    "fill_zoo",
    "log_spaced_steps",
    "open_shard",
    "open_zoo",
    "record_runs",
    "train_by_gradients",
    "write_shard",
]
