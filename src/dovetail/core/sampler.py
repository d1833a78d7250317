"""Walk a denoiser down a ladder of noise levels, one state at a time.

`sample` is a generator: progress, preview, checkpoint and cancel are its caller's loop. A caller
may send a changed latent back, and may resume from the last states.
"""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from dovetail.core.denoiser import Denoiser
from dovetail.core.ladders import interval
from dovetail.core.noise import Noise
from dovetail.core.path import Split, mix, split


@dataclass(frozen=True, eq=False)
class State:
    """A moment of a run: the noise share, the latent "b c f h w" there, and what the denoiser saw in it.

    The run goes on from `seen.mix(t)`. That is x, unless the denoiser is a method that replaces its latent.
    """

    t: float
    x: Tensor
    seen: Split


class Solver(Protocol):
    """How to go from level to level. Solvers are values: their memory is the states before."""

    @property
    def memory(self) -> int:
        """How many states before the present one the solver looks at."""
        ...

    def correct(self, before: Sequence[State], now: State, frames: Tensor) -> State:
        """The present state, its latent and the noise in it improved by what was just seen there."""
        ...

    def predict(self, before: Sequence[State], now: State, to: float, frames: Tensor) -> Tensor:
        """The latent at the next level."""
        ...


def sample(
    denoise: Denoiser,
    x: Tensor,
    frames: Tensor,
    levels: Sequence[float],
    solver: Solver,
    before: Sequence[State] = (),
) -> Generator[State, Tensor | None, Tensor]:
    """Yield a state at every level but the last, and return the latent at the last. When that level
    is 0, this is the last state's `seen.x0`.

    x: path latent "b c f h w" at levels[0]; frames: "b f"; levels: falling noise shares.
    To resume after state k, pass x = solver.predict(...) to levels[k + 1] and the last states as
    `before`. A tensor sent to the generator replaces the latent at the next level.
    """
    for t, to in pairwise(levels):
        now, x, before = step(denoise, x, frames, (t, to), solver, before)
        sent = yield now
        x = x if sent is None else sent
    return x


@torch.no_grad()
def step(
    denoise: Denoiser,
    x: Tensor,
    frames: Tensor,
    levels: tuple[float, float],
    solver: Solver,
    before: Sequence[State] = (),
) -> tuple[State, Tensor, tuple[State, ...]]:
    """One step of `sample`, from the first of two levels to the second: the state at the first, the latent at the
    second, and the states that the next step is given as `before`."""
    t, to = levels
    now = solver.correct(before, State(t, x, denoise(x, t, frames)), frames)
    x = solver.predict(before, now, to, frames)
    return now, x, latest((*before, now), solver.memory)


def latest(states: Sequence[State], count: int) -> tuple[State, ...]:
    """The last `count` states."""
    return tuple(states[-count:]) if count else ()  # states[-0:] would be all of them


@runtime_checkable
class Walk(Protocol):
    """A method that goes by what earlier steps showed, and so is no denoiser: a sampler of its own.

    Its memory is in the states that it yields, so a walk that is resumed from the last states goes on as it would
    have. Arguments and answer are those of `sample`.
    """

    def walk(
        self, x: Tensor, frames: Tensor, levels: Sequence[float], solver: Solver, before: Sequence[State] = ()
    ) -> Generator[State, Tensor | None, Tensor]: ...


@dataclass(frozen=True, eq=False)
class Carrying(State):
    """A state, and the carry with which a walk leaves it: what it has found so far, and goes by."""

    carry: Any = None


Carry = TypeVar("Carry")


def scan(
    look: Callable[[Tensor, float, Tensor, Carry], tuple[Split, Carry]],
    carry: Carry,
    x: Tensor,
    frames: Tensor,
    levels: Sequence[float],
    solver: Solver,
    before: Sequence[State] = (),
) -> Generator[State, Tensor | None, Tensor]:
    """`sample`, by a `look` that takes a carry, and answers what is seen and the carry after it: a scan over the levels.

    carry: the first; a run that is resumed goes on with that of the last state.
    """
    carry = before[-1].carry if before and isinstance(before[-1], Carrying) else carry
    for t, to in pairwise(levels):
        past = latest(before, solver.memory)
        with torch.no_grad():
            seen, carry = look(x, t, frames, carry)
            now = solver.correct(past, State(t, x, seen), frames)
            now = Carrying(now.t, now.x, now.seen, carry)
            x = solver.predict(past, now, to, frames)
        sent = yield now
        x = x if sent is None else sent
        before = latest((*before, now), max(solver.memory, 1))
    return x


def last(states: Iterable[State]) -> State:
    """The final state of a run."""
    return deque(states, maxlen=1).pop()


@dataclass(frozen=True)
class Euler:
    """Euler on a flow, DDIM (eta 0) on a DDPM: on the straight path they are one step."""

    memory: ClassVar[int] = 0

    def correct(self, before: Sequence[State], now: State, frames: Tensor) -> State:
        return now

    def predict(self, before: Sequence[State], now: State, to: float, frames: Tensor) -> Tensor:
        return now.seen.mix(to)


