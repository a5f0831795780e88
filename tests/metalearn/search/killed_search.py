"""A search in a folder, as a process that a test can kill: `python killed_search.py FOLDER [slow]` prints its bits."""

import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[3]))
from metalearn.search.folder import search_in_folder
from metalearn.search.successive_halving import plan_rungs
from tests.metalearn.search.parabola import make_parabola


def run(folder, pause=0.0, seed=3):
    """The bits of the scores and of the states at the end."""
    state = search_in_folder(
        folder,
        {"seed": seed},
        make_parabola(),
        jnp.asarray(np.geomspace(0.01, 1.5, 16), jnp.float32),
        jnp.float32(2.0),
        jax.random.key(3),
        plan_rungs(16, 4, 16, 2),
        every=1,
        saved=lambda state: time.sleep(pause),
    )
    return " ".join(np.asarray(leaf).tobytes().hex() for leaf in (state.scores, state.states["x"]))


if __name__ == "__main__":
    print(run(Path(sys.argv[1]), 0.3 if sys.argv[2:] else 0.0))
