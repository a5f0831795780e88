"""From memorising to learning to learn: improvement within the sequence against the number of tasks.

Kirsch, Harrison, Sohl-Dickstein, Metz 2022 (GPICL, arXiv 2212.04458), Figs. 3 and 4 (6 in a later version). One
learner is meta-trained on 2^0 to 2^24 tasks. How much does accuracy rise from the first to the last prediction of a
sequence, on tasks it has met and on tasks it has not? Near the transition seeds end on either side and rarely
between: each is a dot.

    python -m experiments.transition quick       # minutes on two cores
    python -m experiments.transition standard    # about an hour
    python -m experiments.transition paper       # the published size, for an accelerator
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.small import ends, published, small
from experiments.statistics import bootstrap, crossing, mean_interval
from experiments.suite import Experiment, Row, Trained, command
from metalearn.cli.config import TrainConfig
from metalearn.pictures import new_figure, save
from metalearn.sweeps import Cell

FEW, MUCH = 0.05, 0.5
"""Improvement on unseen tasks below which nothing was learned to learn, and above which it was; digits reach about
.65."""


@dataclass(frozen=True)
class Settings:
    """Numbers of tasks, seeds, and size of the learner."""

    exponents: tuple[int, ...] = (0, 2, 4, 10, 12, 16, 24)
    """Numbers of tasks, as powers of two, away from the transition."""
    seeds: int = 3
    """Meta-trainings of each of those."""
    transition: tuple[int, ...] = (5, 6, 7, 8, 9)
    """Numbers of tasks, as powers of two, around the transition."""
    transition_seeds: int = 8
    """Meta-trainings of each of those."""
    first_seed: int = 0
    """The first seed."""
    width: int = 64
    """Width of the Transformer."""
    steps: int = 1500
    """Outer steps of a meta-training."""
    size: Literal["small", "published"] = "small"
    """small: digits on 16 components, pair token; published: MNIST at 14x14, the paper's Transformer and token."""


PRESETS = {
    "quick": Settings((0, 4, 12, 20), 1, (6, 7, 8), 3, width=32, steps=1000),
    "standard": Settings(),
    "paper": Settings((0, 4, 8, 16, 20, 24), 3, (10, 11, 12, 13, 14), 8, 0, 256, 50_000, "published"),
}


def cells(settings: Settings) -> list[Cell]:
    """A cell a seed: first one seed of everything, then the others, so that the picture fills evenly."""
    seeds = {e: settings.seeds for e in settings.exponents} | {
        e: settings.transition_seeds for e in settings.transition
    }
    order = [(seed, e) for e, number in seeds.items() for seed in range(number)]
    return [{"exponent": e, "seed": settings.first_seed + seed} for seed, e in sorted(order)]


def config(settings: Settings, cell: Cell) -> TrainConfig:
    """The meta-training of a cell."""
    build = small if settings.size == "small" else published
    exponent, seed = int(cell["exponent"]), int(cell["seed"])  # pyright: ignore[reportArgumentType]
    return build(seed, settings.steps, settings.width, num_tasks=2**exponent)


def measure(settings: Settings, cell: Cell, trained: Trained) -> dict[str, Any]:
    """Accuracy at both ends of a sequence, and the learning curves."""
    curves = {f"{kind}_curve": trained.scores[kind].mean(0).round(4).tolist() for kind in ("seen", "unseen")}
    found = ends(trained.scores)
    return {"value": found["unseen_improvement"], **found, **curves}


def summarise(settings: Settings, rows: list[Row]) -> dict[str, Any]:
    """Improvement for each number of tasks, where the transition lies, and how its seeds are divided.

    The plateau is the mean improvement on unseen tasks from the two largest numbers of tasks; the transition is where
    the mean improvement on unseen tasks crosses half of it, its interval a bootstrap over seeds. It is reproduced
    when the improvement is below .05 on its left and above .5 on its right, up to the outermost of its exponents, and
    seen tasks improve before unseen ones do.
    """
    by = {e: [r for r in rows if r["exponent"] == e] for e in sorted({r["exponent"] for r in rows})}
    kinds = ("seen_improvement", "unseen_improvement", "seen_last", "unseen_last", "seen_first")
    points = {e: {kind: mean_interval([r[kind] for r in group]) for kind in kinds} for e, group in by.items()}
    exponents = list(by)
    plateau = float(np.mean([points[e]["unseen_improvement"][0] for e in exponents[-2:]]))

    def location(kind: str, level: float) -> list[float]:
        groups = [[r[kind] for r in by[e]] for e in exponents]
        return bootstrap(groups, lambda drawn: crossing(exponents, [float(np.mean(g)) for g in drawn], level))

    unseen, seen = location("unseen_improvement", plateau / 2), location("seen_improvement", 2 * FEW)
    left = [points[e]["unseen_improvement"][0] for e in exponents if e <= unseen[1] - 1]
    right = [points[e]["unseen_improvement"][0] for e in exponents if e >= unseen[2] + 1]
    between = [e for e in exponents if unseen[1] - 1 < e < unseen[2] + 1]
    edges = [0, 1 / 3, 2 / 3, 1.01]
    shares = {e: [np.clip(r["unseen_improvement"] / plateau, 0, 1) for r in by[e]] for e in between}
    thirds = {e: np.histogram(values, edges)[0].tolist() for e, values in shares.items()}
    good = bool(left and right and max(left) < FEW and min(right) > MUCH and seen[0] < unseen[0])
    words = (
        f"improvement on unseen tasks is at most {max(left, default=np.nan):.3f} up to 2^{unseen[1] - 1:.1f} tasks and "
        f"at least {min(right, default=np.nan):.3f} from 2^{unseen[2] + 1:.1f} on; it crosses half its plateau of "
        f"{plateau:.2f} at 2^{unseen[0]:.2f} tasks [2^{unseen[1]:.2f}, 2^{unseen[2]:.2f}]; seen tasks improve by .1 "
        f"from 2^{seen[0]:.1f} on. Seeds there below, in and above the middle third: "
        + ", ".join(f"{low}/{middle}/{high} at 2^{e}" for e, (low, middle, high) in thirds.items())
    )
    return {
        "verdict": "reproduced" if good else "not reproduced",
        "words": words,
        "points": points,
        "plateau": plateau,
        "transition": unseen,
        "seen_improves_from": seen,
        "thirds": thirds,
    }


