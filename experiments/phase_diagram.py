"""The three phases: accuracy on seen and unseen tasks over the size of the model and the number of tasks.

Kirsch, Harrison, Sohl-Dickstein, Metz 2022 (GPICL, arXiv 2212.04458), Fig. 2. A Transformer of each width and, as a
control that reads no examples, an MLP, is meta-trained on each number of tasks. The phases are named by a written
rule, see `phase`.

    python -m experiments.phase_diagram quick       # a quarter of an hour on two cores
    python -m experiments.phase_diagram standard    # an hour or two
    python -m experiments.phase_diagram paper       # the published size, for an accelerator
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.small import CHANCE, ends, published, small
from experiments.statistics import bootstrap, crossing
from experiments.suite import Experiment, Row, Trained, command
from metalearn.cli.config import TrainConfig
from metalearn.pictures import new_figure, save
from metalearn.sweeps import Cell, grid
from metalearn_models.mlp import MLPConfig

PHASES = ("nothing learned", "task memorisation", "task identification", "learning to learn")
"""The paper's words in its second version, and one for models that are too small or runs that are too short."""


@dataclass(frozen=True)
class Settings:
    """The grid of the diagram."""

    widths: tuple[int, ...] = (4, 8, 16, 32, 64, 128)
    """Widths of the Transformer, N_M."""
    exponents: tuple[int, ...] = (0, 2, 4, 5, 6, 7, 8, 9, 10, 12, 16, 20)
    """Numbers of tasks, as powers of two."""
    seeds: int = 2
    """Meta-trainings of each Transformer."""
    mlp_widths: tuple[int, ...] = (4, 16, 64, 256)
    """Widths of the control's two hidden layers; empty: no control."""
    steps: int = 2500
    """Outer steps of a meta-training."""
    size: Literal["small", "published"] = "small"
    """small: digits on 16 components, pair token; published: MNIST at 14x14, the paper's Transformer and token."""


PRESETS = {
    "quick": Settings((8, 16, 32, 64), (0, 3, 5, 6, 7, 8, 9, 11, 16), 2, (16, 64), steps=1000),
    "standard": Settings(),
    "paper": Settings(
        (2, 4, 8, 16, 32, 64, 128, 256, 512), (0, 4, 8, 9, 10, 11, 12, 13, 14, 16, 20, 24), 3,
        (2, 16, 64, 256, 1024), 50_000, "published",
    ),
}  # fmt: skip


def cells(settings: Settings) -> list[Cell]:
    """All cells of the diagram, one seed of everything first."""
    exponents = sorted(settings.exponents)
    widths = {"transformer": settings.widths, "mlp": settings.mlp_widths}
    found: list[Cell] = []
    for seed in range(settings.seeds):
        for learner, chosen in widths.items():
            if chosen and (learner == "transformer" or seed == 0):  # the control varies little between seeds
                found += grid({"learner": [learner], "width": chosen, "exponent": exponents, "seed": [seed]})
    return found


def config(settings: Settings, cell: Cell) -> TrainConfig:
    """The meta-training of a cell."""
    build = small if settings.size == "small" else published
    width, exponent, seed = (int(cell[k]) for k in ("width", "exponent", "seed"))  # pyright: ignore[reportArgumentType]
    if cell["learner"] == "mlp":
        base = build(seed, settings.steps, num_tasks=2**exponent)
        return dataclasses.replace(base, learner=MLPConfig(hidden=width))
    return build(seed, settings.steps, width, num_tasks=2**exponent)


def measure(settings: Settings, cell: Cell, trained: Trained) -> dict[str, Any]:
    """Accuracy at both ends of a sequence."""
    found = ends(trained.scores)
    return {"value": found["unseen_last"], **found}


def phase(row: Row) -> str:
    """The written rule by which a run is given its phase.

    learning to learn     accuracy on unseen tasks rises within the sequence by more than .05, and by at least half of
    what
                          accuracy on seen tasks does from chance
    task identification   else, accuracy on seen tasks rises within the sequence by more than .05
    task memorisation     else, accuracy on seen tasks is more than .05 above chance
    nothing learned       else
    """
    gain = row["unseen_improvement"]
    if gain > 0.05 and gain >= 0.5 * (row["seen_last"] - CHANCE):
        return "learning to learn"
    if row["seen_improvement"] > 0.05:
        return "task identification"
    return "task memorisation" if row["seen_last"] > CHANCE + 0.05 else "nothing learned"


