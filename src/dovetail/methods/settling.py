"""SynCoS that finds its floor and its stride as it goes. Beyond the paper (Kim et al., 2025, arXiv:2503.08605), which is given both.

    q_k = spread(x0 after stage 2) / spread(x0 before it)     spread: how far apart windows look, coarsely
    stage 2 has done its work once q_k >= 1 - gain after it was less, or nothing is left of the spread, for `calm` levels
    in a row

    e_k = |D_i - FUSE(D)| / |FUSE(D)| on the frames that windows share
    the next level's stride is the next narrower one if e_k > seam, while stage 2 acts

Both are measured on what is seen anyway. What was found is kept in the states, so this is a walk:
docs/decisions/0012-walks.md.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from torch import Tensor

from dovetail.core.path import Split
from dovetail.core.sampler import Solver, State, scan
from dovetail.core.windows import scatter, tile
from dovetail.methods.reaching import seam, spread
from dovetail.methods.syncos import Coupled

NOTHING = 0.01
"""Looks that lie apart by less than this part of the video's own size agree."""


@dataclass(frozen=True)
class Accord:
    """Whether stage 2 has brought windows nearer to each other, how many levels in a row it then did not, whether that
    ended it, and which stride is taken, counted from the widest. quotient, seam: what the last level measured."""

    fell: bool = False
    calm: int = 0
    settled: bool = False
    narrowed: int = 0
    quotient: float | None = None
    seam: float | None = None


@dataclass(frozen=True)
class Settling:
    """Walk of coupled windows.

    coupled: its floor still holds; 0 leaves the end of stage 2 to what is found. calm: None keeps to that floor alone.
    strides: from wide to narrow, the first of which it begins with; none are the windows' own. The numbers measured are
    one for the whole batch. Raises ValueError for strides that do not fall.
    """

    coupled: Coupled
    calm: int | None = 2
    gain: float = 0.05
    strides: tuple[int, ...] = ()
    seam: float = 0.1

    def __post_init__(self) -> None:
        if any(wide <= narrow for wide, narrow in pairwise(self.strides)):
            raise ValueError(f"strides fall from wide to narrow; these do not: {self.strides}")

    def walk(
        self, x: Tensor, frames: Tensor, levels: Sequence[float], solver: Solver, before: Sequence[State] = ()
    ) -> Generator[State, Tensor | None, Tensor]:
        return scan(self.look, Accord(), x, frames, levels, solver, before)

    def look(self, x: Tensor, t: float, frames: Tensor, accord: Accord) -> tuple[Split, Accord]:
        """What is seen at t, and what is known after it."""
        now = self.at(accord)
        if not now.acts(t):
            return now(x, t, frames), accord
        seen, accord = self._first(now, x, t, frames, accord)
        told = now.second(seen, t, frames)
        return told, self._judged(accord, seen.x0, told.x0)

    def at(self, accord: Accord) -> Coupled:
        """The method as it goes on from there; once windows have settled, all levels lie below its floor."""
        now = self.coupled
        if self.strides:
            now = replace(now, windows=replace(now.windows, stride=self.strides[accord.narrowed]))
        return replace(now, floor=1.0) if accord.settled else now

    def _first(self, now: Coupled, x: Tensor, t: float, frames: Tensor, accord: Accord) -> tuple[Split, Accord]:
        """Stage 1, and the stride of the level after."""
        windows = now.windows
        spans = tile(x.shape[2], windows.size, windows.stride)
        if accord.narrowed + 1 >= len(self.strides) or len(spans) == 1 or now.stages == "inner":
            return now.first(x, t, frames), accord
        rows, weight = windows.each(x, t, frames)
        seen = rows.map(lambda z: scatter(z, spans, weight, x.shape[2]))
        apart = seam(rows.x0, weight, spans, seen.x0)
        return seen, replace(accord, seam=apart, narrowed=accord.narrowed + (apart > self.seam))

    def _judged(self, accord: Accord, before: Tensor, after: Tensor) -> Accord:
        """What is known after stage 2 made one x0 of the other."""
        if self.calm is None:
            return accord
        size, stride = self.coupled.windows.size, self.coupled.windows.stride
        apart, left = spread(before, size, stride), spread(after, size, stride)
        if not apart:  # pure noise may tell all windows the same, whatever they will decide
            return accord
        little = left <= NOTHING * float(after.square().mean().sqrt())
        falls = left < (1 - self.gain) * apart
        calm = accord.calm + 1 if little or (accord.fell and not falls) else 0
        return replace(accord, calm=calm, settled=calm >= self.calm, fell=accord.fell or falls, quotient=left / apart)
