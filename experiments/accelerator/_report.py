"""The findings of `experiments.accelerator.experiment` as Markdown and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metalearn.pictures import new_figure, save

__all__ = ["draw", "format_markdown"]


def format_markdown(result: Mapping[str, Any]) -> str:
    """The report: a heading, the device, and a table per part; a part that failed has its error in its place."""
    where, parts = result["environment"], result["parts"]
    toy = " **Toy sizes: these figures mean nothing.**" if result["dry_run"] else ""
    lines = [
        "# metalearn on an accelerator",
        "",
        f"{where['devices']}, jax {where['jax']}, Python {where['python']}, metalearn {where['metalearn']}.{toy}",
    ]
    for name, write in _SECTIONS.items():
        found = parts[name]
        failed = isinstance(found, Mapping) and "error" in found
        lines += ["", f"## {_TITLES[name]}", "", *([f"Failed: {found['error']}"] if failed else write(found))]
    return "\n".join(lines) + "\n"


def _smoke(found: Mapping[str, Any]) -> list[str]:
    bad = {name: row["error"] for name, row in found.items() if row["error"]}
    seconds = sum(row["seconds"] for row in found.values())
    line = f"{len(found) - len(bad)} of {len(found)} cases ran and were finite, in {seconds:.0f} s with compilation."
    return [line, *(f"- {name}: {error}" for name, error in bad.items())]


def _throughput(found: Mapping[str, Any]) -> list[str]:
    rows = found["rows"]
    cells = [
        (
            str(row["width"]),
            row["precision"],
            f"{1e3 * row['seconds']:.2f}",
            f"{row['sequences']:,.0f}",
            f"{row['tflops']:.3g}",
            f"{row['share']:.0%}",
            "" if row["torch"] is None else f"{row['torch'] / row['seconds']:.2f}",
        )
        for row in rows
    ]
    head = (
        "width",
        "precision",
        "ms per step",
        "sequences/s",
        "Tflop/s",
        "share of the peak",
        "PyTorch's time over ours",
    )
    return [
        *_table(head, cells),
        "",
        f"4 layers, heads of width 64, {rows[0]['batch']} sequences of 100 tokens, Adam.",
    ]


def _updates(found: Mapping[str, Any]) -> list[str]:
    updates = [
        (f"{row['parameters']:,}", row["optimizer"], f"{row['milliseconds']:.3f}", f"{row['ratio']:.1f}")
        for row in found["updates"]
    ]
    steps = [(row["optimizer"], f"{row['pairs']:,}", f"{row['rate']:,.0f}") for row in found["pes"]]
    return [
        *_table(("parameters", "optimizer", "ms per update", "over optax.adam"), updates),
        "",
        *_table(("PES on", "pairs", "inner steps/s"), steps),
    ]


def _learning(found: Mapping[str, Any]) -> list[str]:
    rows = [(f"{p['seconds']:.0f}", f"{p['step']:,}", f"{p['unseen']:.3f} ± {p['half']:.3f}") for p in found["curve"]]
    line = f"{found['data']}; first call {found['first']:.0f} s with compilation"
    rate = "" if found["rate"] is None else f", then {found['rate']:,.0f} sequences/s"
    return [f"{line}{rate}.", "", *_table(("s of training", "outer step", "accuracy, unseen tasks"), rows)]


_SECTIONS = {"smoke": _smoke, "throughput": _throughput, "updates": _updates, "learning": _learning}
_TITLES = {
    "smoke": "Smoke test",
    "throughput": "The in-context training step",
    "updates": "Learned optimizers and PES",
    "learning": "Learning, accuracy against time",
}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(row) + " |" for row in cells]


def draw(parts: Mapping[str, Any], path: Path) -> Path:
    """Share of the peak against width, and accuracy against time; what failed leaves its half empty."""
    figure, (speed, learning) = new_figure(columns=2)
    rows = parts["throughput"].get("rows", [])
    for precision in dict.fromkeys(row["precision"] for row in rows):
        own = [row for row in rows if row["precision"] == precision]
        speed.plot([row["width"] for row in own], [100 * row["share"] for row in own], "o-", label=precision)
    speed.set_xscale("log", base=2)
    speed.set_xticks([row["width"] for row in rows], [str(row["width"]) for row in rows])
    speed.set_xlabel("width of the Transformer")
    speed.set_ylabel("% of the measured peak")
    speed.set_ylim(0, 100)
    if rows:
        speed.legend()
    curve = parts["learning"].get("curve", [])
    times = [point["seconds"] for point in curve]
    learning.errorbar(times, [p["unseen"] for p in curve], [p["half"] for p in curve], fmt="o-", capsize=2)
    learning.set_xlabel("seconds of meta-training")
    learning.set_ylabel("accuracy on unseen tasks")
    learning.set_ylim(0, 1)
    return save(figure, path)
