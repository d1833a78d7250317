"""Baseline: the temporal expert alone refines. ConFiner, Table 5, "only T". One call per step."""

from dovetail.core.denoiser import Denoiser
from dovetail.core.ladders import below
from dovetail.core.schedules import Schedule
from dovetail.core.stages import Stage


def only_temporal(temporal: Denoiser, schedule: Schedule, timestep: int = 100, steps: int = 5) -> Stage:
    """Noise from T_e = `timestep` of the temporal expert's own schedule, then that expert at every step.

    The paper does not say on whose schedule the noise is added; on another's, the expert would be
    told a wrong noise level from the first step on.
    """
    return Stage("refine", temporal, below(schedule, timestep, steps))
