"""Search spaces of architectures as integer arrays, and networks of which one program trains any architecture."""

from metalearn_models.architectures.cell_network import Candidate as Candidate
from metalearn_models.architectures.cell_network import CellNetwork as CellNetwork
from metalearn_models.architectures.cell_network import Examples as Examples
from metalearn_models.architectures.cell_network import SearchData as SearchData
from metalearn_models.architectures.cell_network import classification_search as classification_search
from metalearn_models.architectures.cell_network import scored_by_loss as scored_by_loss
from metalearn_models.architectures.cell_network import sequence_search as sequence_search
from metalearn_models.architectures.convolutional import convolutional_cell as convolutional_cell
from metalearn_models.architectures.feedforward import feedforward_cell as feedforward_cell
from metalearn_models.architectures.learner_sizes import learner_sizes as learner_sizes
from metalearn_models.architectures.recurrent import recurrent_cell as recurrent_cell
from metalearn_models.architectures.space import Space as Space
from metalearn_models.architectures.space import make_space as make_space

__all__ = [
    "Candidate",
    "CellNetwork",
    "Examples",
    "SearchData",
    "Space",
    "classification_search",
    "convolutional_cell",
    "feedforward_cell",
    "learner_sizes",
    "make_space",
    "recurrent_cell",
    "scored_by_loss",
    "sequence_search",
]
