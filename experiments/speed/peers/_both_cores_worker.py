"""What `both_cores` times in a process with its own cores and devices; prints the seconds as JSON.

python -m experiments.speed.peers._both_cores_worker ARRANGEMENT TURNS PEER OPTIMIZER ...
"""

from __future__ import annotations

import contextlib
import json
import sys
import time

from experiments.suite.one_core import prepare_process as stay_on_one_core

__all__ = ["time_steps"]


def time_steps(arrangement: str, turns: int, peer: bool, optimizers: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Seconds of the fastest step of this process, by optimizer and system. Must run before JAX starts."""
    if arrangement == "one core":
        stay_on_one_core()
    import experiments.speed.peers.against_learned_optimization as both
    from metalearn.outer import use_all_cores

    if arrangement == "one device per core":
        use_all_cores()
    cases = [(name, both.our_case(name)) for name in optimizers]
    if peer:
        with contextlib.suppress(ModuleNotFoundError):
            cases += both.peer_cases(optimizers).items()
    found: dict[str, dict[str, float]] = {name: {} for name in optimizers}
    for _ in range(turns):
        for name, case in cases:
            began = time.perf_counter()
            case.advance()
            seconds = time.perf_counter() - began
            found[name][case.name] = min(seconds, found[name].get(case.name, seconds))
    return found


if __name__ == "__main__":
    arrangement, turns, peer, *optimizers = sys.argv[1:]
    print(json.dumps(time_steps(arrangement, int(turns), peer == "1", tuple(optimizers))))
