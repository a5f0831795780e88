"""Pictures of learning curves and of meta-training; each function draws on the axes it is given."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from einops import reduce

from metalearn.curves import Curve
from metalearn.errors import RunError

__all__ = [
    "LossCurve",
    "draw_learning_curves",
    "draw_loss_curves",
    "draw_meta_loss",
    "draw_training",
    "loss_curve",
    "new_figure",
    "save",
    "save_or_note",
    "with_readable_names",
]

_LOSS = "#B45309"  # an axis and what belongs to it share a color
_SCORES = {"unseen": "#0072B2", "seen": "#009E73", "training": "#CC79A7"}  # the same in every picture
_OTHERS = ("#E69F00", "#000000", "#9467BD", "#8C564B", "#7F7F7F", "#BCBD22", "#17BECF", "#D62728")
_NAMES = {
    "seen": "seen tasks, held-out examples",
    "training": "training examples",
    "unseen": "unseen tasks, held-out examples",
}

STYLE: Any = {
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "font.size": 9,
}


def new_figure(columns: int = 1, width: float = 5.0, height: float = 3.6) -> tuple[Any, list[Any]]:
    """A figure with `columns` axes in a row, in the style of the library; needs no display.

    Args:
        columns: number of axes.
        width: of each, in inches.
        height: of the figure, in inches.

    Returns:
        The matplotlib figure and its axes.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width * columns, height))
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, list(axes)


def save(figure: Any, path: Path) -> Path:
    """Write a figure to a file, and make its folder if there is none; a name without an ending is a PNG's.

    Returns:
        The file that was written: `path`, with `.png` if it has no ending.

    Raises:
        RunError: the file cannot be written, for instance because the disk is full.
        ValueError: the ending is that of no format of pictures.
    """
    path = path.expanduser()
    path = path if path.suffix else path.with_name(path.name + ".png")
    known = sorted(figure.canvas.get_supported_filetypes())
    if path.suffix[1:].lower() not in known:
        raise ValueError(f"a picture must end in one of .{', .'.join(known)}, got {path}")
    for ax in figure.axes:
        _label_logarithms(ax.xaxis, ax.get_xlim())
        _label_logarithms(ax.yaxis, ax.get_ylim())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise RunError(f"cannot write the picture {path}: {error}; all numbers are safe") from error
    return path


def _label_logarithms(axis: Any, limits: Sequence[float]) -> None:
    """Plain numbers on a decimal logarithmic axis that is too short for two powers of ten, or has ticks of its own."""
    from matplotlib.ticker import AutoLocator, FixedLocator, LogLocator, NullFormatter, StrMethodFormatter

    if axis.get_scale() != "log" or axis.get_transform().base != 10:
        return
    own = isinstance(axis.get_major_locator(), FixedLocator)
    decades = abs(np.log10(limits[1] / limits[0]))
    if own or decades < 2:
        axis.set_minor_formatter(NullFormatter())
    if not own and decades < 2:
        # Of 1, 2 and 5 in each decade at least two are within .7 decades, wherever these begin.
        axis.set_major_locator(AutoLocator() if decades < 0.7 else LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))


def save_or_note(figure: Any, path: Path, note: Callable[[str], None]) -> None:
    """Write a figure, or say why that is impossible: numbers that are on disk already are worth more than a picture."""
    try:
        save(figure, path)
    except RunError as error:
        note(str(error))


def with_readable_names(curves: Mapping[str, Curve]) -> dict[str, Curve]:
    """The same curves under names for readers, instead of the names of the evaluations."""
    return {_NAMES.get(name, name): curve for name, curve in curves.items()}


def draw_learning_curves(ax: Any, curves: Mapping[str, Curve], chance: float | None = None) -> None:
    """Draw the score against the number of examples seen: one line per learner, its 95 % interval as a band.

    Args:
        ax: matplotlib axes.
        curves: curves by label; those whose label starts with "reference: " are thin and dashed.
        chance: the accuracy of guessing, marked by a horizontal line; None: regression, the score is a squared error.
    """
    known = {_NAMES[name]: color for name, color in _SCORES.items()}
    others = itertools.cycle(_OTHERS)
    for label, curve in curves.items():
        n = np.arange(len(curve.mean))
        reference = label.startswith("reference: ")
        color = known.get(label) or next(others)
        ax.plot(
            n,
            curve.mean,
            "--" if reference else "-",
            color=color,
            linewidth=1.2 if reference else 2.2,
            label=label.removeprefix("reference: "),
        )
        ax.fill_between(n, curve.low, curve.high, color=color, alpha=0.12 if reference else 0.2, linewidth=0)
    ax.set_xlabel("examples seen")
    if chance is None:
        ax.set_ylabel("squared error")
        ax.set_yscale("log")
    else:
        ax.axhline(chance, color="0.5", linewidth=0.8, linestyle=":")
        ax.set_ylabel("accuracy")
        ax.set_ylim(0, 1)
    ax.legend(fontsize=8, frameon=False)


class LossCurve(NamedTuple):
    """Training losses of several runs, as they are drawn.

    Attributes:
        steps: middle of each window of steps [S].
        low: first quartile over runs [S]; infinite where that run's loss is not finite.
        middle: median over runs [S].
        high: third quartile over runs [S].
    """

    steps: np.ndarray
    low: np.ndarray
    middle: np.ndarray
    high: np.ndarray


