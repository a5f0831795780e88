"""Candidate losses trained by PyTorch without compiling, as EvoMAL's released code does it: one tree after the other.

    python -m experiments.speed.peers._loss_search_torch < REQUEST

REQUEST is JSON with the fields of `train_one` and `trees`, nested lists as `experiments.speed.loss_search` writes them.
The answer is JSON: `seconds` per tree, `errors` on validation, and the version; or {"missing": "torch"}. Only the
standard library is imported up here: PyTorch may be in an environment that has nothing of ours.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

FLOOR = 1e-7
"""As in the formulas that are compared: log and sqrt of a smaller magnitude are constant."""


def evaluate(torch: Any, tree: Any, y: Any, f: Any) -> Any:
    """The value of a tree, elementwise.

    Args:
        torch: the module.
        tree: "y", "f", a number, or [operator, coefficient, subtree, ...] with a coefficient before each subtree.
        y: targets, one-hot.
        f: predictions.
    """
    if isinstance(tree, str):
        return y if tree == "y" else f
    if not isinstance(tree, list):
        return torch.full_like(f, tree)
    name, *edges = tree
    args = [c * evaluate(torch, arg, y, f) for c, arg in zip(edges[::2], edges[1::2], strict=True)]
    operators = {
        "add": torch.add,
        "sub": torch.subtract,
        "mul": torch.multiply,
        "div": lambda a, b: a * torch.rsqrt(1 + b * b),
        "min": torch.minimum,
        "max": torch.maximum,
        "sign": torch.sign,
        "square": torch.square,
        "abs": torch.abs,
        "log": lambda x: torch.log(torch.clamp(torch.abs(x), min=FLOOR)),
        "sqrt": lambda x: torch.sqrt(torch.clamp(torch.abs(x), min=FLOOR)),
        "tanh": torch.tanh,
    }
    return operators[name](*args)


def train_one(torch: Any, tree: Any, data: dict[str, Any], hidden: int, steps: int, batch: int, seed: int) -> float:
    """Train a network of one hidden layer with a tree as the loss; returns its validation error."""
    torch.manual_seed(seed)
    inputs, classes = data["xs"].shape[1], data["ys"].shape[1]
    model = torch.nn.Sequential(
        torch.nn.Linear(inputs, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, classes), torch.nn.Softmax(-1)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for _ in range(steps):
        chosen = torch.randint(0, len(data["xs"]), (batch,))
        optimizer.zero_grad()
        evaluate(torch, tree, data["ys"][chosen], model(data["xs"][chosen])).sum(-1).mean().backward()
        optimizer.step()
    with torch.no_grad():
        return float((model(data["valid_xs"]).argmax(-1) != data["valid_ys"]).float().mean())


def main() -> None:
    """Read a request from the standard input and answer on the standard output."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as e:
        print(json.dumps({"missing": e.name}))
        return
    request = json.load(sys.stdin)
    data = {name: torch.tensor(values) for name, values in request.pop("data").items()}
    seconds, errors = [], []
    trees = request.pop("trees")
    train_one(torch, trees[0], data, **{**request, "steps": 20})  # the first calls of PyTorch are slow
    for tree in trees:
        began = time.perf_counter()
        errors.append(train_one(torch, tree, data, **request))
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"seconds": seconds, "errors": errors, "version": torch.__version__}))


if __name__ == "__main__":
    main()
