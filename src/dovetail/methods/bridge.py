"""What passes between two experts beside a clean estimate: a time, and noise to look through.

Part of ConFiner (Li et al., 2024, arXiv:2408.13423, Eq. 9 and 11) and of the methods beside it.
"""

from dataclasses import dataclass

from torch import Tensor

from dovetail.core.noise import Noise
from dovetail.core.schedules import VariancePreserving
from dovetail.methods.consistent import Consistent


@dataclass(frozen=True)
class SameIndex:
    """The paper's clock: the temporal expert is told the same timestep, whatever its noise share.

    Raises ValueError unless both tables have the same number of timesteps.
    """

    spatial: VariancePreserving
    temporal: VariancePreserving

    def __post_init__(self) -> None:
        ticks = [len(schedule.alphas_cumprod) for schedule in (self.spatial, self.temporal)]
        if ticks[0] != ticks[1]:
            raise ValueError(f"clock 'index' needs one number of timesteps, not {ticks[0]} and {ticks[1]}; use 'snr'")

    def __call__(self, t: float) -> float:
        return self.temporal.share(self.spatial.native(t))


@dataclass(frozen=True)
class SameSNR:
    """Equal noise shares for both experts, so equal signal-to-noise ratios on any two schedules."""

    def __call__(self, t: float) -> float:
        return t


Clock = SameIndex | SameSNR


def eps_between(x: Tensor, t: float, frames: Tensor, noise: Noise | Consistent, fresh: bool) -> tuple[Tensor, Tensor]:
    """The noise, shaped like x, through which estimates at t are shown: on the way there, and on the way back.

    fresh: drawn for this level and way; else the noise of the hand-over, both ways: that which windows start from, where
    they share it.
    """
    drawn = noise.eps if isinstance(noise, Consistent) else noise.like
    if fresh:
        return drawn(x, frames, "there", t), drawn(x, frames, "back", t)
    start = drawn(x, frames, "start")
    return start, start
