"""Beyond the ConFiner paper: coordinated denoising that spares the second look where experts agree.

    a, b as in Eq. 8-10
    leave t from b and the noise in x, given b     where |a - b| < tau |a|
    leave t as in Eq. 11                           elsewhere

Two or three calls per step, decided for every row by itself, so batches do not change a result.
"""

from dataclasses import dataclass, field

from torch import Tensor

from dovetail.core.denoiser import Denoiser
from dovetail.core.noise import Noise
from dovetail.core.path import Split, mix, split
from dovetail.methods.bridge import Clock, SameSNR, eps_between
from dovetail.methods.consistent import Consistent


@dataclass(frozen=True)
class Skipping:
    """Denoiser of a spatial and a temporal denoiser. Fields as in `Coordinated`.

    tau: relative disagreement from which a second look is worth its call; 0 is `Coordinated`.
    """

    spatial: Denoiser
    temporal: Denoiser
    noise: Noise | Consistent
    tau: float
    clock: Clock = field(default_factory=SameSNR)
    fresh: bool = True

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        there = self.clock(t)
        eps_there, eps_back = eps_between(x, t, frames, self.noise, self.fresh)
        a = self.spatial(x, t, frames).x0
        b = self.temporal(mix(a, eps_there, there), there, frames).x0
        seen = split(x, b, t)
        apart = ((a - b).flatten(1).norm(dim=1) >= self.tau * a.flatten(1).norm(dim=1)).nonzero()[:, 0]
        if len(apart):
            again = self.spatial(mix(b, eps_back, t)[apart], t, frames[apart.to(frames.device)])
            seen = Split(seen.x0.index_copy(0, apart, again.x0), seen.eps.index_copy(0, apart, again.eps))
        return seen
