"""Everything that has a name: what `metalearn list` shows."""

from __future__ import annotations

from metalearn.recipes.gpt.config import PRESETS as GENERATOR_PRESETS
from metalearn.recipes.in_context.presets import PRESETS
from metalearn.recipes.kinds import TABLES
from metalearn.recipes.learned_loss.describe import list_losses
from metalearn_models.architectures.registry import SPACES
from metalearn_models.epistemic import AGENTS
from metalearn_models.learners import library as learners
from metalearn_models.learners.registry import LEARNERS, learner_name
from metalearn_models.optimizers import library as optimizers
from metalearn_models.optimizers.handmade.table import HANDMADE
from metalearn_models.optimizers.registry import OPTIMIZERS
from metalearn_models.sparsity.names import DISTRIBUTIONS, RULES
from metalearn_models.tabular.transformer import library as tables
from metalearn_tasks import datasets, objectives
from metalearn_tasks.families.registry import FAMILIES, entry_of

__all__ = ["catalogue"]


def catalogue() -> dict[str, dict[str, str]]:
    """All names with a line of text each, by section; the title of a section says where its names are used."""
    in_presets = sorted({entry_of(config.family).name for _, config in PRESETS.values()})
    return {
        "presets (metalearn train NAME)": {
            **{name: text for name, (text, _) in PRESETS.items()},
            TABLES: "a Transformer that reads whole tables, cell by cell, on synthetic tables; has options of its own",
        },
        "learners (--learner NAME)": {n: e.description for n, e in LEARNERS.items() if e.meta_learned},
        "reference learners (metalearn evaluate RUN --references NAME ...)": {
            n: e.description for n, e in LEARNERS.items() if not e.meta_learned
        },
        "families of tasks (the presets' --family options)": {n: FAMILIES[n].description for n in in_presets},
        "families of tasks for Python alone (metalearn_tasks.families.registry.family_entry(NAME))": {
            n: e.description for n, e in FAMILIES.items() if n not in in_presets
        },
        "learned optimizers (metalearn train-optimizer NAME)": {
            n: e.description for n, e in OPTIMIZERS.items() if n not in HANDMADE
        },
        "optimizers made by hand (metalearn train-optimizer NAME learns their constants; --baselines NAME ...)": {
            name: OPTIMIZERS[name].description for name in HANDMADE
        },
        "generators of parameters (metalearn train-gpt NAME)": {n: text for n, (_, text) in GENERATOR_PRESETS.items()},
        "objectives (train-optimizer's --objective NAME)": objectives.names(),
        "meta-trained optimizers (metalearn_models.optimizers.load(NAME))": {
            name: optimizers.read(name).describe() for name in optimizers.shipped()
        },
        "meta-trained learners (InContextClassifier(weights=NAME))": {
            name: _describe_learner(name) for name in learners.shipped()
        },
        "meta-trained learners of tables (InContextClassifier(weights=NAME), InContextRegressor(weights=NAME))": {
            name: _describe_tables(name) for name in tables.shipped()
        },
        "rules of sparse training (metalearn_models.sparsity.NAME)": dict(RULES),
        "distributions of connections (metalearn_models.sparsity.NAME)": dict(DISTRIBUTIONS),
        "search spaces (metalearn_models.architectures.NAME)": dict(SPACES),
        "epistemic agents (metalearn_models.epistemic.make_agent(NAME, ...))": {
            name: entry.description for name, entry in AGENTS.items()
        },
        "losses (metalearn_models.losses.load(NAME); metalearn loss show NAME)": list_losses(),
        "data sets (--data.source NAME, or any tensorflow-datasets name or prepared folder)": datasets.names(),
    }


def _describe_learner(name: str) -> str:
    found = learners.load(name)
    kind = learner_name(found.config)
    shape = f"{found.signature.inputs} inputs, {found.signature.outputs} classes, {found.signature.length} examples"
    return f"{kind} for {shape}"


def _describe_tables(name: str) -> str:
    found = tables.load(name)
    steps = found.card.get("steps_done", "an unknown number of")
    return (
        f"a Transformer of width {found.config.width} with {found.config.layers} blocks, meta-trained for {steps} steps"
    )
