"""Truly sparse layers against dense, masked, and other sparse ones: time of a forward and backward pass.

One square layer, value and both gradients, in float32. Every system takes one turn after the other, so that a busy
machine slows all of them; the figure is the fastest turn. Weights, connections and inputs are the same, except for
blocks, which have as many connections of their own.

The claims, written before the first run. Nerva (2024, arXiv 2407.17437) reports about 4 times less time than masked
PyTorch at 99 % sparsity.

1. At width 4,000 and density 1 %, ELL with features first takes at most a quarter of the time of dense and of masked.
2. At width 1,000 and density 5 %, it takes at most half.
3. Its cost is linear in the number of connections: at width 4,000 from 1 % to 8 %, the slope of log time over log
   connections lies between 0.8 and 1.2.

Reached: all three. Not reached: one fails.

    python -m experiments sparse_layers            # two cores
    python -m experiments sparse_layers quick      # smaller layers; claims 1 and 2 are not measured
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.speed._sparse_products import make_products, time_in_turn
from experiments.suite.results import write_result
from experiments.suite.tables import format_columns
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress

ELL, CONTROLS = "ELL, features first", ("dense", "dense times mask")
CLAIMS = {(4000, 0.01): 4.0, (1000, 0.05): 2.0}
"""Width and density, and how many times faster than both controls ELL should be."""


@dataclass(frozen=True)
class SparseLayersConfig:
    """Time one layer at every width and density."""

    cells: tuple[tuple[int, float], ...] = (
        (1000, 0.01),
        (1000, 0.05),
        (1000, 0.2),
        (4000, 0.0025),
        (4000, 0.01),
        (4000, 0.02),
        (4000, 0.04),
        (4000, 0.08),
    )
    """Width and density of each layer."""
    batch: int = 128
    """Examples per pass."""
    block: int = 40
    """Side of the blocks; it divides the widths."""
    turns: int = 15
    """Turns per system at most."""
    patience: float = 2.5
    """Seconds after which a system takes no further turn of a layer."""
    out: Path = Path("runs/sparse_layers")
    """Folder for the picture and the table."""


PRESETS = {
    "standard": SparseLayersConfig(),
    "quick": SparseLayersConfig(cells=((400, 0.01), (400, 0.05), (400, 0.1)), turns=10, patience=1.0),
}


def run(config: SparseLayersConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Time all systems on all layers and draw; returns what result.json holds."""
    for width, density in config.cells:
        if width % config.block or not 0 < density <= 1:
            raise ValueError(
                f"cells need a width that block={config.block} divides and a density in (0, 1], got {width}, {density}"
            )
    start, rows = time.monotonic(), []
    for width, density in config.cells:
        products = make_products(width, density, config.batch, config.block)
        seconds = time_in_turn(products, config.turns, config.patience)
        for product in products:
            turns = seconds[product.name]
            rows.append(
                {
                    "width": width,
                    "density": density,
                    "connections": product.connections,
                    "system": product.name,
                    "milliseconds": 1e3 * min(turns),
                    "median": 1e3 * float(np.median(turns)),
                    "turns": len(turns),
                    "stored": product.stored,
                    "temporary": product.temporary,
                }
            )
        if progress is not None:
            progress.note(f"width {width}, density {density:g}: " + format_cell(rows, width, density))
    result = {
        "rows": rows,
        "summary": summarise(rows),
        "seconds": round(time.monotonic() - start, 1),
        "picture": str(config.out / "sparse_layers.png"),
    }
    draw(config, rows)
    return write_result(config.out, result)


def _milliseconds(rows: Sequence[Mapping[str, Any]], width: int, density: float) -> dict[str, float]:
    return {r["system"]: r["milliseconds"] for r in rows if (r["width"], r["density"]) == (width, density)}


def format_cell(rows: Sequence[Mapping[str, Any]], width: int, density: float) -> str:
    """The milliseconds of one layer in a line."""
    return ", ".join(f"{name} {value:.2f} ms" for name, value in _milliseconds(rows, width, density).items())


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The claims by the rule above: ratios, slope, and the verdict; a claim whose layers were not timed is None."""
    ratios: dict[str, Any] = {}
    for (width, density), least in CLAIMS.items():
        cell = _milliseconds(rows, width, density)
        found = {name: cell[name] / cell[ELL] for name in CONTROLS} if cell else None
        ratios[f"width {width}, density {density:g}"] = {"asked": least, "found": found}
    line = [
        (r["connections"], r["milliseconds"])
        for r in rows
        if r["system"] == ELL and r["width"] == 4000 and 0.01 <= r["density"] <= 0.08
    ]
    connections, times = np.log(np.array(line or [(1.0, 1.0)])).T
    slope = float(np.polyfit(connections, times, 1)[0]) if len(line) > 2 else None
    states = [None if r["found"] is None else min(r["found"].values()) >= r["asked"] for r in ratios.values()]
    states.append(None if slope is None else 0.8 <= slope <= 1.2)
    verdict = "not reached" if False in states else "open" if None in states else "reached"
    return {"verdict": verdict, "ratios": ratios, "slope": slope}


def format_result(result: Mapping[str, Any]) -> str:
    """The table, and the claims."""
    rows = result["rows"]
    dense = [_milliseconds(rows, row["width"], row["density"])["dense"] for row in rows]
    megabytes = ["" if row["temporary"] is None else f"{row['temporary'] / 2**20:.1f}" for row in rows]
    columns = {
        "system": [row["system"] for row in rows],
        "ms": [f"{row['milliseconds']:.2f}" for row in rows],
        "median": [f"{row['median']:.2f}" for row in rows],
        "dense over it": [f"{d / row['milliseconds']:.2f}" for d, row in zip(dense, rows, strict=True)],
        "bytes per connection": [f"{row['stored'] / row['connections']:.1f}" for row in rows],
        "temporary MB": megabytes,
    }
    names = [f"{row['width']}, {row['density']:g}" for row in rows]
    lines = [format_columns(names, columns, "width, density"), ""]
    for name, claim in result["summary"]["ratios"].items():
        found = claim["found"]
        words = "not measured" if found is None else ", ".join(f"{k} {v:.1f}x" for k, v in found.items())
        lines.append(f"{name}: over ELL {words}; asked {claim['asked']:g}x")
    slope = result["summary"]["slope"]
    lines.append(f"slope of log time over log connections: {'not measured' if slope is None else f'{slope:.2f}'}")
    lines += [f"verdict: {result['summary']['verdict']}", f"picture: {result['picture']} ({result['seconds']} s)"]
    return "\n".join(lines)


def draw(config: SparseLayersConfig, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw time over connections, one panel per width."""
    widths = sorted({row["width"] for row in rows})
    figure, axes = new_figure(columns=len(widths), width=4.6)
    for ax, width in zip(axes, widths, strict=True):
        for name in dict.fromkeys(row["system"] for row in rows):
            points = [(r["density"], r["milliseconds"]) for r in rows if (r["width"], r["system"]) == (width, name)]
            ax.loglog(*zip(*sorted(points), strict=True), "o-", linewidth=1.4, markersize=3, label=name)
        ax.set_xlabel("density")
        ax.set_ylabel(f"forward and backward, ms, batch {config.batch}")
        ax.set_title(f"width {width:,}", fontsize=9)
        ax.xaxis.set_minor_formatter("")
    axes[-1].legend(fontsize=6, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    save(figure, config.out / "sparse_layers.png")
