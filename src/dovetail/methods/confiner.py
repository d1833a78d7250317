"""ConFiner: coordinated denoising. Li et al., 2024, arXiv:2408.13423, section 3.4, Eq. 8-11.

A spatial and a temporal expert that keep different clocks agree on x0. Each hands the other a
clean estimate, and the receiver looks at it again through noise of its own:

    a <- spatial(x, t)                             Eq. 8
    b <- temporal(mix(a, eps_there, t'), t')       Eq. 9, 10
    seen <- spatial(mix(b, eps_back, t), t)        Eq. 11; the sampler then leaves t from here

Readings of what the paper leaves open: docs/methods/confiner.md.
"""

from dataclasses import dataclass, field

from torch import Tensor

from dovetail.core.denoiser import Denoiser
from dovetail.core.ladders import Mask
from dovetail.core.noise import Noise
from dovetail.core.path import Split, mix
from dovetail.methods.bridge import Clock, SameSNR, eps_between
from dovetail.methods.consistent import Consistent


@dataclass(frozen=True)
class Coordinated:
    """Denoiser of a spatial and a temporal denoiser: two calls of the first, one of the second.

    noise: the stage's own, `Noise(seed).of(stage)`. fresh: draw anew at every step and direction, as
    printed; else one eps per pass, the very one that the hand-over (Eq. 6) added. steps: which steps
    of the ladder are coordinated, all by default; the others are the spatial expert's alone.
    """

    spatial: Denoiser
    temporal: Denoiser
    noise: Noise | Consistent
    clock: Clock = field(default_factory=SameSNR)
    fresh: bool = True
    steps: Mask | None = None

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        if self.steps is not None and not self.steps(t):
            return self.spatial(x, t, frames)
        there = self.clock(t)
        eps_there, eps_back = eps_between(x, t, frames, self.noise, self.fresh)
        a = self.spatial(x, t, frames).x0
        b = self.temporal(mix(a, eps_there, there), there, frames).x0
        return self.spatial(mix(b, eps_back, t), t, frames)
