"""Baseline: coordinated denoising without its second spatial look ("S-T").

    a <- spatial(x, t);  b <- temporal(mix(a, eps_there, t'), t')       ConFiner, Eq. 8-10
    leave t from b and eps_back      (Eq. 11 without its last denoising)
             or from b and the noise in x, given b     (`derived`; beyond the paper)

One call of each per step. The last look is the temporal expert's, and so is the look of the result.
"""

from dataclasses import dataclass, field

from torch import Tensor

from dovetail.core.denoiser import Denoiser
from dovetail.core.noise import Noise
from dovetail.core.path import Split, mix, split
from dovetail.methods.bridge import Clock, SameSNR, eps_between
from dovetail.methods.consistent import Consistent


@dataclass(frozen=True)
class Relayed:
    """Denoiser of a spatial and a temporal denoiser, one call of each. Fields as in `Coordinated`.

    derived: keep the noise that x is seen to hold, instead of adding that of the way back.
    """

    spatial: Denoiser
    temporal: Denoiser
    noise: Noise | Consistent
    clock: Clock = field(default_factory=SameSNR)
    fresh: bool = True
    derived: bool = False

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        there = self.clock(t)
        eps_there, eps_back = eps_between(x, t, frames, self.noise, self.fresh)
        a = self.spatial(x, t, frames).x0
        b = self.temporal(mix(a, eps_there, there), there, frames).x0
        return split(x, b, t) if self.derived else Split(b, eps_back)
