"""Long video that goes on: a window begins with frames of the one before, and what is new in it with what stood still there.

    x_t[known] <- mix(tail, eps, t),  x0[known] <- tail           at every level: re-injection, reinjected.py
    x0[new]    <- median frame of the window before               where t > below, and nobody is asked

At pure noise an expert decides by the noise where things are and where they are bound to. Frames that are known say
nothing of it there, since they are noise as well, so re-injected tails are gone on with from another place. Without
that level new frames are first looked at where known ones show beside them, and what moves goes on. Beyond the papers.
"""

from dataclasses import dataclass

from torch import Tensor

from dovetail.core.denoiser import Denoiser
from dovetail.core.hold import frame
from dovetail.core.noise import Noise
from dovetail.core.path import Split, split
from dovetail.core.stages import Segment
from dovetail.methods.reinjected import Continued


@dataclass(frozen=True)
class Onward:
    """Sequel of a denoiser, for windows that overlap: frames that the window before has made are known, and what moves
    in them goes on.

    noise: the stage's own. below: experts are asked for new frames where t is at most this. Raises ValueError if it is
    not between 0 and 1.
    """

    denoise: Denoiser
    noise: Noise
    below: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.below < 1:
            raise ValueError(
                f"below lies between 0 and 1, {self.below} does not; at 1 every level is asked (reinjected)"
            )

    def after(self, before: Segment | None) -> Denoiser:
        return self.denoise if before is None else Going(Continued(self.denoise, self.noise, before), self.below)


@dataclass(frozen=True, eq=False)
class Going:
    """Denoiser of one window, which goes on from the window before it."""

    on: Continued
    below: float

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        if t <= self.below:
            return self.on(x, t, frames)
        still = frame(self.on.before.states[-1].seen.x0).expand_as(x)
        return split(x, self.on.given(still, frames), t)