def summarise(settings: Settings, rows: list[Row]) -> dict[str, Any]:
    """Mean accuracies and phases over the grid, and where each width goes over to learning to learn.

    The transition of a width is where the share of what was learned that also holds on unseen tasks, (unseen -
    chance) / (seen - chance) over the last positions, reaches one half; in powers of two, with a bootstrap interval
    over seeds (as wide as the runs differ: with one seed it has no width). Reproduced: all three phases of learning
    appear in this order with more tasks at the largest width, the transition of the largest width lies at more tasks
    than that of the smallest, and the control, which memorises, is nowhere above chance + .05 on unseen tasks from
    2^6 tasks on.
    """
    maps: dict[str, Any] = {}
    for learner in sorted({r["learner"] for r in rows}):
        own = [r for r in rows if r["learner"] == learner]
        widths, exponents = (sorted({r[k] for r in own}) for k in ("width", "exponent"))

        def at(width: int, exponent: int, own: list[Row] = own) -> list[Row]:
            return [r for r in own if r["width"] == width and r["exponent"] == exponent]

        def mean(kind: str, width: int, exponent: int) -> float:
            found = [r[kind] for r in at(width, exponent)]
            return float(np.mean(found)) if found else float("nan")

        maps[learner] = {"widths": widths, "exponents": exponents}
        for kind in ("seen_last", "unseen_last", "unseen_improvement", "seen_improvement"):
            maps[learner][kind] = [[mean(kind, w, e) for e in exponents] for w in widths]
        maps[learner]["phase"] = [[_majority([phase(r) for r in at(w, e)]) for e in exponents] for w in widths]
    found = {
        w: _transition([r for r in rows if r["learner"] == "transformer" and r["width"] == w]) for w in settings.widths
    }
    return {**_verdict(maps, found), "maps": maps, "transitions": found}


def _transition(rows: list[Row]) -> list[float]:
    """[place, low, high] in powers of two."""
    exponents = sorted({r["exponent"] for r in rows})
    if not exponents:
        return [float("nan")] * 3
    groups = [
        [(r["seen_last"] - CHANCE, r["unseen_last"] - CHANCE) for r in rows if r["exponent"] == e] for e in exponents
    ]

    def place(drawn: list[list[Any]]) -> float:
        sums = [np.sum(g, 0) for g in drawn]
        shares = [
            float(unseen / seen) if seen > 0.02 * len(g) else 0.0 for (seen, unseen), g in zip(sums, drawn, strict=True)
        ]
        return crossing(exponents, shares, 0.5)

    return bootstrap(groups, place)


def _verdict(maps: dict[str, Any], transitions: dict[int, list[float]]) -> dict[str, str]:
    grown = maps.get("transformer")
    if grown is None:
        return {"verdict": "open", "words": "no Transformer was meta-trained"}
    order = [PHASES.index(p) for p in grown["phase"][-1] if p is not None]
    ordered = set(order) >= {1, 2, 3} and [p for p in order if p] == sorted(p for p in order if p)
    places = [transitions[w] for w in sorted(transitions) if np.isfinite(transitions[w][0])]
    rising = len(places) > 1 and places[-1][0] > places[0][0]
    control = maps.get("mlp")
    worst = float("nan")
    if control is not None:
        late = [j for j, e in enumerate(control["exponents"]) if e >= 6]
        worst = float(np.nanmax(np.asarray(control["unseen_last"])[:, late])) if late else float("nan")
    good = ordered and rising and not worst > CHANCE + 0.05
    shown = ", ".join(
        f"width {w}: 2^{place:.1f} [{low:.1f}, {high:.1f}]" for w, (place, low, high) in sorted(transitions.items())
    )
    words = (
        f"from memorising to learning to learn at {shown} tasks (95 % over seeds); the phases of the largest width "
        f"{'are all there and in order' if ordered else 'are not all there in order'}; the control's best accuracy on "
        f"unseen tasks from 2^6 tasks on is {worst:.3f}, chance {CHANCE}"
    )
    return {"verdict": "reproduced" if good else "not reproduced", "words": words}


