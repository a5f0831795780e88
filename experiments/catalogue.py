"""Every experiment by name: the module that runs it."""

from __future__ import annotations

from metalearn.errors import unknown_name

EXPERIMENTS: dict[str, str] = {
    "transition": "experiments.in_context.transition",
    "phase_diagram": "experiments.in_context.phase_diagram.experiment",
    "state_size": "experiments.in_context.state_size.experiment",
    "plateau": "experiments.in_context.plateau.experiment",
    "generalisation": "experiments.in_context.generalisation.experiment",
    "mechanism": "experiments.in_context.mechanism.experiment",
    "estimator_variance": "experiments.gradients.estimator_variance",
    "influence_balancing": "experiments.gradients.influence_balancing",
    "lorenz": "experiments.gradients.lorenz",
    "schedule_2d": "experiments.gradients.schedule_2d",
    "es_in_context": "experiments.gradients.es_in_context",
    "learning_to_learn": "experiments.learned_optimizers.learning_to_learn",
    "past_the_horizon": "experiments.learned_optimizers.past_the_horizon",
    "optimizer_pareto": "experiments.learned_optimizers.pareto",
    "optimizer_cost": "experiments.learned_optimizers.cost",
    "dmd_ablation": "experiments.learned_optimizers.dmd_ablation",
    "guard_demo": "experiments.learned_optimizers.guard_demo",
    "reverse_engineering": "experiments.learned_optimizers.reverse_engineering",
    "label_noise": "experiments.losses.label_noise",
    "robust_regression": "experiments.losses.robust_regression",
    "loss_transfer": "experiments.losses.transfer",
    "mnist_losses": "experiments.losses.mnist",
    "refinement": "experiments.losses.refinement",
    "downstream_loss": "experiments.losses.downstream",
    "tabular": "experiments.tabular.tabular",
    "shipped": "experiments.tabular.shipped",
    "throughput": "experiments.speed.training_step",
    "estimator_speed": "experiments.speed.estimators",
    "loss_search_speed": "experiments.speed.loss_search",
    "weak_scaling": "experiments.speed.weak_scaling",
    "gallery": "experiments.suite.gallery",
    "spent": "experiments.suite.spent",
}


def module_of(name: str) -> str:
    """The module of an experiment.

    Raises:
        UnknownNameError: with the nearest names.
    """
    if name not in EXPERIMENTS:
        raise unknown_name("experiment", name, EXPERIMENTS)
    return EXPERIMENTS[name]
