"""Data sets that need no download: four that come with scikit-learn, and a set of noise images.

The Random set is that of Kirsch, Harrison, Sohl-Dickstein and Metz (2022, arXiv 2212.04458).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from einops import rearrange

NAMES = {
    "digits": "1,797 handwritten digits, 8 x 8 pixels, 10 classes",
    "breast_cancer": "569 breast tumours, 30 measurements, 2 classes",
    "wine": "178 Italian wines, 13 chemical measurements, 3 classes",
    "iris": "150 irises, 4 measurements, 3 classes",
    "random": "10 uniform noise images, one per class: memorisation, with --family.repeats (Kirsch et al. 2022)",
}


def read(name: str, size: int | None, seed: int) -> dict[str, tuple[Any, Any]]:
    """Read the examples of a bundled set.

    Args:
        name: a key of `NAMES`.
        size: height and width of the images of the Random set. None: the paper's 14. The other sets ignore it.
        seed: seed of the ten images of the Random set.

    Returns:
        The splits of the set, name -> `(X, y)`: images `[N, H, W]` in [0, 1], tables `[N, D]`.
    """
    if name == "random":
        side = 14 if size is None else size
        images = np.random.default_rng(seed).uniform(size=(10, side, side)).astype(np.float32)
        # Noise has nothing to generalise to: the task is to remember these ten images, so no example is held out.
        return dict.fromkeys(("train", "test"), (images, np.arange(10)))
    import sklearn.datasets  # Imported late: it takes a second, and only some callers need it.

    x, y = getattr(sklearn.datasets, f"load_{name}")(return_X_y=True)
    if name == "digits":
        x = rearrange((x / 16.0).astype(np.float32), "n (h w) -> n h w", h=8)
    return {"train": (x, y)}