def table(result: dict[str, Any]) -> str:
    """One row a number of tasks."""
    header = f"{'tasks':>8} {'seeds':>5} {'seen, first':>12} {'seen, gain':>22} {'unseen, gain':>22}"
    lines = [header + "   mean [95 % over seeds]"]
    for e, point in result["summary"]["points"].items():
        n = sum(str(r["exponent"]) == str(e) for r in result["rows"])
        cells = [_shown(point[kind]) for kind in ("seen_improvement", "unseen_improvement")]
        lines.append(f"{'2^' + str(e):>8} {n:>5} {point['seen_first'][0]:>12.3f} {cells[0]:>22} {cells[1]:>22}")
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """Left improvement against tasks, a dot a seed; right the learning curves on unseen tasks around the transition."""
    figure, (left, right) = new_figure(columns=2, width=4.6, height=3.5)
    rows, found = result["rows"], result["summary"]
    colors = {"seen": "#0072B2", "unseen": "#D55E00"}
    for kind, color in colors.items():
        xs, ys = zip(*[(r["exponent"], r[f"{kind}_improvement"]) for r in rows], strict=True)
        left.scatter(
            np.asarray(xs) + (-0.12 if kind == "seen" else 0.12), ys, s=12, color=color, alpha=0.55, linewidths=0
        )
        means = [(int(e), p[f"{kind}_improvement"][0]) for e, p in found["points"].items()]
        left.plot(*zip(*sorted(means), strict=True), color=color, label=f"{kind} tasks")
    place, low, high = (np.nan if v is None else v for v in found["transition"])
    left.axvspan(low, high, color="0.85", zorder=0, label=f"transition, $2^{{{place:.1f}}}$ tasks (95 %)")
    left.set_xlabel("meta-training tasks, powers of two")
    left.set_ylabel("accuracy gained within the sequence")
    left.set_title("a dot a meta-training, lines their means", fontsize=9)
    left.legend(loc="upper left")
    chosen = [r for r in rows if low - 1.5 <= r["exponent"] <= high + 1.5] or rows
    shades = {e: i for i, e in enumerate(sorted({r["exponent"] for r in chosen}))}
    from matplotlib import colormaps

    for r in chosen:
        shade = colormaps["viridis"](shades[r["exponent"]] / max(len(shades), 1))
        right.plot(r["unseen_curve"], color=shade, linewidth=0.8, alpha=0.8)
    for e, i in shades.items():
        right.plot([], [], color=colormaps["viridis"](i / max(len(shades), 1)), label=f"$2^{{{e}}}$ tasks")
    right.axhline(0.1, color="0.5", linewidth=0.8, linestyle=":")
    right.set_ylim(0, 1)
    right.set_xlabel("examples seen")
    right.set_ylabel("accuracy on unseen tasks")
    right.set_title("a line a meta-training; dotted: chance", fontsize=9)
    right.legend(loc="upper left", ncols=2)
    save(figure, path)


def _shown(interval: Mapping[int, float] | list[Any]) -> str:
    mean, low, high = interval
    return f"{mean:.3f}" if low is None else f"{mean:.3f} [{low:.3f}, {high:.3f}]"


EXPERIMENT = Experiment(
    name="transition",
    claim="with few tasks accuracy on unseen ones does not rise within a sequence; from some number of tasks on it "
    "does, abruptly, and seeds at that number end on either side",
    presets=PRESETS,
    cells=cells,
    config=config,
    measure=measure,
    summarise=summarise,
    draw=draw,
    table=table,
)

if __name__ == "__main__":
    raise SystemExit(command("experiments.transition"))
