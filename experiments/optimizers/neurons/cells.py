"""Training runs that are kept: what was measured once is read from a file when the experiment goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.optimizers.neurons.methods import Method, Point
from experiments.optimizers.neurons.tasks import Run, Task, draw_data, make_training
from metalearn_tasks import datasets

__all__ = ["Cells"]


class Cells:
    """All runs of one task in a file of one line per run; a run is made when it is asked for the first time.

    A run is known by the name of its method, its point, seed, task and data, and by its program as JAX lowers it. So a
    run whose method has another constant, or another code, is made again, and so are all with another version of JAX.
    """

    def __init__(self, path: Path, task: Task, methods: Mapping[str, Method], mnist: str):
        self._path, self._task, self._methods, self._mnist = path, task, methods, mnist
        # The same images are known by their content, wherever they lie.
        self._source = "" if task.source == "digits" else f"; {datasets.content_sha256(mnist) or mnist}"
        self._programs: dict[str, Any] = {}
        self._names: dict[str, str] = {}
        self._data: dict[int, Any] = {}
        self._known: dict[str, dict[str, Any]] = {}
        if path.exists():
            text = path.read_text()
            if not text.endswith("\n"):  # half a line, which must not swallow the next one
                with path.open("a") as file:
                    file.write("\n")
            for line in text.splitlines():
                try:
                    key, values = json.loads(line)
                except ValueError:  # the line that a kill has cut short
                    continue
                self._known[key] = values

    def run(self, method: str, point: Point, seed: int) -> Mapping[str, np.ndarray]:
        """The measurements of a run, `{field of Run: array}`."""
        program = self._name_program(method, seed)
        key = f"{method}; {point[0]:g}, {point[1]:g}; seed {seed}; {self._task}{self._source}; {program}"
        if key not in self._known:
            found = self.train(method, point, seed, True)
            values = {name: [float(f"{float(v):.5g}") for v in x] for name, x in found._asdict().items()}
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(json.dumps([key, values]) + "\n")
            self._known[key] = values
        return {name: np.asarray(values, np.float64) for name, values in self._known[key].items()}

    def train(self, method: str, point: Point, seed: int, evaluated: bool) -> Run:
        """Train now, whatever is known."""
        return jax.block_until_ready(self._program(method)(*self._arguments(point, seed), evaluated))

    def _program(self, method: str) -> Any:
        return self._programs.setdefault(method, make_training(self._task, self._methods[method]))

    def _arguments(self, point: Point, seed: int) -> tuple[Any, ...]:
        if seed not in self._data:
            self._data[seed] = draw_data(self._task, seed, self._mnist)
        return (*map(jnp.float32, point), self._data[seed], jax.random.key(seed))

    def _name_program(self, method: str, seed: int) -> str:
        """Eight characters that stand for the program of a method, the same for all points and seeds."""
        if method not in self._names:
            text = self._program(method).lower(*self._arguments((0.0, 0.0), seed), True).as_text()
            self._names[method] = hashlib.sha256(text.encode()).hexdigest()[:8]
        return self._names[method]
