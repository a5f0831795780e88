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

from experiments.small import CHANCE, ends, published, small, tasks_in_words
from experiments.statistics import bootstrap, crossing
from experiments.suite import Experiment, Row, Trained, command
from metalearn.cli.config import TrainConfig
from metalearn.pictures import new_figure, save
from metalearn.sweeps import Cell, grid
from metalearn_models.mlp import MLPConfig

RATE = 1e-2
"""Peak learning rate of the Transformers in the small setting. Chosen with seed 1000, which is reported nowhere, on
tasks that never repeat: better than 3e-3 at widths 16, 64 and 96, and narrow ones leave chance in half the steps."""
PHASES = ("nothing learned", "task memorisation", "task identification", "learning to learn")
"""The paper's words in its second version, and one for models that are too small or runs that are too short."""
LETTERS: dict[str, str] = dict(zip(PHASES, "-MIL", strict=True))


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
    found = build(seed, settings.steps, width, num_tasks=2**exponent)
    if settings.size == "published":
        return found
    return dataclasses.replace(found, optimizer=dataclasses.replace(found.optimizer, learning_rate=RATE))


def measure(settings: Settings, cell: Cell, trained: Trained) -> dict[str, Any]:
    """Accuracy at both ends of a sequence."""
    found = ends(trained.scores)
    return {"value": found["unseen_last"], **found}


def phase(row: Row) -> str:
    """The written rule by which a run is given its phase.

    learning to learn     accuracy on unseen tasks rises within the sequence by more than .05, and by at least half of
                          what accuracy on seen tasks ends above chance
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

    The phase of a width and number of tasks is that of most of its seeds, of equally many the one with less learned.
    The transition of a width is where the share of what was learned that also holds on unseen tasks, (unseen -
    chance) / (seen - chance) over the last positions, reaches one half; in powers of two, with a bootstrap interval
    over seeds.

    Reproduced: all three phases of learning appear in this order with more tasks at the largest width; the transition
    of the largest width lies at more tasks than that of the smallest that has one, the interval of the difference above
    0; and the control, which memorises, is nowhere above chance + .05 on unseen tasks from 2^6 tasks on. Not
    reproduced: one of these is contradicted, where all of the largest width was run. Open: else, as without the control
    or with a single seed.
    """
    maps: dict[str, Any] = {}
    for learner in sorted({r["learner"] for r in rows}):
        own = [r for r in rows if r["learner"] == learner]
        widths, exponents = (sorted({r[k] for r in own}) for k in ("width", "exponent"))
        cells_of = [[[r for r in own if (r["width"], r["exponent"]) == (w, e)] for e in exponents] for w in widths]
        maps[learner] = {"widths": widths, "exponents": exponents}
        for kind in ("seen_last", "unseen_last", "unseen_improvement", "seen_improvement"):
            maps[learner][kind] = [[_mean([r[kind] for r in at]) for at in line] for line in cells_of]
        maps[learner]["phase"] = [[_majority([phase(r) for r in at]) for at in line] for line in cells_of]
    grown = [r for r in rows if r["learner"] == "transformer"]
    by_width = {w: [r for r in grown if r["width"] == w] for w in sorted(settings.widths)}
    transitions = {w: _transition(own) for w, own in by_width.items()}
    found = [w for w, (place, _, _) in transitions.items() if np.isfinite(place)]
    apart = [float("nan")] * 3
    if len(found) > 1 and found[-1] == max(settings.widths):
        apart = _transition(by_width[found[-1]], by_width[found[0]])
    return {**_verdict(settings, maps, transitions, apart), "maps": maps, "transitions": transitions, "apart": apart}


def _transition(rows: list[Row], less: list[Row] | None = None) -> list[float]:
    """[place, low, high] in powers of two; with `less`, of how much further it lies than that of those rows."""
    parts = [part for part in (rows, less) if part is not None]
    exponents = [sorted({r["exponent"] for r in part}) for part in parts]
    if not all(exponents):
        return [float("nan")] * 3
    groups = [
        [(r["seen_last"] - CHANCE, r["unseen_last"] - CHANCE) for r in part if r["exponent"] == e]
        for part, own in zip(parts, exponents, strict=True)
        for e in own
    ]

    def share(drawn: list[Any]) -> float:
        seen, unseen = (sum(values) / len(values) for values in zip(*drawn, strict=True))
        return unseen / seen if seen > 0.02 else 0.0

    def place(drawn: list[list[Any]]) -> float:
        shares = [share(group) for group in drawn]
        first = len(exponents[0])
        found = crossing(exponents[0], shares[:first], 0.5)
        return found - crossing(exponents[1], shares[first:], 0.5) if less is not None else found

    return bootstrap(groups, place)


