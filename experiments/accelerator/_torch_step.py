"""The same training step in plain PyTorch, timed in a process of its own.

    python -m experiments.accelerator._torch_step WIDTH PRECISION BATCH CALLS STEPS

Prints seconds per step, or null where PyTorch is missing or sees no GPU. `torch.compile` is left out: it needs a C
compiler, which such a machine may lack.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import Any

LENGTH, INPUTS, CLASSES, LAYERS, KEY = 100, 64, 10, 4, 64
"""The sizes of `experiments.accelerator._throughput`, which imports JAX; this process must not."""


def time_step(width: int, precision: str, batch: int, calls: int, steps: int) -> float | None:
    """Seconds per step in the fastest call, or None without a GPU."""
    import torch  # pyright: ignore[reportMissingImports]
    import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    if not torch.cuda.is_available():
        return None
    torch.backends.cuda.matmul.allow_tf32 = True  # as JAX's default precision
    heads = max(1, width // KEY)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * heads * KEY), nn.Linear(heads * KEY, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, h: Any) -> Any:
            qkv = self.qkv(self.norm_attention(h)).view(batch, LENGTH, 3, heads, KEY)
            q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
            read = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            h = h + self.out(read.transpose(1, 2).reshape(batch, LENGTH, heads * KEY))
            return h + self.down(F.gelu(self.up(self.norm_mlp(h))))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(INPUTS + CLASSES, width), nn.Linear(width, CLASSES)
            self.blocks, self.norm = nn.ModuleList(Block() for _ in range(LAYERS)), nn.LayerNorm(width)

        def forward(self, xs: Any, ys: Any) -> Any:
            previous = F.pad(F.one_hot(ys, CLASSES).float()[:, :-1], (0, 0, 1, 0))
            h = self.embed(torch.cat([xs, previous], -1))
            for block in self.blocks:
                h = block(h)
            return F.cross_entropy(self.head(self.norm(h)).flatten(0, 1).float(), ys.flatten())

    device = torch.device("cuda")
    xs = torch.randn(batch, LENGTH, INPUTS, device=device)
    ys = torch.randint(0, CLASSES, (batch, LENGTH), device=device)
    model = Model().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    lower = torch.autocast("cuda", torch.bfloat16) if precision == "bfloat16" else contextlib.nullcontext()

    def call() -> float:
        began = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with lower:
                loss = model(xs, ys)
            loss.backward()
            optimizer.step()
        torch.cuda.synchronize()
        return time.perf_counter() - began

    call()
    return min(call() for _ in range(calls)) / steps


if __name__ == "__main__":
    width, precision, *numbers = sys.argv[1:]
    try:
        print(json.dumps(time_step(int(width), precision, *map(int, numbers))))
    except ModuleNotFoundError:
        print("null")
