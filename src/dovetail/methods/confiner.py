"""ConFiner: coordinated denoising. Li et al., 2024, arXiv:2408.13423, section 3.4, Eq. 8-11.

A spatial and a temporal expert that keep different clocks agree on x0. Each hands the other a
clean estimate, and the receiver looks at it again through noise of its own:

    a <- spatial(x, t)                             Eq. 8
    b <- temporal(mix(a, eps_there, t'), t')       Eq. 9, 10
    seen <- spatial(mix(b, eps_back, t), t)        Eq. 11; the sampler then leaves t from here

Readings of what the paper leaves open: docs/methods/confiner.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from dovetail.core.denoiser import Denoiser
from dovetail.core.ladders import Ladder
from dovetail.core.noise import Noise
from dovetail.core.path import Split, mix
from dovetail.core.schedules import VariancePreserving


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


@dataclass(frozen=True)
class Mask:
    """A yes or no for each step of a ladder, known by the level at which the step starts.

    A level is found by the nearest one, so rounding cannot turn a yes into a no.

    >>> from dovetail.core.ladders import even
    >>> mask = Mask.of(even(2), [True, False])
    >>> mask(0.9999), mask(0.5)
    (True, False)
    """

    levels: tuple[float, ...]
    answers: tuple[bool, ...]

    @classmethod
    def of(cls, ladder: Ladder, answers: Sequence[bool]) -> "Mask":
        """Raises ValueError unless there is one answer per step."""
        return cls(ladder.levels[:-1], tuple(answers))

    def __post_init__(self) -> None:
        if not self.levels or len(self.levels) != len(self.answers):
            raise ValueError(f"a mask needs an answer per step: {len(self.answers)} for {len(self.levels)} steps")

    def __call__(self, t: float) -> bool:
        return self.answers[min(range(len(self.levels)), key=lambda step: abs(self.levels[step] - t))]


@dataclass(frozen=True)
class Coordinated:
    """Denoiser of a spatial and a temporal denoiser: two calls of the first, one of the second.

    noise: the stage's own, `Noise(seed).of(stage)`. fresh: draw anew at every step and direction, as
    printed; else one eps per pass, the very one that the hand-over (Eq. 6) added. steps: which steps
    of the ladder are coordinated, all by default; the others are the spatial expert's alone.
    """

    spatial: Denoiser
    temporal: Denoiser
    noise: Noise
    clock: Clock = field(default_factory=SameSNR)
    fresh: bool = False
    steps: Mask | None = None

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        if self.steps is not None and not self.steps(t):
            return self.spatial(x, t, frames)
        there = self.clock(t)
        a = self.spatial(x, t, frames).x0
        eps_there = eps_between(x, t, frames, "there", self.noise, self.fresh)
        b = self.temporal(mix(a, eps_there, there), there, frames).x0
        eps_back = eps_between(x, t, frames, "back", self.noise, self.fresh)
        return self.spatial(mix(b, eps_back, t), t, frames)


def eps_between(x: Tensor, t: float, frames: Tensor, way: str, noise: Noise, fresh: bool) -> Tensor:
    """The noise, shaped like x, through which an estimate at t is shown on its way "there" or "back"."""
    return noise.like(x, frames, way, t) if fresh else noise.like(x, frames, "start")
