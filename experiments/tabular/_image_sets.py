"""Sets of small images in ten classes, from packages that every user has, and from tensorflow-datasets."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from einops import rearrange, reduce
from jaxtyping import Float, Int
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_images

from metalearn_tasks.datasets import load

__all__ = ["BUNDLED", "Images", "load_images"]

BUNDLED = ("digits", "letters", "patches")
SIZE = 14
"""Height and width of letters, patches, and what tensorflow-datasets has."""
LETTERS = "ABCDEFGHIJ"
FACES = ("DejaVuSans[!D]*.ttf", "DejaVuSerif*[!y].ttf", "STIXGeneral*.ttf", "cmb10.ttf", "cmr10.ttf", "cmss10.ttf")
"""Fonts of matplotlib that have these letters."""
EACH = 200
"""Letters per class."""


class Images(NamedTuple):
    """Images in classes.

    Attributes:
        pixels: one row per image.
        labels: class of each, from 0.
    """

    pixels: Float[np.ndarray, "N D"]
    labels: Int[np.ndarray, "N"]


@cache
def load_images(name: str, data_dir: str | None = None) -> Images:
    """A set of images.

    - `digits`: those 397 of scikit-learn's digits, 8 x 8, that meta-training on digits does not use.
    - `letters`: A to J in the fonts that come with matplotlib, turned, moved, scaled, and with noise.
    - `patches`: pieces of ten strips of scikit-learn's two photographs, grey, side by side; the class is the strip.
    - any other name: the test split of a set of tensorflow-datasets or of a file, see `metalearn_tasks.datasets.load`.

    Args:
        name: as above.
        data_dir: where tensorflow-datasets finds prepared sets; None: its own default.

    Raises:
        UnknownNameError, DataNotPreparedError, ValueError: from `load`.
    """
    if name == "letters":
        return _draw_letters()
    if name == "patches":
        return _cut_patches()
    data = load(name) if name == "digits" else load(name, size=SIZE, data_dir=data_dir)
    return Images(rearrange(np.asarray(data.test.inputs, np.float64), "n ... -> n (...)"), np.asarray(data.test.labels))


def _draw_letters() -> Images:
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fonts = [ImageFont.truetype(str(file), 40) for pattern in FACES for file in sorted(folder.glob(pattern))]
    rng, pixels = np.random.default_rng(0), []
    for letter in LETTERS:
        for _ in range(EACH):
            page = Image.new("L", (4 * SIZE, 4 * SIZE))
            ImageDraw.Draw(page).text((28, 28), letter, 255, fonts[rng.integers(len(fonts))], anchor="mm")
            angle, scale, (x, y) = rng.normal(0, 0.2), rng.uniform(0.8, 1.3), rng.normal(0, 3, 2)
            cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
            moved = (cos, -sin, 28 - 28 * cos + 28 * sin + x, sin, cos, 28 - 28 * sin - 28 * cos + y)
            page = page.transform(page.size, Image.Transform.AFFINE, moved, Image.Resampling.BILINEAR)
            pixels.append(reduce(np.asarray(page, np.float64) / 255, "(h a) (w b) -> (h w)", "mean", a=4, b=4))
    noisy = np.stack(pixels) + rng.normal(0, 0.1, (len(pixels), SIZE * SIZE))
    return Images(noisy, np.repeat(np.arange(len(LETTERS)), EACH))


def _cut_patches() -> Images:
    pixels, labels = [], []
    for number, photograph in enumerate(load_sample_images().images):
        grey = np.asarray(photograph, np.float64).mean(-1) / 255
        width = grey.shape[1] // 5
        for strip in range(5):
            part = grey[:, strip * width :][: 2 * SIZE * (len(grey) // (2 * SIZE)), : 2 * SIZE * (width // (2 * SIZE))]
            cut = reduce(part, "(y h a) (x w b) -> (y x) (h w)", "mean", a=2, b=2, h=SIZE, w=SIZE)
            pixels.append(cut)
            labels += [5 * number + strip] * len(cut)
    return Images(np.concatenate(pixels), np.array(labels))
