"""Beyond the ConFiner paper: its sandwich without the first spatial look ("T-S").

    b <- temporal(x, t)
    seen <- spatial(mix(b, eps_back, t), t)

One call of each per step, and the last look is the spatial expert's. The first spatial look only
serves to bring a latent onto the temporal expert's schedule; at equal SNR it is there already.
"""

from dataclasses import dataclass

from torch import Tensor

from dovetail.core.denoiser import Denoiser
from dovetail.core.noise import Noise
from dovetail.core.path import Split, mix
from dovetail.methods.bridge import eps_between
from dovetail.methods.consistent import Consistent


@dataclass(frozen=True)
class TemporalFirst:
    """Denoiser of a spatial and a temporal denoiser, one call of each. noise, fresh: as in `Coordinated`."""

    spatial: Denoiser
    temporal: Denoiser
    noise: Noise | Consistent
    fresh: bool = True

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        b = self.temporal(x, t, frames).x0
        _, eps_back = eps_between(x, t, frames, self.noise, self.fresh)
        return self.spatial(mix(b, eps_back, t), t, frames)
