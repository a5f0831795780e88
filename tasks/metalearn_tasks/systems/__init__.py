"""Inner loops with known answers, on which gradient estimators are tested and shown: one module per system."""

from metalearn_tasks.systems import influence as influence
from metalearn_tasks.systems import linear as linear
from metalearn_tasks.systems import lorenz as lorenz
from metalearn_tasks.systems import mlp_schedule as mlp_schedule
from metalearn_tasks.systems import schedule_2d as schedule_2d

__all__ = ["influence", "linear", "lorenz", "mlp_schedule", "schedule_2d"]
