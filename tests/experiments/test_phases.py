"""The phases experiment at toy size."""

import json

from experiments.phases import PhasesConfig, config_for, main


def test_phases_differ_only_in_the_number_of_tasks():
    few, many = (config_for(PhasesConfig(), n) for n in (64, 4096))
    assert few.task.num_tasks == 64 and many.task.num_tasks == 4096
    assert few.steps == many.steps and few.learner == many.learner and few.seed == many.seed


def test_phases_run_end_to_end_at_toy_size(tmp_path, monkeypatch):
    import dataclasses

    import experiments.phases as phases

    def tiny(config, num_tasks):
        full = config_for(config, num_tasks)
        learner = dataclasses.replace(full.learner, width=8, layers=1, heads=1, key_size=4)
        task, optimizer = dataclasses.replace(full.task, length=12), dataclasses.replace(full.optimizer, warmup=0)
        return dataclasses.replace(
            full, learner=learner, task=task, optimizer=optimizer, tasks=4, eval_sequences=1, references=("1nn",)
        )

    monkeypatch.setattr(phases, "config_for", tiny)
    found = main(PhasesConfig(num_tasks=(2,), steps=2, eval_tasks=2, out=tmp_path))
    assert 0 <= found["phases"][2]["unseen"] <= 1 and 0 <= found["phases"][2]["seen"] <= 1
    assert (tmp_path / "phases.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "result.json").read_text())["phases"]["2"] == found["phases"][2]
