"""Loss and accuracy against the bytes that eight devices send: compressed gradients, and exchanges that are rarer.

Top-k (Stich, Cordonnier, Jaggi 2018, arXiv 1809.07599), sign (Karimireddy et al. 2019, arXiv 1901.09847), 8 bits (after
QSGD, arXiv 1610.02132) and low rank (PowerSGD, Vogels et al. 2019, arXiv 1905.13727), each with error feedback, and
some without; local SGD (Stich 2018, arXiv 1805.09767) and DiLoCo (arXiv 2311.08105). Controls that save bytes without
any method: one uncompressed exchange per eight batches, which makes one step of them. A network learns digits by SGD
with momentum on eight devices that `vmap` imitates, in two settings: every device draws from all examples ("mixed"), or
from an eighth of them in the order of their labels ("sorted"). Every method has the same grid of learning rates, and
takes the one with the lowest training loss over seeds that the comparison does not use. Bytes are those of the program
that XLA compiles for eight devices.

Rule of the verdict, written before the first run, for the mixed setting. A method keeps the accuracy if the interval
(95 %, Student's t over pairs of one seed) of its test accuracy minus that of uncompressed all-reduce lies above -1
point. Reproduced: each of the four compressors has a setting, with feedback, that keeps the accuracy and sends at most
a third of the bytes; and for top-k 1 %, sign and rank 1 the final training loss with feedback is below that without,
with the whole interval of the ratio below 1. Not reproduced: all settings of a compressor lose more than 1 point, or an
interval of a ratio lies above 1. Open: otherwise.

    python -m experiments compression            # both settings
    python -m experiments compression quick      # the mixed setting, fewer seeds and rates
    python -m experiments compression --help
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange
from jax.sharding import AxisType
from jaxtyping import Float, Int

from experiments.optimizers._compression_methods import AXIS, METHODS, Method
from experiments.optimizers._compression_picture import draw, format_table
from experiments.optimizers.neurons.tasks import Data, Task, draw_data, init, loss, predict
from experiments.suite.intervals import list_interval
from experiments.suite.results import write_result
from metalearn.costs.messages import read_messages
from metalearn.runs.progress import Progress
from metalearn_models.optimizers.distributed import data_parallel
from metalearn_tasks.objectives.baselines import learning_rates

__all__ = ["PRESETS", "CompressionConfig", "format_result", "judge", "prepare_process", "run"]

TUNING_SEED = 1000
KEPT, SAVED = -0.01, 1 / 3
"""The accuracy that may be lost, and the share of the bytes that may be sent."""
PAIRS = (("top-k 1 %", "top-k 1 %, no feedback"), ("sign", "sign, no feedback"), ("rank 1", "rank 1, no feedback"))


@dataclass(frozen=True)
class CompressionConfig:
    """Compressed gradients on eight devices."""

    settings: tuple[str, ...] = ("mixed", "sorted")
    """How examples lie on the devices: mixed, sorted."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Ways to exchange gradients."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the network's hidden layers."""
    devices: int = 8
    """Devices, imitated for the training and virtual for the programs whose bytes are counted."""
    batch: int = 16
    """Examples per device and step."""
    steps: int = 400
    """Steps per run, a multiple of 20."""
    seeds: int = 10
    """Runs per method at its best learning rate."""
    tuning_seeds: int = 2
    """Runs per method and learning rate."""
    rates: tuple[float, ...] = learning_rates(1e-3, 1.0, per_decade=2, digits=1)
    """Learning rates, the same for all methods."""
    out: Path = Path("runs/compression")
    """Folder of the picture, the table and the runs that are kept."""


PRESETS = {
    "standard": CompressionConfig(),
    "quick": CompressionConfig(
        ("mixed",), steps=200, seeds=4, tuning_seeds=1, rates=learning_rates(1e-2, 1.0, per_decade=2, digits=1),
        out=Path("runs/compression-quick"),
    ),
}  # fmt: skip


def prepare_process() -> None:
    """Eight virtual devices, whose programs show what they send."""
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8".strip()