def loss_curve(losses: np.ndarray) -> LossCurve:
    """Quartiles over runs of losses [runs, T], which are averaged over windows of a 50th of T to be readable."""
    window = max(1, losses.shape[1] // 50)
    steps = losses.shape[1] // window
    means = reduce(losses[:, : steps * window], "run (step window) -> run step", "mean", window=window)
    finite = np.where(np.isfinite(means), means, np.inf)
    return LossCurve(
        window * (np.arange(steps) + 0.5) + 0.5, *np.quantile(finite, [0.25, 0.5, 0.75], 0, method="nearest")
    )


def draw_loss_curves(ax: Any, curves: Mapping[str, np.ndarray | LossCurve]) -> None:
    """Draw the training loss against steps on logarithmic axes: the median of several runs, their quartiles as a band.

    Args:
        ax: matplotlib axes.
        curves: losses [runs, T], or what `loss_curve` makes of them, by label; those whose label starts with
            "reference: " are thin and dashed.
    """
    for number, (label, losses) in enumerate(curves.items()):
        curve = losses if isinstance(losses, LossCurve) else loss_curve(losses)
        reference, color = label.startswith("reference: "), f"C{number % 10}"
        style, width = ("--", 1.2) if reference else ("-", 2.2)
        ax.plot(curve.steps, curve.middle, style, color=color, linewidth=width, label=label.removeprefix("reference: "))
        band = 0.12 if reference else 0.2
        ax.fill_between(curve.steps, curve.low, curve.high, color=color, alpha=band, linewidth=0)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("training step")
    ax.set_ylabel("training loss")
    ax.legend(fontsize=8, frameon=False)


def draw_meta_loss(ax: Any, records: Sequence[Mapping[str, Any]]) -> None:
    """Draw meta-training whose scores are losses: the meta-loss of every logged step, and all losses of evaluations.

    Args:
        ax: matplotlib axes.
        records: the lines of a run's metrics, each with "step" and with "loss" or "eval/..." entries.
    """
    losses = [(r["step"], r["loss"]) for r in records if "loss" in r]
    if losses:
        ax.plot(*zip(*losses, strict=True), color="0.65", linewidth=1, label="meta-training loss")
    ax.set_xlabel("outer step")
    ax.set_ylabel("meta-training loss")
    right = ax.twinx()
    right.grid(False)
    for number, name in enumerate(
        sorted({n for r in records for n in r if n.startswith("eval/") and n.endswith("loss")})
    ):
        points = [(r["step"], r[name]) for r in records if name in r]
        label = f"evaluation, {name.removeprefix('eval/').replace('_', ' ')}"
        right.plot(*zip(*points, strict=True), "o-", markersize=3, color=f"C{number}", label=label)
        right.set_yscale("log")
    right.set_ylabel("loss in evaluations")
    lines = [*ax.get_lines(), *right.get_lines()]
    labels = [str(line.get_label()) for line in lines]
    ax.legend(lines, labels, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)


def draw_training(ax: Any, records: Sequence[Mapping[str, Any]], chance: float | None, measure: str, last: int) -> None:
    """Draw the meta-training of a learner: the loss of every logged step, and the scores of the evaluations.

    Args:
        ax: matplotlib axes.
        records: the lines of a run's metrics, each with "step" and with "loss" or "eval/..." entries.
        chance: the accuracy of guessing, marked by a horizontal line; None: not known, or regression.
        measure: what the scores are, "accuracy" or "squared error".
        last: how many positions, the last of a sequence, the scores of evaluations are means over.
    """
    steps = [r["step"] for r in records if "loss" in r]
    losses = [r["loss"] for r in records if "loss" in r]
    ax.plot(steps, losses, color=_LOSS, linewidth=1, label="loss, left axis")
    ax.set_xscale("log")  # the jump from chance takes a small share of the steps
    ax.set_xlabel("outer step")
    ax.set_ylabel("meta-training loss", color=_LOSS)
    ax.tick_params(axis="y", colors=_LOSS)
    names = sorted({name for r in records for name in r if name.startswith("eval/") and name.endswith("_score")})
    right = ax.twinx()
    right.grid(False)
    others = itertools.cycle(_OTHERS)
    for name in names:
        points = [(r["step"], r[name]) for r in records if name in r]
        label = name.removeprefix("eval/").removesuffix("_score").replace("_", " ")
        color = _SCORES.get(label) or next(others)
        label = f"{measure}, {label} tasks" if label in ("seen", "unseen") else f"{measure}, {label}"
        right.plot(*zip(*points, strict=True), "o-", markersize=3, color=color, label=f"{label}, last {last}", zorder=3)
    each = [(r["step"], r["score"]) for r in records if "score" in r]
    if each:
        label = f"{measure} in meta-training"
        right.plot(*zip(*each, strict=True), color="#7DB7DB", linewidth=0.7, label=label)
    if chance is not None:
        right.axhline(chance, color="0.25", linewidth=0.9, linestyle=":", label="accuracy of guessing", zorder=3)
    if measure == "accuracy":
        right.set_ylim(0, 1)
    right.set_ylabel(measure)
    lines = [*ax.get_lines(), *right.get_lines()]
    # Above the axes, where no curve is.
    labels = [str(line.get_label()) for line in lines]
    ax.legend(lines, labels, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=6.5, frameon=False)
