"""How fast is a training step: metalearn's Transformer against plain JAX and plain PyTorch, in one run.

The same step everywhere: a causal pre-LayerNorm Transformer (width 128, 4 layers, 4 heads, MLP 512, learned positions),
32 sequences of 100 tokens (64 inputs and the previous label of 10 classes), loss at every position, Adam, float32.
metalearn runs what meta-training runs: an estimator and the outer loop, several steps in one dispatch. Plain JAX is
flax.linen and optax as a tutorial writes them; PyTorch is hand-written with its fused attention and fused Adam.
Each pair of system and number of threads has a process of its own, held to that many cores; they take turns of a few
steps, so that whatever else the machine does meets all of them alike. Every turn also measures the system's own
matrix product (2048 x 2048, float32), which is what "own peak" is a share of. On more than one thread compare on an
idle machine only: PyTorch's threads wait for each other by spinning, and lose far more than ours to any other job.

    python -m experiments throughput                                     # some four minutes, most of them compiling
    python -m experiments throughput --torch-python other/bin/python     # PyTorch lives in another environment
    python -m experiments throughput --huge-pages --json

`pip install "metalearn[bench]"` brings PyTorch; without it the rest is timed.
"""

from __future__ import annotations

# Only the standard library up here: the PyTorch worker may run in an environment that has nothing else of ours.
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

BATCH, LENGTH, INPUTS, CLASSES = 32, 100, 64, 10
WIDTH, LAYERS, HEADS = 128, 4, 4
TOKENS = BATCH * LENGTH
PEAK_SIZE = 2048
System = Literal["metalearn", "jax", "torch", "torch-compiled"]
SYSTEMS: dict[System, str] = {
    "metalearn": "metalearn",
    "jax": "plain JAX (linen)",
    "torch": "PyTorch, eager",
    "torch-compiled": "PyTorch, compiled",
}


@dataclass(frozen=True)
class ThroughputConfig:
    """What to time, and how often."""

    systems: tuple[System, ...] = tuple(SYSTEMS)
    """Systems to compare; metalearn is what the others are compared with."""
    threads: tuple[int, ...] = (1, 2)
    """Numbers of cores to hold a process to."""
    rounds: int = 5
    """Turns of each process."""
    steps: int = 5
    """Training steps in a turn; for metalearn these are one dispatch."""
    torch_python: str = sys.executable
    """The Python that has torch."""
    huge_pages: bool = False
    """Let glibc back large arrays by huge pages (GLIBC_TUNABLES), for every system: the cost of fresh memory falls."""
    json: bool = False
    """Print one JSON object as the last line."""


def flops_per_step() -> float:
    """Floating-point operations of one step: the products of the forward pass, attention unmasked, times three."""
    dense = (INPUTS + CLASSES) * WIDTH + LAYERS * 12 * WIDTH**2 + WIDTH * CLASSES
    return 3.0 * (2 * TOKENS * dense + 4 * LAYERS * BATCH * LENGTH**2 * WIDTH)


# The four systems: each returns `advance(steps) -> last loss` and `product() -> None`, both blocking.