def run(config: CompressionConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Tune, compare and draw; returns what result.json holds. Methods that were run already are read from the folder.

    Raises:
        ValueError: there are fewer devices than the programs are for.
    """
    if len(jax.devices()) < config.devices:
        raise ValueError(f"the programs are for {config.devices} devices, got {len(jax.devices())}: lower --devices")
    begun, note = time.monotonic(), (lambda text: None) if progress is None else progress.note
    settings: dict[str, Any] = {}
    for setting in config.settings:
        settings[setting] = {name: _measure(config, setting, name, note) for name in config.methods}
    verdict = judge(settings["mixed"]) if "mixed" in settings else {"verdict": "open", "words": "mixed was not run"}
    result = {"settings": settings, "steps": config.steps, "devices": config.devices, **verdict}
    picture = draw(result, config.out / "compression.png")
    return write_result(config.out, result | {"picture": str(picture), "seconds": round(time.monotonic() - begun, 1)})


def _measure(config: CompressionConfig, setting: str, name: str, note: Any) -> dict[str, Any]:
    """Learning rate, curves and bytes of a method, computed or read."""
    path = config.out / "methods" / f"{setting}-{name.replace(' ', '-')}.json"
    marks = {k: str(v) for k, v in vars(config).items() if k not in ("out", "methods", "settings")}
    if path.exists() and (kept := json.loads(path.read_text()))["config"] == marks:
        return kept["found"]
    start = time.monotonic()
    train = functools.partial(train_many, config, setting, METHODS[name])
    losses = train(range(TUNING_SEED, TUNING_SEED + config.tuning_seeds), config.rates)["train_loss"][..., -1]
    scores = np.exp(np.log(np.maximum(np.where(np.isfinite(losses), losses, np.inf), 1e-9)).mean(1))
    rate = config.rates[int(scores.argmin())]
    curves = train(range(config.seeds), (rate,))
    found = {
        "rate": rate,
        "edge": rate in (config.rates[0], config.rates[-1]),
        "tuning": scores.tolist(),
        "bytes": bytes_per_step(config, METHODS[name]),
        **{key: value[0].tolist() for key, value in curves.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"config": marks, "found": found}))
    note(f"{setting}, {name}: rate {rate:g}, {np.mean(found['test_accuracy'], 0)[-1]:.3f}, {found['bytes']:.0f} bytes, "
         f"{time.monotonic() - start:.0f} s")  # fmt: skip
    return found


def train_many(
    config: CompressionConfig, setting: str, method: Method, seeds: Any, rates: tuple[float, ...]
) -> dict[str, Float[np.ndarray, "R S E"]]:
    """Training loss (all examples) and test accuracy of every rate and seed, at 20 times of each run."""
    task = Task(config.hidden, None, 0.0, config.batch, config.steps)
    data = [draw_data(task, seed) for seed in seeds]
    rows = [draw_rows(config, setting, np.asarray(d.labels), seed) for d, seed in zip(data, seeds, strict=True)]
    stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *data)
    keys = jax.vmap(jax.random.key)(jnp.asarray(list(seeds)))

    def one(rate: Any, data: Data, rows: Any, key: Any) -> dict[str, Any]:
        tx = method.make(rate)

        def on_device(params: Any, rows: Any) -> Any:
            def step(carry: Any, row: Any) -> Any:
                params, state = carry
                grads = jax.grad(loss)(params, data.inputs[row], data.labels[row])
                updates, state = tx.update(grads, state, params)
                return (optax.apply_updates(params, updates), state), None

            def part(carry: Any, rows: Any) -> Any:
                carry, _ = jax.lax.scan(step, carry, rows)
                # Within a round of local steps the devices differ: what counts is their mean.
                mean = jax.lax.pmean(carry[0], AXIS)
                right = predict(mean, data.test_inputs).argmax(1) == data.test_labels
                return carry, (loss(mean, data.inputs, data.labels), right.mean())

            return jax.lax.scan(part, (params, tx.init(params)), rows)[1]

        parts = rearrange(rows, "(e s) d b -> d e s b", e=20)
        params = init(task, data.inputs.shape[1], key)
        losses, accuracy = jax.vmap(on_device, in_axes=(None, 0), axis_name=AXIS)(params, parts)
        return {"train_loss": losses[0], "test_accuracy": accuracy[0]}

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        over_seeds = jax.vmap(one, in_axes=(None, 0, 0, 0))
        found = jax.jit(jax.vmap(over_seeds, in_axes=(0, None, None, None)))(
            jnp.asarray(rates), stacked, np.stack(rows), keys
        )
    return jax.tree.map(np.asarray, found)


def draw_rows(
    config: CompressionConfig, setting: str, labels: Int[np.ndarray, "N"], seed: int
) -> Int[np.ndarray, "T D B"]:
    """The examples of each step on each device: from all of them, or from the device's share in the order of labels."""
    rng, shape = np.random.default_rng(seed), (config.steps, config.devices, config.batch)
    if setting == "mixed":
        return rng.integers(0, len(labels), shape)
    share = len(labels) // config.devices
    order = np.argsort(labels, kind="stable")[: share * config.devices].reshape(config.devices, share)
    return order[np.arange(config.devices)[None, :, None], rng.integers(0, share, shape)]


def bytes_per_step(config: CompressionConfig, method: Method) -> float:
    """What a device sends per step for the optimizer, in the compiled program of all devices; without the loss."""
    mesh = jax.make_mesh((config.devices,), (AXIS,), (AxisType.Auto,), devices=jax.devices()[: config.devices])
    task = Task(config.hidden, None, 0.0, config.batch, config.steps)
    like = jax.eval_shape(lambda: init(task, 64, jax.random.key(0)))
    examples = config.batch * config.devices
    batch = jax.ShapeDtypeStruct((examples, 64), jnp.float32), jax.ShapeDtypeStruct((examples,), jnp.int32)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        start, step, _ = data_parallel(lambda params, batch: loss(params, *batch), method.make(0.1), mesh)
        jitted: Any = step
        text = jitted.lower(jax.eval_shape(start, like), batch).compile().as_text()
    of_the_loss = 2 * (config.devices - 1) / config.devices * 4
    return (read_messages(text).sent - of_the_loss) / method.period


def judge(methods: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The verdict by the rule of this module, with its words, differences and ratios."""
    base = methods["all-reduce"]
    last = lambda row, key: np.array([np.nan if v[-1] is None else v[-1] for v in row[key]], np.float64)  # noqa: E731
    differences, shares, ratios = {}, {}, {}
    for name, row in methods.items():
        differences[name] = list_interval(last(row, "test_accuracy") - last(base, "test_accuracy"))
        shares[name] = row["bytes"] / base["bytes"]
    for a, b in PAIRS:
        if a in methods and b in methods:
            logs = np.log(last(methods[a], "train_loss") / last(methods[b], "train_loss"))
            ratios[a] = [float(np.exp(x)) for x in list_interval(logs)]
    kinds: dict[str, list[str]] = {}
    for name in methods:
        if METHODS[name].kind not in ("", "fewer", "without"):
            kinds.setdefault(METHODS[name].kind, []).append(name)
    kept = {k: [n for n in names if differences[n][1] > KEPT and shares[n] <= SAVED] for k, names in kinds.items()}
    lost = [k for k, names in kinds.items() if all(differences[n][2] < KEPT for n in names)]
    complete = len(kinds) == 4 and len(ratios) == len(PAIRS)
    verdict = "open"
    if lost or any(low > 1 for _, low, _ in ratios.values()):
        verdict = "not reproduced"
    elif complete and all(kept.values()) and all(high < 1 for _, _, high in ratios.values()):
        verdict = "reproduced"
    words = [f"{k} keeps the accuracy: {', '.join(f'{n} ({shares[n]:.3f} of the bytes)' for n in v) or 'no setting'}"
             for k, v in kept.items()]  # fmt: skip
    words += [f"{a} with feedback has {v:.2g} [{low:.2g}, {high:.2g}] of the loss without"
              for a, (v, low, high) in ratios.items()]  # fmt: skip
    return {
        "verdict": verdict,
        "words": "; ".join(words),
        "differences": differences,
        "shares": shares,
        "ratios": ratios,
    }


def format_result(result: Mapping[str, Any]) -> str:
    """A table per setting, the verdict and the path of the picture."""
    lines = []
    for setting, methods in result["settings"].items():
        lines += [f"{setting}, {result['steps']} steps on {result['devices']} devices", format_table(methods), ""]
    lines += [f"verdict: {result['verdict']}: {result['words']}", f"picture: {result['picture']}"]
    return "\n".join([*lines, f"time: {result['seconds']} s"])
