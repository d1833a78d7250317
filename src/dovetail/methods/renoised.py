"""Estimates averaged in x0, and fresh noise for all windows alike while the noise is high: a baseline for SynCoS, and how
the structures of `sprites-long` leave their first levels.

    x0 <- the windows' estimates from x, averaged
    leave t along (x0, fresh eps) where t > floor, along the noise that x holds elsewhere

It is SynCoS (Kim et al., 2025, arXiv:2503.08605) without stage 2, and what FlowLong does: averaging clean estimates with
a stochastic early phase. Readings: docs/methods/syncos.md.
"""

from dataclasses import dataclass

from torch import Tensor

from dovetail.core.denoiser import Denoiser
from dovetail.core.noise import Noise
from dovetail.core.path import Split
from dovetail.methods.consistent import Consistent


@dataclass(frozen=True)
class Renoised:
    """Denoiser that leaves high levels along fresh noise, addressed by frame, so that windows share it (`Leaving`).

    noise: the stage's own. start: what the stage starts from, if that is not simply its noise; levels are left along its
    noise then, too, so that what windows share they share at each of them.
    """

    denoise: Denoiser
    noise: Noise
    floor: float = 0.95
    start: Consistent | None = None

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        return self.leave(self.denoise(x, t, frames), x, t, frames)

    def leave(self, seen: Split, x: Tensor, t: float, frames: Tensor) -> Split:
        """What was seen in x "b c f h w" at t, with the noise along which that level is left."""
        drawn = self.start.eps if self.start else self.noise.like
        return seen if t <= self.floor else Split(seen.x0, drawn(x, frames, "base", t))
