"""Ladders: the noise shares that a run visits, and how its first latent is made.

Levels are stored as t, so a ladder means the same on any schedule. The first latent is
`first * eps`: on the path itself that is t * eps; a DDPM pipeline starts from unit noise in
native latents, which is eps / scale(t) here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dovetail.core.schedules import Schedule


@dataclass(frozen=True)
class Ladder:
    """Falling levels in [0, 1], and the factor that makes the first latent from unit noise.

    >>> even(4).levels
    (1.0, 0.75, 0.5, 0.25, 0.0)
    """

    levels: tuple[float, ...]
    first: float

    def __post_init__(self) -> None:
        falling = all(a > b for a, b in zip(self.levels, self.levels[1:], strict=False))
        if len(self.levels) < 2 or not falling or self.levels[0] > 1 or self.levels[-1] < 0:
            raise ValueError(f"a ladder has two levels or more in [0, 1], each below the one before: {self.levels}")

    @property
    def steps(self) -> int:
        return len(self.levels) - 1

    def between(self, step: int) -> float:
        """A boundary before a step (from 0): midway between its level and the one before, so that rounding moves no
        step across it. Before the first step it is 1; after the last, midway to the ladder's end.

        >>> even(4).between(1), even(4).between(4)
        (0.875, 0.125)
        """
        return 1.0 if step == 0 else (self.levels[step - 1] + self.levels[step]) / 2


def levels(shares: Sequence[float]) -> Ladder:
    """These noise shares, as they are; the first latent is mixed at the first of them."""
    return Ladder(tuple(shares), shares[0])


def even(steps: int, start: float = 1.0) -> Ladder:
    """Equal steps of t from `start` to 0: a flow model's plain ladder."""
    return levels([start * (1 - i / steps) for i in range(steps + 1)])


def shifted(steps: int, shift: float) -> Ladder:
    """Equal steps, warped towards noise: t -> s t / (1 + (s - 1) t). Esser et al., 2024, Eq. 23."""
    return levels([shift * t / (1 + (shift - 1) * t) for t in even(steps).levels])


def karras(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Ladder:
    """sigma^(1/rho) in equal steps, then 0. Karras et al., 2022, arXiv:2206.00364, Eq. 5."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    sigmas = [(high + i / (steps - 1) * (low - high)) ** rho for i in range(steps)] if steps > 1 else [sigma_max]
    return levels([sigma / (1 + sigma) for sigma in sigmas] + [0.0])


def timesteps(schedule: Schedule, times: Sequence[float], unit: bool = True) -> Ladder:
    """Native timesteps of a schedule, then 0. `unit`: the first latent is unit noise in native
    latents, as DDIM and DPM-Solver pipelines have it; else noise is mixed in at the first level."""
    shares = [schedule.share(time) for time in times]
    return Ladder((*shares, 0.0), 1 / schedule.scale(shares[0]) if unit else shares[0])


def trailing(schedule: Schedule, steps: int, ticks: int = 1000, unit: bool = True) -> Ladder:
    """diffusers' "trailing" spacing: round(ticks - i * ticks / steps) - 1, from the last timestep."""
    # The stride as numpy.arange has it: halves are then rounded to the side that diffusers rounds them to.
    stride = ticks - (ticks - ticks / steps)
    return timesteps(schedule, [round(ticks - i * stride) - 1 for i in range(steps)], unit)


def leading(schedule: Schedule, steps: int, ticks: int = 1000, offset: int = 0) -> Ladder:
    """diffusers' "leading" spacing: multiples of ticks // steps, plus `steps_offset`."""
    ratio = ticks // steps
    return timesteps(schedule, [i * ratio + offset for i in reversed(range(steps))])


def below(schedule: Schedule, timestep: int, steps: int) -> Ladder:
    """Equal steps of the schedule's own time, from T_e = `timestep` (one-based) down to the video.

    T_e * k / steps for k = steps .. 1, minus one: with T_e 100 and 5 steps 99, 79, 59, 39, 19, then 0.
    ConFiner section 3.4; our reading in docs/methods/confiner.md.
    Raises ValueError when there are more steps than timesteps.
    """
    if not 0 < steps <= timestep:
        raise ValueError(f"below timestep {timestep} there is room for 1..{timestep} steps, not {steps}")
    times = [round(timestep * k / steps) - 1 for k in range(steps, 0, -1)]
    return timesteps(schedule, times, unit=False)


def spliced(ladder: Ladder, own: Ladder, early: float, late: float) -> Ladder:
    """One ladder with another's levels between two boundaries: a distilled expert's few, inside a large one's many.

    What starts in (late, early] is replaced, but for its first level, at which the walk arrives. Of `own` only the
    levels below that one and above `late` count. Raises ValueError for boundaries that do not fall inside [0, 1], or
    have no level of the ladder between them.

    >>> spliced(even(8), even(3), 0.8, 0.3).levels
    (1.0, 0.875, 0.75, 0.6666666666666667, 0.33333333333333337, 0.25, 0.125, 0.0)
    """
    inside = [level for level in ladder.levels if late < level <= early]
    if not 1 >= early > late >= 0 or not inside:
        raise ValueError(
            f"a ladder is spliced between boundaries in [0, 1], the second below the first, with a level between them, not {early:g}, {late:g}"
        )
    above = tuple(level for level in ladder.levels if level > early)
    below = tuple(level for level in ladder.levels if level <= late)
    middle = tuple(level for level in own.levels if late < level < inside[0])
    return Ladder((*above, inside[0], *middle, *below), ladder.first)


def interval(t: float, boundaries: Sequence[float]) -> int:
    """The place, from 0 at the noisy end, of t among the intervals that falling boundaries leave; a boundary itself
    belongs below.

    >>> [interval(t, (0.8, 0.3)) for t in (1.0, 0.8, 0.3)]
    [0, 1, 2]
    """
    return sum(t <= boundary for boundary in boundaries)


@dataclass(frozen=True)
class Mask:
    """A yes or no for each step of a ladder, known by the level at which the step starts.

    A level is found by the nearest one, so rounding cannot turn a yes into a no.

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
