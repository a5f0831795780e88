"""What a run leaves on disk: configuration, checkpoints, metrics, weights, results; and the loop that writes it."""

from metalearn.runs.checkpoints import checkpoint_steps as checkpoint_steps
from metalearn.runs.checkpoints import restore_checkpoint as restore_checkpoint
from metalearn.runs.checkpoints import save_checkpoint as save_checkpoint
from metalearn.runs.folder import Run as Run
from metalearn.runs.folder import create_run as create_run
from metalearn.runs.folder import open_run as open_run
from metalearn.runs.folder import resume_run as resume_run
from metalearn.runs.folder import write_result as write_result
from metalearn.runs.metrics import read_metrics as read_metrics
from metalearn.runs.progress import Progress as Progress
from metalearn.runs.progress import default_progress as default_progress
from metalearn.runs.training import train as train
from metalearn.runs.weights import load_weights as load_weights
from metalearn.runs.weights import save_weights as save_weights
from metalearn.runs.weights import theta_sha256 as theta_sha256

__all__ = [
    "Progress",
    "Run",
    "checkpoint_steps",
    "create_run",
    "default_progress",
    "load_weights",
    "open_run",
    "read_metrics",
    "restore_checkpoint",
    "resume_run",
    "save_checkpoint",
    "save_weights",
    "theta_sha256",
    "train",
    "write_result",
]
