"""The systems that `experiments.speed.training_step` times, each in a process of its own.

    python -m experiments.speed._training_step_systems SYSTEM THREADS STEPS

Each system is a function that returns `advance(steps) -> last loss` and `product()`, the system's own matrix product;
both block until they are done. Only the standard library is imported up here: the process of PyTorch may run in an
environment that has nothing else of ours.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

BATCH, LENGTH, INPUTS, CLASSES = 32, 100, 64, 10
WIDTH, LAYERS, HEADS = 128, 4, 4
TOKENS = BATCH * LENGTH
PEAK_SIZE = 2048


def metalearn_system(steps: int) -> tuple[Callable[[int], float], Callable[[], Any]]:
    """The outer loop as meta-training runs it, `steps` outer steps in one dispatch."""
    import jax
    import optax

    from metalearn.gradients import backprop
    from metalearn.learner import Family, Signature, inner_loop
    from metalearn.outer import outer_loop
    from metalearn_models.learners.transformer import TransformerConfig, transformer

    signature = Signature(INPUTS, CLASSES, LENGTH)
    learner = transformer(signature, TransformerConfig(WIDTH, LAYERS, HEADS, WIDTH // HEADS))
    # Task i is row i of a batch in memory, so sampling costs next to nothing, as in the other systems.
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
    """flax.linen and optax as a tutorial writes them, one jitted step per call."""
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

    PyTorch's default, the exact GELU, and this hand-written block were the fastest of what was tried.
    `nn.TransformerEncoder` and the tanh form of GELU, JAX's default, were up to 7 % slower.
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


def serve(system: str, threads: int, steps: int) -> None:
    """Build a system, then serve turns until standard input closes: one line in, one line of JSON out.

    Args:
        system: `metalearn`, `jax`, `torch` or `torch-compiled`.
        threads: the number of cores that the process is held to.
        steps: training steps per turn.
    """
    if hasattr(os, "sched_setaffinity"):
        # The last cores, before anything counts them: XLA sizes its pool by this. PyTorch gets its number besides.
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


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
