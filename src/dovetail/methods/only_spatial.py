"""Baseline: the spatial expert alone refines. ConFiner, Table 5, "only S". One call per step."""

from dovetail.core.denoiser import Denoiser
from dovetail.core.ladders import below
from dovetail.core.schedules import Schedule
from dovetail.core.stages import Stage


def only_spatial(spatial: Denoiser, schedule: Schedule, timestep: int = 100, steps: int = 5) -> Stage:
    """Noise from T_e = `timestep` of the spatial schedule, then the spatial expert at every step."""
    return Stage("refine", spatial, below(schedule, timestep, steps))
