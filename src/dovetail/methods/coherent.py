"""ConFiner-Long's coherence guidance. Li et al., 2024, arXiv:2408.13423, Eq. 12.

    eps'_t = eps_t - gamma grad ||eps_t - before_t||^2       grad by eps_t itself, so 2 (eps_t - before_t)
           = lerp(eps_t, before_t, lambda),                  lambda = 2 gamma

before_t is the noise that the segment before left the same level with; no network is asked for a gradient. A segment is
thus made in view of the one before, which the chain hands over: docs/decisions/0013-segments.md. Readings, and what
the paper leaves open (lambda, which frame goes with which, normalisation): docs/methods/confiner-long.md.

Beyond the paper, what stands still is held:

    x0'_t = x0_t + hold (mean before_t - mean x0_t),         means over the frames of a segment, before_t now x0's

Noise says nothing of what was decided from it, and the first level decides on most of what a prompt leaves open. The
mean of x0 over frames says what is common to them, at any level, and leaves all that moves free.
"""

from dataclasses import dataclass

from torch import Tensor

from dovetail.core.denoiser import Denoiser
from dovetail.core.path import Split, split
from dovetail.core.stages import Segment
from dovetail.methods.consistent import Consistent

ALIGNMENTS = ("aligned", "literal", "mean")


@dataclass(frozen=True)
class Coherent:
    """Sequel of a denoiser: the noise it sees is drawn to what the segment before had at the same level.

    strength: lambda, 2 gamma; 0 is no guidance, 1 takes the noise of the segment before. align: with which frame a frame
    is compared: "aligned", the one that started from the same frame of the base noise; "literal", the one at the
    same place; "mean", all together, by their means. start: the stage's consistency initialisation, which knows what
    started where; without it "aligned" is "literal". above, below: guided is where above < t <= below. renormalised: the
    noise keeps its deviation. direction: x0 stays as it was seen, and only the step's direction changes; else x0
    follows from the latent and its new noise, as in the paper, which needs below < 1. hold: how far the mean frame of x0
    is drawn to that of the segment before, at every level; 0 is not at all, 1 makes it the same.

    Raises ValueError for an unknown alignment and a range that reaches t = 1.
    """

    denoise: Denoiser
    strength: float
    align: str = "aligned"
    start: Consistent | None = None
    above: float = 0.0
    below: float = 5 / 6
    renormalised: bool = True
    direction: bool = False
    hold: float = 0.0

    def __post_init__(self) -> None:
        if self.align not in ALIGNMENTS:
            raise ValueError(f"align is one of {', '.join(ALIGNMENTS)}, not {self.align!r}")
        if self.below >= 1 and not self.direction:
            raise ValueError(
                "pure noise says nothing of x0, so below must be less than 1; or set direction, which keeps x0 as seen"
            )

    def after(self, before: Segment | None) -> Denoiser:
        return self.denoise if before is None or self.strength == self.hold == 0 else Drawn(self, before)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Denoiser of one segment, drawn to the one before it."""

    how: Coherent
    before: Segment

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        how, seen = self.how, self.how.denoise(x, t, frames)
        then = next((state.seen for state in self.before.states if state.t == t), None)
        if then is None:
            return seen
        if how.hold:
            seen = split(x, toward(seen.x0, then.x0, how.hold), t)
        return self._guided(seen, then, t, frames) if how.strength and how.above < t <= how.below else seen

    def _guided(self, seen: Split, then: Split, t: float, frames: Tensor) -> Split:
        """Eq. 12."""
        how = self.how
        if how.align == "mean":
            eps = toward(seen.eps, then.eps, how.strength)
        else:
            eps = seen.eps.lerp(then.eps[:, :, self._fellows(frames)], how.strength)
        if how.renormalised:
            eps = eps * (deviation(seen.eps) / deviation(eps))
        return Split(seen.x0 if how.direction else eps.lerp(seen.mix(t), 1 / (1 - t)), eps)

    def _fellows(self, frames: Tensor) -> list[int]:
        """For each frame, the place in the segment before of the frame that it is compared with."""
        length = self.before.frames.shape[1]
        places = [place % length for place in range(frames.shape[1])]
        if self.how.align == "literal" or self.how.start is None:
            return places
        theirs = self.how.start.source(self.before.frames)[0].tolist()
        ours = self.how.start.source(frames)[0].tolist()
        return [theirs.index(base) if base in theirs else place for base, place in zip(ours, places, strict=True)]


def toward(ours: Tensor, theirs: Tensor, strength: float) -> Tensor:
    """`ours` "b c f h w" with its mean over frames drawn to that of `theirs`."""
    return ours + strength * (theirs.mean(2, keepdim=True) - ours.mean(2, keepdim=True))


def deviation(eps: Tensor) -> Tensor:
    """The standard deviation of each row, "b 1 1 1 1"."""
    return eps.std((1, 2, 3, 4), keepdim=True)
