"""ConFiner: coordinated denoising. Li et al., 2024, arXiv:2408.13423, section 3.4, Eq. 8-11.

A spatial and a temporal expert that keep different clocks agree on x0. Each hands the other a
clean estimate, and the receiver looks at it again through noise of its own:

    a <- spatial(x, t)                             Eq. 8
    b <- temporal(mix(a, eps_there, t'), t')       Eq. 9, 10
    seen <- spatial(mix(b, eps_back, t), t)        Eq. 11; the sampler then leaves t from here

Readings of what the paper leaves open: docs/methods/confiner.md.
"""

from dataclasses import dataclass

from torch import Tensor

from dovetail.core.denoiser import Denoiser
from dovetail.core.noise import Noise
from dovetail.core.path import Split, mix
from dovetail.core.schedules import Schedule


@dataclass(frozen=True)
class SameIndex:
    """The paper's clock: the temporal expert is told the same timestep, whatever its noise share."""

    spatial: Schedule
    temporal: Schedule

    def __call__(self, t: float) -> float:
        return self.temporal.share(self.spatial.native(t))


@dataclass(frozen=True)
class SameSNR:
    """Equal noise shares for both experts, so equal signal-to-noise ratios on any two schedules."""

    def __call__(self, t: float) -> float:
        return t


Clock = SameIndex | SameSNR


@dataclass(frozen=True)
class Coordinated:
    """Denoiser of a spatial and a temporal denoiser: two calls of the first, one of the second.

    noise: where eps comes from. fresh: draw anew at every step and direction, as printed; else one
    eps per pass ("fixed"). steps: which steps of the ladder are coordinated, by the noise shares at
    which they start; None is all. A step outside is the spatial expert's alone.
    """

    spatial: Denoiser
    temporal: Denoiser
    noise: Noise
    clock: Clock = SameSNR()
    fresh: bool = False
    steps: frozenset[float] | None = None

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        if self.steps is not None and t not in self.steps:
            return self.spatial(x, t, frames)
        there = self.clock(t)
        a = self.spatial(x, t, frames).x0
        b = self.temporal(mix(a, self._eps(x, frames, "there", t), there), there, frames).x0
        return self.spatial(mix(b, self._eps(x, frames, "back", t), t), t, frames)

    def _eps(self, x: Tensor, frames: Tensor, way: str, t: float) -> Tensor:
        return self.noise.like(x, frames, way, t) if self.fresh else self.noise.like(x, frames, "start")