def _majority(names: list[str]) -> str | None:
    return max(sorted(set(names)), key=names.count) if names else None


def table(result: dict[str, Any]) -> str:
    """Seen / unseen accuracy, widths down, tasks across."""
    lines = []
    for learner, found in result["summary"]["maps"].items():
        lines.append(f"{learner}: accuracy over the last positions on seen / unseen tasks")
        lines.append(f"{'width':>7}" + "".join(f"{f'2^{e}':>10}" for e in found["exponents"]))
        for i, width in enumerate(found["widths"]):
            pairs = zip(found["seen_last"][i], found["unseen_last"][i], strict=True)
            cells = ["" if a is None else f"{a:.2f}/{b:.2f}" for a, b in pairs]
            lines.append(f"{width:>7}" + "".join(f"{c:>10}" for c in cells))
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """Seen and unseen accuracy of the Transformer, its phases, and the control."""
    summary = result["summary"]
    maps = summary["maps"]
    panels = [(name, kind) for name in ("transformer", "mlp") if name in maps for kind in ("seen_last", "unseen_last")]
    figure, axes = new_figure(columns=len(panels), width=3.5, height=3.6)
    mappable = None
    for ax, (learner, kind) in zip(axes, panels, strict=True):
        found = maps[learner]
        values = np.asarray([[np.nan if v is None else v for v in row] for row in found[kind]], np.float64)
        mappable = ax.imshow(
            values.T, origin="lower", vmin=CHANCE, vmax=max(0.8, np.nanmax(values)), aspect="auto", cmap="cividis"
        )
        ax.grid(False)
        for i, row in enumerate(found["phase"]):
            for j, name in enumerate(row):
                text = {"task memorisation": "M", "task identification": "I", "learning to learn": "L"}.get(name, "-")
                dark = values[i, j] < 0.45
                ax.text(i, j, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
        if learner == "transformer":
            _draw_transition(ax, found, summary["transitions"])
        ax.set_xticks(range(len(found["widths"])), [str(w) for w in found["widths"]])
        ax.set_yticks(range(len(found["exponents"])), [f"$2^{{{e}}}$" for e in found["exponents"]])
        ax.set_xlabel("width")
        ax.set_title(
            f"{'Transformer' if learner == 'transformer' else 'MLP, no context'}, {kind.split('_')[0]} tasks",
            fontsize=9,
        )
    axes[0].set_ylabel("meta-training tasks")
    figure.colorbar(mappable, ax=axes, label="accuracy, last 10 positions", shrink=0.85)
    figure.suptitle(
        "M task memorisation, I task identification, L learning to learn; line: where half of what is learned holds on "
        "unseen tasks (95 %)", fontsize=8,
    )  # fmt: skip
    save(figure, path)


def _draw_transition(ax: Any, found: dict[str, Any], transitions: dict[Any, Any]) -> None:
    rows = np.arange(len(found["exponents"]))
    points = []
    for i, width in enumerate(found["widths"]):
        place, low, high = (
            np.nan if v is None else v for v in transitions.get(str(width), transitions.get(width, [None] * 3))
        )
        if np.isfinite(place):
            y = np.interp([place, low, high], found["exponents"], rows)
            points.append((i, *y))
    if points:
        x, y, low, high = np.asarray(points).T
        ax.errorbar(x, y, [y - low, high - y], color="#D55E00", linewidth=1.5, capsize=3)


EXPERIMENT = Experiment(
    name="phase_diagram",
    claim="few tasks are memorised, more are recognised, and from a number of tasks on a Transformer learns to learn; "
    "larger models memorise more tasks before they do; a model without context only memorises",
    presets=PRESETS,
    cells=cells,
    config=config,
    measure=measure,
    summarise=summarise,
    draw=draw,
    table=table,
)

if __name__ == "__main__":
    raise SystemExit(command("experiments.phase_diagram"))
