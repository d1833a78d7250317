"""FlowBlending without calibration: look now and then whether the small expert would do, and let it.

    r_k = |u_L(x_k) - u_S(x_k)| / |u_L(x_k)|,    u = eps - x0

    S takes over once r_k was below `enter` for some probes in a row, L once r_k is above `leave` >= enter

Beyond the paper (Song et al., 2025, arXiv:2512.24724), which finds its boundaries beforehand. What was found is kept in
the states, not in the method, so this is a walk: docs/decisions/0012-walks.md.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from dovetail.core.denoiser import Denoiser
from dovetail.core.path import Split
from dovetail.core.sampler import Solver, State, scan


@dataclass(frozen=True)
class Lead:
    """Who leads, what the last probe measured, how many in a row were calm, and how many steps ago the last one was."""

    small: bool = False
    apart: float | None = None
    calm: int = 0
    since: int = 0


@dataclass(frozen=True)
class Probing:
    """Walk of a large and a small denoiser.

    The large one leads at first; at every `often`-th step the small one is asked as well. After `calm` probes in a row
    with r below `enter` the small one leads; then the large one is asked at every `seldom`-th step, and leads again
    once r is above `leave`, and from t = `late` down in any case. Where both were asked, the large one's answer counts.
    r is one number for the whole batch.
    """

    large: Denoiser
    small: Denoiser
    enter: float
    leave: float
    often: int = 2
    seldom: int = 5
    calm: int = 2
    late: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.enter <= self.leave or not 0 <= self.late <= 1:
            raise ValueError(
                f"a switch with hysteresis enters at no more than it leaves at, and late lies in [0, 1]; not enter "
                f"{self.enter:g}, leave {self.leave:g}, late {self.late:g}"
            )

    def walk(
        self, x: Tensor, frames: Tensor, levels: Sequence[float], solver: Solver, before: Sequence[State] = ()
    ) -> Generator[State, Tensor | None, Tensor]:
        return scan(self.look, Lead(), x, frames, levels, solver, before)

    def look(self, x: Tensor, t: float, frames: Tensor, lead: Lead) -> tuple[Split, Lead]:
        """What is seen at t under this lead, and the lead after it."""
        if t <= self.late:
            return self.large(x, t, frames), Lead()
        if lead.since + 1 < (self.seldom if lead.small else self.often):
            leads = self.small if lead.small else self.large
            return leads(x, t, frames), replace(lead, since=lead.since + 1)
        ours, theirs = self.large(x, t, frames), self.small(x, t, frames)
        apart = divergence(ours, theirs)
        calm = lead.calm + 1 if apart < self.enter else 0
        small = apart <= self.leave if lead.small else calm >= self.calm
        return ours, Lead(small, apart, calm, 0)


def divergence(large: Split, small: Split) -> float:
    """r: how far apart two velocities are, relative to the first."""
    ours, theirs = large.eps - large.x0, small.eps - small.x0
    return float((ours - theirs).norm() / ours.norm())