def _verdict(
    settings: Settings, maps: dict[str, Any], transitions: dict[int, list[float]], apart: list[float]
) -> dict[str, str]:
    widest = max(settings.widths)
    line: list[str | None] = [None]
    if widest in maps.get("transformer", {"widths": []})["widths"]:
        line = maps["transformer"]["phase"][-1]
    order = [PHASES.index(p) for p in line if p is not None and p != PHASES[0]]
    ordered = set(order) == {1, 2, 3} and order == sorted(order)
    complete = None not in line and len(line) == len(set(settings.exponents))
    control = maps.get("mlp", {"exponents": [], "unseen_last": []})
    late = [
        value
        for values in control["unseen_last"]
        for e, value in zip(control["exponents"], values, strict=True)
        if e >= 6 and np.isfinite(value)
    ]
    worst = max(late, default=float("nan"))
    if (complete and not ordered) or apart[2] <= 0 or worst > CHANCE + 0.05:
        verdict = "not reproduced"
    else:
        verdict = "reproduced" if ordered and apart[1] > 0 and worst <= CHANCE + 0.05 else "open"
    shown = ", ".join(
        f"{tasks_in_words(found)} at width {w}" for w, found in transitions.items() if not np.isnan(found[0])
    )
    words = f"half of what is learned holds on unseen tasks from {shown or 'no number of tasks on'}"
    if np.isfinite(apart[0]):
        bounds = f" [{apart[1]:.1f}, {apart[2]:.1f}]" if np.isfinite(apart[1:]).all() else ""
        words += f", from the smallest of these widths to the largest {apart[0]:+.1f} powers of two{bounds}"
    phases = " ".join("?" if p is None else LETTERS[p] for p in line)
    words += f"; the phases of width {widest} with ever more tasks are {phases}"
    words += (
        f"; the control's best accuracy on unseen tasks from 2^6 tasks on is {worst:.3f}" if late else "; no control"
    )
    return {"verdict": verdict, "words": words + f", chance {CHANCE}" if late else words}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def _majority(names: list[str]) -> str | None:
    return max((p for p in PHASES if p in names), key=names.count, default=None)


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
    """Seen accuracy with the phases, unseen accuracy with the transitions, of the Transformer and of the control."""
    maps, transitions = result["summary"]["maps"], result["summary"]["transitions"]
    names = {"transformer": "Transformer", "mlp": "MLP without context"}
    panels = [(name, kind) for name in names if name in maps for kind in ("seen_last", "unseen_last")]
    figure, axes = new_figure(columns=len(panels), width=2.75, height=4.0)
    mappable = None
    for ax, (learner, kind) in zip(axes, panels, strict=True):
        found = maps[learner]
        values = np.asarray([[np.nan if v is None else v for v in row] for row in found[kind]], np.float64)
        mappable = ax.imshow(values.T, origin="lower", vmin=CHANCE, vmax=1.0, aspect="auto", cmap="cividis")
        ax.grid(False)
        if kind == "unseen_last" and learner == "transformer":
            _draw_transition(ax, found, transitions)
        for i, j in np.ndindex(values.shape if kind == "seen_last" else (0, 0)):
            letter, color = LETTERS.get(found["phase"][i][j], ""), "white" if values[i, j] < 0.5 else "black"
            ax.text(i, j, letter, ha="center", va="center", fontsize=8, color=color)
        ax.set_xticks(range(len(found["widths"])), [str(w) for w in found["widths"]])
        ax.set_yticks(range(len(found["exponents"])), [f"$2^{{{e}}}$" for e in found["exponents"]])
        ax.set_xlabel("width")
        ax.set_title(f"{names[learner]}\n{kind.split('_')[0]} tasks", fontsize=9)
    axes[0].set_ylabel("meta-training tasks")
    figure.colorbar(mappable, ax=axes, label="accuracy, last 10 positions", pad=0.01)
    key = ", ".join(f"{letter} {name}" for name, letter in LETTERS.items())
    line = "Line: from here on half of what is learned holds on unseen tasks (95 % over seeds)."
    figure.supxlabel(f"{key}.\n{line}" if len(panels) < 4 else f"{key}. {line}", fontsize=8)
    save(figure, path)


def _draw_transition(ax: Any, found: dict[str, Any], transitions: dict[str, Any]) -> None:
    edges = (-0.5, len(found["exponents"]) - 0.5)  # an interval without an end goes on to the edge
    points = []
    for i, width in enumerate(found["widths"]):
        place, *ends_of = transitions[str(width)]
        if place is not None:
            ends_of = [place, place] if ends_of == [None, None] else ends_of  # a single seed
            known = [edge if v is None else v for v, edge in zip(ends_of, (-np.inf, np.inf), strict=True)]
            rows = np.interp([place, *known], found["exponents"], range(len(found["exponents"])))
            low, high = (edge if v is None else y for v, y, edge in zip(ends_of, rows[1:], edges, strict=True))
            points.append((i, rows[0], low, high))
    if points:
        x, y, low, high = np.asarray(points).T
        for color, wider in (("white", 1.6), ("#D55E00", 0)):  # seen on dark and light alike
            ax.errorbar(
                x, y, [y - low, high - y], color=color, linewidth=1.6 + wider, capsize=3, capthick=1.6 + wider,
                marker="o", markersize=3 + wider,
            )  # fmt: skip
        ax.set_ylim(*edges)


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
