"""Pictures of learning curves and of meta-training; each function draws on the axes it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from einops import reduce

from metalearn.curves import Curve
from metalearn.errors import RunError

__all__ = [
    "draw_learning_curves",
    "draw_loss_curves",
    "draw_meta_loss",
    "draw_sweep",
    "draw_training",
    "new_figure",
    "save",
    "save_or_note",
    "with_readable_names",
]

_LOSS = "#B45309"  # an axis and what belongs to it share a color
_SCORES = ("#0072B2", "#009E73", "#CC79A7")

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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise RunError(f"cannot write the picture {path}: {error}; all numbers are safe") from error
    return path


def save_or_note(figure: Any, path: Path, note: Callable[[str], None]) -> None:
    """Write a figure, or say why that is impossible: numbers that are on disk already are worth more than a picture."""
    try:
        save(figure, path)
    except RunError as error:
        note(str(error))


def with_readable_names(curves: Mapping[str, Curve]) -> dict[str, Curve]:
    """The same curves under names for readers, instead of the names of the evaluations."""
    names = {
        "seen": "seen tasks, held-out examples",
        "training": "training examples",
        "unseen": "unseen tasks, held-out examples",
    }
    return {names.get(name, name): curve for name, curve in curves.items()}


def draw_learning_curves(ax: Any, curves: Mapping[str, Curve], chance: float | None = None) -> None:
    """Draw the score against the number of examples seen: one line per learner, its 95 % interval as a band.

    Args:
        ax: matplotlib axes.
        curves: curves by label; those whose label starts with "reference: " are thin and dashed.
        chance: the accuracy of guessing, marked by a horizontal line; None: regression, the score is a squared error.
    """
    for number, (label, curve) in enumerate(curves.items()):
        n = np.arange(len(curve.mean))
        reference = label.startswith("reference: ")
        color = f"C{number % 10}"
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


def draw_loss_curves(ax: Any, curves: Mapping[str, np.ndarray]) -> None:
    """Draw the training loss against steps on logarithmic axes: the median of several runs, their quartiles as a band.

    Args:
        ax: matplotlib axes.
        curves: losses [runs, T] by label; those whose label starts with "reference: " are thin and dashed. Non-finite
            losses count as infinite. To be readable, curves are averaged over windows of a 50th of their length.
    """
    for number, (label, losses) in enumerate(curves.items()):
        window = max(1, losses.shape[1] // 50)
        steps = losses.shape[1] // window
        means = reduce(losses[:, : steps * window], "run (step window) -> run step", "mean", window=window)
        finite = np.where(np.isfinite(means), means, np.inf)
        low, middle, high = np.quantile(finite, [0.25, 0.5, 0.75], 0, method="nearest")
        reference, color = label.startswith("reference: "), f"C{number % 10}"
        t = window * (np.arange(steps) + 0.5) + 0.5
        style, width = ("--", 1.2) if reference else ("-", 2.2)
        ax.plot(t, middle, style, color=color, linewidth=width, label=label.removeprefix("reference: "))
        ax.fill_between(t, low, high, color=color, alpha=0.12 if reference else 0.2, linewidth=0)
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
    for number, name in enumerate(names):
        points = [(r["step"], r[name]) for r in records if name in r]
        label = name.removeprefix("eval/").removesuffix("_score").replace("_", " ")
        label = f"{measure}, {label} tasks" if label in ("seen", "unseen") else f"{measure}, {label}"
        color = _SCORES[number % len(_SCORES)]
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


def draw_sweep(ax: Any, field: str, points: Sequence[tuple[Any, float, str]], measure: str = "value") -> None:
    """Draw the value of each run of a sweep against one of the swept fields, and a line through the means.

    Args:
        ax: matplotlib axes.
        field: name of the field.
        points: for each run its value of the field, the value that it reached, and its state. Runs whose state is not
            "done" are drawn hollow. Runs with the same value of the field are drawn side by side.
        measure: what the values are, such as "accuracy on unseen tasks".
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    numbers = [x for x in (_number(p[0]) for p in points) if x is not None]
    texts = list(dict.fromkeys(str(x) for x, _, _ in points))
    numeric = bool(points) and len(numbers) == len(points)
    xs = numbers if numeric else [float(texts.index(str(p[0]))) for p in points]
    logarithmic = numeric and bool(xs) and min(xs) > 0 and max(xs) >= 8 * min(xs)
    side_by_side = _spread(xs, logarithmic)
    done_at = [(x, p[1]) for x, p in zip(xs, points, strict=True) if p[2] == "done"]
    means = {x: float(np.mean([y for at, y in done_at if at == x])) for x in sorted({x for x, _ in done_at})}
    if numeric and 1 < len(means) < len(done_at):
        ax.plot(
            list(means), list(means.values()), color="#0072B2", linewidth=1, alpha=0.5, label="mean of complete runs"
        )
    for done, face in ((True, "#0072B2"), (False, "none")):
        group = [(x, p[1]) for x, p in zip(side_by_side, points, strict=True) if (p[2] == "done") is done]
        if group:
            label = "complete" if done else "stopped early, running or failed"
            ax.scatter(
                *zip(*group, strict=True), s=16, facecolors=face, edgecolors="#0072B2", linewidths=0.8, label=label
            )
    if logarithmic:
        ax.set_xscale("log")
        few = max(xs) < 40 * min(xs)  # one label per decade would be one or none
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
        ax.xaxis.set_minor_formatter(NullFormatter())
    if numeric and len(texts) <= 6:  # a grid: label its values as they were written
        ax.set_xticks([float(text) for text in texts], texts)
    elif not numeric:
        ax.set_xticks(range(len(texts)), texts)
    ax.set_xlabel(field)
    ax.set_ylabel(measure)
    if points:  # above the axes, where no run is
        ax.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)


def _spread(xs: Sequence[float], logarithmic: bool) -> list[float]:
    """The places of points, those that share one moved apart by at most a twentieth of the way to the next place."""
    places = np.log(sorted(set(xs))) if logarithmic else np.array(sorted(set(xs)))
    gap = float(np.diff(places).min()) if len(places) > 1 else 1.0
    moved, met = [], dict[float, int]()
    for x in xs:
        count, met[x] = xs.count(x), met.get(x, 0) + 1
        shift = gap * 0.1 * ((met[x] - 0.5) / count - 0.5) if count > 1 else 0.0
        moved.append(float(x * np.exp(shift)) if logarithmic else x + shift)
    return moved


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