def metalearn_system(steps: int) -> tuple[Callable[[int], float], Callable[[], Any]]:
    """The outer loop as meta-training runs it, `steps` of them in one dispatch."""
    import jax
    import optax

    from metalearn.gradients import backprop
    from metalearn.learner import Family, Signature, inner_loop
    from metalearn.outer import outer_loop
    from metalearn_models.learners.transformer import TransformerConfig, transformer

    signature = Signature(INPUTS, CLASSES, LENGTH)
    learner = transformer(signature, TransformerConfig(WIDTH, LAYERS, HEADS, WIDTH // HEADS))
    # Task i is row i of a batch that lies in memory: sampling it costs next to nothing, as in the other systems.
    family = Family(
        signature,
        lambda data, key: jax.random.randint(key, (), 0, BATCH),
        None,
        lambda data, index: index,
        lambda data, task, key: (data[0][task], data[1][task]),
    )
    init, step = outer_loop(backprop(inner_loop(learner, family), BATCH), optax.adam(1e-3), steps)
    data = _jax_batch()
    state = init(learner.init(jax.random.key(0)), data, jax.random.key(1))

    def advance(count: int) -> float:
        nonlocal state
        metrics = {}
        for _ in range(count // steps):
            state, metrics = step(state, data)
        return float(metrics["loss"][-1])

    return advance, _jax_product()


def jax_system(steps: int) -> tuple[Callable[[int], float], Callable[[], Any]]:
    """flax.linen and optax, written as a tutorial would, one jitted step a call."""
    del steps
    import jax
    import jax.numpy as jnp
    import optax
    from flax import linen as nn

    class Block(nn.Module):
        @nn.compact
        def __call__(self, h: Any) -> Any:
            mask = nn.make_causal_mask(jnp.ones(h.shape[:2]))
            h = h + nn.MultiHeadDotProductAttention(HEADS)(nn.LayerNorm()(h), mask=mask)
            return h + nn.Dense(WIDTH)(nn.gelu(nn.Dense(4 * WIDTH)(nn.LayerNorm()(h))))

    class Model(nn.Module):
        @nn.compact
        def __call__(self, xs: Any, ys: Any) -> Any:
            previous = jnp.pad(jax.nn.one_hot(ys, CLASSES)[:, :-1], ((0, 0), (1, 0), (0, 0)))
            positions = self.param("positions", nn.initializers.normal(0.02), (LENGTH, WIDTH))
            h = nn.Dense(WIDTH)(jnp.concatenate([xs, previous], -1)) + positions
            for _ in range(LAYERS):
                h = Block()(h)
            return nn.Dense(CLASSES)(nn.LayerNorm()(h))

    xs, ys = _jax_batch()
    model, optimizer = Model(), optax.adam(1e-3)
    params = model.init(jax.random.key(0), xs, ys)
    state = params, optimizer.init(params)

    def loss(params: Any, xs: Any, ys: Any) -> Any:
        logits: Any = model.apply(params, xs, ys)
        return optax.softmax_cross_entropy_with_integer_labels(logits, ys).mean()

    def step(state: Any, xs: Any, ys: Any) -> tuple[Any, Any]:
        params, optimizer_state = state
        value, gradient = jax.value_and_grad(loss)(params, xs, ys)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        return (optax.apply_updates(params, updates), optimizer_state), value

    compiled = jax.jit(step, donate_argnums=0)

    def advance(count: int) -> float:
        nonlocal state
        value = jnp.nan
        for _ in range(count):
            state, value = compiled(state, xs, ys)
        return float(value)

    return advance, _jax_product()


def torch_system(threads: int, compiled: bool) -> tuple[Callable[[int], float], Callable[[], Any]]:
    """Plain PyTorch: fused projections, `scaled_dot_product_attention`, fused Adam; eager or `torch.compile`d.

    Its default, exact GELU and this hand-written block were the fastest of what was tried; `nn.TransformerEncoder` and
    the tanh form of GELU that JAX takes by default were up to 7 % slower.
    """
    import torch  # pyright: ignore[reportMissingImports]
    import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(threads)
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm_attention, self.norm_mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

        def forward(self, h: Any) -> Any:
            qkv = self.qkv(self.norm_attention(h)).view(BATCH, LENGTH, 3, HEADS, WIDTH // HEADS)
            q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
            read = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            h = h + self.out(read.transpose(1, 2).reshape(BATCH, LENGTH, WIDTH))
            return h + self.down(F.gelu(self.up(self.norm_mlp(h))))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(INPUTS + CLASSES, WIDTH)
            self.positions = nn.Parameter(0.02 * torch.randn(LENGTH, WIDTH))
            self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
            self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

        def forward(self, xs: Any, ys: Any) -> Any:
            previous = F.pad(F.one_hot(ys, CLASSES).float()[:, :-1], (0, 0, 1, 0))
            h = self.embed(torch.cat([xs, previous], -1)) + self.positions
            for block in self.blocks:
                h = block(h)
            return F.cross_entropy(self.head(self.norm(h)).flatten(0, 1), ys.flatten())

    xs, ys = torch.randn(BATCH, LENGTH, INPUTS), torch.randint(0, CLASSES, (BATCH, LENGTH))
    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    loss = torch.compile(model) if compiled else model
    a = torch.randn(PEAK_SIZE, PEAK_SIZE)

    def advance(count: int) -> float:
        value = torch.tensor(float("nan"))
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            value = loss(xs, ys)
            value.backward()
            optimizer.step()
        return value.item()

    return advance, lambda: (a @ a)[0, 0].item()


def _jax_batch() -> tuple[Any, Any]:
    import jax

    key_xs, key_ys = jax.random.split(jax.random.key(2))
    xs = jax.random.normal(key_xs, (BATCH, LENGTH, INPUTS))
    return xs, jax.random.randint(key_ys, (BATCH, LENGTH), 0, CLASSES)


def _jax_product() -> Callable[[], Any]:
    from metalearn.costs.flops import matrix_product

    return matrix_product(size=PEAK_SIZE)


# One process a system and number of threads: it waits for a line, takes its turn, answers with a line of JSON.


def worker(system: System, threads: int, steps: int) -> None:
    """Build a system, then serve turns from standard input until it closes."""
    if hasattr(os, "sched_setaffinity"):
        # The last cores, before anything counts them: XLA sizes its pool by this, PyTorch gets its number besides.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    began = time.perf_counter()
    try:
        if system.startswith("torch"):
            advance, product = torch_system(threads, system == "torch-compiled")
            version = importlib.metadata.version("torch")
        else:
            advance, product = (metalearn_system if system == "metalearn" else jax_system)(steps)
            version = importlib.metadata.version("jax")
        advance(2 * steps)
        product()
    except ModuleNotFoundError as error:
        print(json.dumps({"missing": error.name}), flush=True)
        return
    print(json.dumps({"version": version, "first": time.perf_counter() - began}), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        loss = advance(steps)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = time.perf_counter()
        product()
        peak = 2 * PEAK_SIZE**3 / (time.perf_counter() - peak)
        print(json.dumps({"wall": wall / steps, "cpu": cpu / steps, "peak": peak, "loss": loss}), flush=True)


def _start(config: ThroughputConfig, system: System, threads: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    if config.huge_pages:
        environment["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    python = config.torch_python if system.startswith("torch") else sys.executable
    command = [python, "-m", "experiments.speed.training_step", "worker", system, str(threads), str(config.steps)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def _answer(process: subprocess.Popen[str], who: str) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"the process of {who} ended with status {process.wait()}: its own message is above")
    return json.loads(line)


def main(config: ThroughputConfig, report: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Time every system on every number of threads.

    Args:
        config: what to time.
        report: gets a line whenever a process is ready or missing.

    Returns:
        `rows`, one dict a system and number of threads, and `flops`, operations in a step.

    Raises:
        ValueError: when nothing can be timed as asked.
        RuntimeError: when a process ends on its own.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if min(config.rounds, config.steps, *config.threads) < 1 or max(config.threads) > cores:
        raise ValueError(
            f"rounds, steps and threads must be at least 1 and threads at most the {cores} cores there are, "
            f"got {config.rounds}, {config.steps} and {config.threads}"
        )
    flops = flops_per_step()
    running: dict[tuple[System, int], subprocess.Popen[str]] = {}
    ready: dict[tuple[System, int], dict[str, Any]] = {}
    try:
        for threads in config.threads:
            for system in config.systems:
                process = _start(config, system, threads)
                running[system, threads] = process
                answer = _answer(process, f"{system} on {threads}")
                if "missing" in answer:
                    report(f"{SYSTEMS[system]}: no {answer['missing']} here: pip install 'metalearn[bench]'")
                    del running[system, threads]
                    process.communicate()
                    continue
                ready[system, threads] = answer
                report(f"{SYSTEMS[system]}, {threads} threads: ready after {answer['first']:.1f} s")
        turns: dict[tuple[System, int], list[dict[str, Any]]] = {pair: [] for pair in running}
        for _ in range(config.rounds):
            for pair, process in running.items():
                assert process.stdin is not None
                process.stdin.write("turn\n")
                process.stdin.flush()
                turns[pair].append(_answer(process, f"{pair[0]} on {pair[1]}"))
    finally:
        for process in running.values():
            process.communicate()
    best = {n: max((t["peak"] for p in turns for t in turns[p] if p[1] == n), default=0.0) for n in config.threads}
    rows = []
    for (system, threads), measured in turns.items():
        walls, cpus = [t["wall"] for t in measured], [t["cpu"] for t in measured]
        own, seconds = max(t["peak"] for t in measured), min(walls)
        row = {"system": system, "threads": threads, "median": statistics.median(walls), "min": seconds}
        row |= {"cpu_median": statistics.median(cpus), "cpu_min": min(cpus), "tokens_per_s": TOKENS / seconds}
        row |= {"flops_per_s": flops / seconds, "peak": own, "of_own_peak": flops / seconds / own}
        row |= {"of_best_peak": flops / seconds / best[threads], "loss": measured[-1]["loss"], **ready[system, threads]}
        if ("metalearn", threads) in turns:
            ours = turns["metalearn", threads]
            # Turn by turn, so that a busy minute of the machine counts for both sides of the ratio.
            row["ratio_median"] = statistics.median(t["wall"] / o["wall"] for t, o in zip(measured, ours, strict=True))
            row["ratio_min"] = seconds / min(o["wall"] for o in ours)
            row["ratio_cpu_min"] = min(cpus) / min(o["cpu"] for o in ours)
        rows.append(row)
    return {"rows": rows, "flops": flops, "huge_pages": config.huge_pages, "steps": config.steps}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows for people; shares and rates are of the fastest turn, `x` is time over metalearn's."""
    lines = [
        f"{'':18} {'threads':>7} {'s/step':>8} {'fastest':>8} {'cpu s':>8} {'tokens/s':>9} {'GFLOP/s':>8}"
        f" {'own peak':>9} {'best peak':>9} {'x median':>9} {'x fastest':>9} {'x cpu':>6}"
    ]
    for row in rows:
        ratios = [row.get(name, float("nan")) for name in ("ratio_median", "ratio_min", "ratio_cpu_min")]
        lines.append(
            f"{SYSTEMS[row['system']]:18} {row['threads']:>7} {row['median']:>8.3f} {row['min']:>8.3f}"
            f" {row['cpu_min']:>8.3f} {row['tokens_per_s']:>9,.0f} {row['flops_per_s'] / 1e9:>8.1f}"
            f" {row['of_own_peak']:>9.0%} {row['of_best_peak']:>9.0%}"
            f" {ratios[0]:>9.2f} {ratios[1]:>9.2f} {ratios[2]:>6.2f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(cast(System, sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        import tyro

        command = tyro.cli(ThroughputConfig, description=__doc__)
        found = main(command, lambda line: print(line, file=sys.stderr))
        print(table(found["rows"]))
        if command.json:
            print(json.dumps(found))
