"""The alternating baseline that ConFiner argues against. Li et al., 2024, arXiv:2408.13423, Eq. 7.

    x_{k-1} <- spatial(x_k, t_k)   if k is even
               temporal(x_k, t_k)  if k is odd         k = n .. 1

One call per step; everything on the spatial expert's schedule, without conversion.
"""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from dovetail.core.denoiser import Denoiser, Expert
from dovetail.core.ladders import Ladder, Mask
from dovetail.core.path import Split
from dovetail.core.schedules import Schedule
from dovetail.core.tree import rewrite


@dataclass(frozen=True)
class Alternating:
    """Denoiser that asks the temporal expert at the steps of `turns`, the spatial one at the others.

    For the paper's literal baseline build it with `of`.
    """

    spatial: Denoiser
    temporal: Denoiser
    turns: Mask

    @classmethod
    def of(cls, spatial: Denoiser, temporal: Denoiser, ladder: Ladder, schedule: Schedule) -> "Alternating":
        """Eq. 7 over a ladder of n steps, the last of which is k = 1. schedule: the spatial expert's."""
        odd = [k % 2 == 1 for k in range(ladder.steps, 0, -1)]
        return cls(spatial, unconverted(temporal, schedule), Mask.of(ladder, odd))

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        return (self.temporal if self.turns(t) else self.spatial)(x, t, frames)


def unconverted(denoiser: Denoiser, schedule: Schedule) -> Denoiser:
    """The same denoiser, its experts told the times of another schedule and shown its latents.

    It is what happens when a latent is passed on as it is; wrong unless the schedules agree.
    """

    def misread(node: Any) -> Any:
        return replace(node, schedule=schedule) if isinstance(node, Expert) else node

    changed: Denoiser = rewrite(denoiser, misread)
    return changed