@dataclass(frozen=True)
class Ancestral(Euler):
    """Euler with fresh noise at each step, as k-diffusion's Euler ancestral (eta 1)."""

    noise: Noise = field(default_factory=lambda: Noise(0))

    def predict(self, before: Sequence[State], now: State, to: float, frames: Tensor) -> Tensor:
        if to == 0:
            return now.seen.x0
        # In sigma = t / (1 - t): of the variance at `to`, up is new and down is kept.
        ratio = 0.0 if now.t == 1 else (to / (1 - to)) / (now.t / (1 - now.t))
        up, down = math.sqrt(1 - ratio**2), ratio
        fresh = self.noise.like(now.x, frames, "ancestral", now.t)
        return mix(now.seen.x0, down * now.seen.eps + up * fresh, to)


@dataclass(frozen=True)
class Forgetting:
    """A solver that forgets, at each boundary, what was seen above it: the step there is of first order.

    For denoisers that change into others at these noise shares; see `interval`.
    """

    solver: Solver
    boundaries: tuple[float, ...]

    @property
    def memory(self) -> int:
        return self.solver.memory

    def correct(self, before: Sequence[State], now: State, frames: Tensor) -> State:
        return self.solver.correct(self._since(before, now), now, frames)

    def predict(self, before: Sequence[State], now: State, to: float, frames: Tensor) -> Tensor:
        return self.solver.predict(self._since(before, now), now, to, frames)

    def _since(self, before: Sequence[State], now: State) -> Sequence[State]:
        here = interval(now.t, self.boundaries)
        return [state for state in before if interval(state.t, self.boundaries) == here]


def gain(t: float, to: float) -> float:
    """How much log(alpha / sigma) grows from t down to `to`; inf from pure noise."""
    return math.inf if t == 1 else math.log((1 - to) / to * t / (1 - t))


@dataclass(frozen=True)
class DPMSolver2M(Euler):
    """DPM-Solver++(2M): x0 extrapolated along log-SNR. Lu et al., 2022, arXiv:2211.01095, Alg. 2."""

    memory: ClassVar[int] = 1

    def predict(self, before: Sequence[State], now: State, to: float, frames: Tensor) -> Tensor:
        # From the latent that was seen last: a method may have replaced the one it was given.
        return split(now.seen.mix(now.t), extrapolated(before, now, to), now.t).mix(to)


def extrapolated(before: Sequence[State], now: State, to: float) -> Tensor:
    """x0 at the middle of the next step, on a line through the last two. The first step has only one
    estimate to go by; the last, endless in log-SNR, trusts the newest."""
    if not before or to == 0:
        return now.seen.x0
    ahead = 0.5 * gain(now.t, to) / gain(before[-1].t, now.t)
    return before[-1].seen.x0.lerp(now.seen.x0, 1 + ahead)


@dataclass(frozen=True)
class UniPC(DPMSolver2M):
    """UniPC of order 2 with B(h) = e^h - 1 ("bh2"), x0 prediction. Zhao et al., 2023, arXiv:2302.04867.

    Its predictor is DPM-Solver++(2M). Its corrector repeats the last step with what was seen at its
    end: x0 there becomes m + rho_1 (m' - m) / r + rho_2 (seen - m), rho solving Eq. 10 of the paper.
    The latent, and what was seen in it, are moved by what that changes; so a latent that was replaced
    since, by a method or by the caller, stays replaced.
    """

    memory: ClassVar[int] = 2

    def correct(self, before: Sequence[State], now: State, frames: Tensor) -> State:
        if not before:
            return now
        start, h = before[-1], gain(before[-1].t, now.t)
        x0, change = start.seen.x0, now.seen.x0 - start.seen.x0
        if len(before) == 1:
            x0 = x0 + 0.5 * change
        else:
            r = -gain(before[-2].t, start.t) / h
            ours, theirs = _rho(h, r)
            x0 = x0 + theirs * (before[-2].seen.x0 - x0) / r + ours * change
        # Both steps leave from one latent, so they end apart by this share of what they think of x0.
        moved = (1 - now.t / start.t) * (x0 - extrapolated(before[:-1], start, now.t))
        return State(now.t, now.x + moved, Split(now.seen.x0, now.seen.eps + moved / now.t))


def _rho(h: float, r: float) -> tuple[float, float]:
    """(rho_2, rho_1) of UniC-2: rho_1 + rho_2 = b_1 and r rho_1 + rho_2 = b_2."""
    phi = math.expm1(-h)
    first = phi / -h - 1
    second = first / -h - 0.5
    b1, b2 = first / phi, 2 * second / phi
    rho_1 = (b1 - b2) / (1 - r)
    return b1 - rho_1, rho_1
