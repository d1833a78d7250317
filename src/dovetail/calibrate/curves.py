"""How far candidates are from the large expert, at each step of the large expert's own trajectory.

On the straight path u = eps - x0 is dx/dt. At a level t, going to t', for a candidate that says u where the large
expert says u_L of the same latent:

    velocity    |u - u_L| / |u_L|                       FlowBlending's divergence
    cosine      1 - cos(u, u_L)
    video       |x0 - x0_L| = t |u - u_L|               root mean square
    state       |t' - t| |u - u_L|                      root mean square; what enters the trajectory
    gain        |V(x' + d) - V(x')| / |d|,              d = (t' - t) (u - u_L), x' the latent at t'

V is the large expert's way from x' to the video, in a few looks or many. In a single look V is its x0 at t', which
hardly moves early on, when nothing is decided yet: that underrates the errors that decide.

The same x0 error is a large u error at small t, so a curve's shape hangs on which of them is drawn.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from dovetail.core.combine import Guided
from dovetail.core.denoiser import Denoiser, Prompted
from dovetail.core.ladders import Ladder
from dovetail.core.path import Split
from dovetail.core.sampler import Euler, Solver, State, last, latest, sample, step

VIEWS = ("guided", "conditional", "unconditional")


@dataclass(frozen=True)
class Gap:
    """How far a candidate's answer is from the large expert's. See the module's table."""

    velocity: float
    cosine: float
    video: float
    state: float

    @classmethod
    def of(cls, ours: Split, theirs: Split, t: float, to: float) -> "Gap":
        """ours: the large expert's answer at t; theirs: the candidate's to the same latent."""
        u, v = ((seen.eps - seen.x0).double() for seen in (ours, theirs))
        apart, size = float((v - u).norm()), math.sqrt(u.numel())
        cosine = float((u * v).sum() / (u.norm() * v.norm()))
        video = float((theirs.x0.double() - ours.x0.double()).norm())
        return cls(apart / float(u.norm()), 1 - cosine, video / size, abs(t - to) * apart / size)


@dataclass(frozen=True)
class Measured:
    """One step of the large expert: the gaps of each candidate in each view, and how much of a candidate's state error
    is left in the final video. A gain is None where there is no error to follow."""

    step: int
    t: float
    gaps: Mapping[str, Mapping[str, Gap]]
    gains: Mapping[str, float | None]


def views(denoise: Denoiser, x: Tensor, t: float, frames: Tensor) -> dict[str, Split]:
    """What a denoiser sees: guided, and, where it is an expert in plain guidance or none, by each branch alone."""
    if isinstance(denoise, Guided):
        positive, negative = denoise.positive(x, t, frames), denoise.negative(x, t, frames)
        guided = negative.lerp(positive, denoise.scale)
        return {"guided": guided, "conditional": positive, "unconditional": negative}
    seen = denoise(x, t, frames)
    return {"guided": seen, "conditional": seen} if isinstance(denoise, Prompted) else {"guided": seen}


@torch.no_grad()
def measure(
    large: Denoiser,
    candidates: Mapping[str, Denoiser],
    x: Tensor,
    frames: Tensor,
    ladder: Ladder,
    solver: Solver,
    follow: int = 1,
    leaving: Sequence[Denoiser] = (),
) -> Iterator[Measured]:
    """Walk the large denoiser down a ladder from x, and look at every latent with every candidate too.

    follow: in how many looks, at most, a gain's way to the video is walked; each step costs a call of everyone, and of the
    large denoiser `follow` more per candidate, and `follow` - 1 for all of them. With as many looks as steps are left
    the way is the solver's own; with fewer, Euler's over every so many levels. leaving: denoisers to show each latent
    last, which leave there what candidates reuse in the step after it.
    """
    before: tuple[State, ...] = ()
    ours = views(large, x, ladder.levels[0], frames)
    for k, (t, to) in enumerate(pairwise(ladder.levels)):
        now = solver.correct(before, State(t, x, ours["guided"]), frames)
        following = solver.predict(before, now, to, frames)
        theirs = {name: views(denoise, x, t, frames) for name, denoise in candidates.items()}
        for denoise in leaving:
            views(denoise, x, t, frames)
        gaps = {
            name: {view: Gap.of(ours[view], seen[view], t, to) for view in VIEWS if view in ours and view in seen}
            for name, seen in theirs.items()
        }
        before = latest((*before, now), solver.memory)
        rest = _Rest(large, frames, ladder.levels[k + 1 :], solver, before, following, follow)
        errors = {name: (to - t) * _apart(ours["guided"], seen["guided"]) for name, seen in theirs.items()}
        gains = {name: rest.gain(error, t, to) for name, error in errors.items()}
        yield Measured(k, t, gaps, gains)
        if rest.levels[1:]:
            x, ours = following, rest.seen


def _apart(ours: Split, theirs: Split) -> Tensor:
    return (theirs.eps - theirs.x0) - (ours.eps - ours.x0)


@dataclass(frozen=True, eq=False)
class _Rest:
    """What the large denoiser has before it after a step."""

    large: Denoiser
    frames: Tensor
    levels: Sequence[float]
    solver: Solver
    before: Sequence[State]
    x: Tensor
    follow: int

    @cached_property
    def seen(self) -> dict[str, Split]:
        """What it sees next, which the walk goes on with."""
        return views(self.large, self.x, self.levels[0], self.frames)

    def gain(self, error: Tensor, t: float, to: float) -> float | None:
        size = float(error.norm())
        if size == 0:
            return None
        if not self.levels[1:]:  # The last step: a stage hands over x0 as it was seen there.
            return t / (t - to)
        pushed = self.x + error
        seen = views(self.large, pushed, self.levels[0], self.frames)
        return float((self.video(pushed, seen["guided"]) - self.straight).norm()) / size

    @cached_property
    def straight(self) -> Tensor:
        return self.video(self.x, self.seen["guided"])

    def video(self, x: Tensor, seen: Split) -> Tensor:
        """The way from x, of which the first look is taken: both ways' is one of `views`, so that they round alike."""
        steps, levels, solver, before = len(self.levels) - 1, self.levels, self.solver, self.before
        if self.follow < steps:
            levels = [self.levels[round(i * steps / self.follow)] for i in range(self.follow + 1)]
            solver, before = Euler(), ()
        now, x, before = step(lambda *_: seen, x, self.frames, (levels[0], levels[1]), solver, before)
        if levels[2:]:
            now = last(sample(self.large, x, self.frames, levels[1:], solver, before))
        return now.seen.x0
