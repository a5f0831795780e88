"""Taking learned optimizers apart: what mechanisms a recurrent optimizer has found."""

from metalearn_models.optimizers.analysis.fixed_points import FixedPoints as FixedPoints
from metalearn_models.optimizers.analysis.fixed_points import Modes as Modes
from metalearn_models.optimizers.analysis.fixed_points import fixed_points as fixed_points
from metalearn_models.optimizers.analysis.fixed_points import impulse_response as impulse_response
from metalearn_models.optimizers.analysis.fixed_points import modes as modes
from metalearn_models.optimizers.analysis.update_functions import Adaptation as Adaptation
from metalearn_models.optimizers.analysis.update_functions import Schedule as Schedule
from metalearn_models.optimizers.analysis.update_functions import UpdateFunction as UpdateFunction
from metalearn_models.optimizers.analysis.update_functions import adaptation as adaptation
from metalearn_models.optimizers.analysis.update_functions import schedule as schedule
from metalearn_models.optimizers.analysis.update_functions import update_function as update_function
