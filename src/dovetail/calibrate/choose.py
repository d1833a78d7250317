"""From what was measured to who takes which step. Plain numbers in, schedules out.

Candidate 0 is the large expert: it costs most and errs by 0. An error of a candidate at a step is gain times state
error; errors add up, as small ones do.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise, product

import torch
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """Who takes each step (places of candidates), what that costs, and the errors that add up."""

    choice: tuple[int, ...]
    cost: float
    error: float

    @classmethod
    def of(cls, choice: Sequence[int], costs: Sequence[float], errors: Sequence[Sequence[float]]) -> "Schedule":
        """costs: of a step, per candidate; errors: per candidate and step."""
        error = math.fsum(errors[who][step] for step, who in enumerate(choice))
        return cls(tuple(choice), math.fsum(costs[who] for who in choice), error)

    @property
    def switches(self) -> int:
        return sum(a != b for a, b in pairwise(self.choice))


def sandwich(steps: int, early: int, late: int, small: int = 1) -> tuple[int, ...]:
    """The large expert at the first `early` and the last `late` steps, another between."""
    return (0,) * early + (small,) * (steps - early - late) + (0,) * late


def knee(x: Sequence[float], y: Sequence[float]) -> int:
    """The place where a rising curve stops rising fast: farthest above the line between its ends.

    Satopaa et al., 2011 ("Kneedle"), for few points and so without its smoothing. A curve that nowhere lies above
    that line has its knee at the end that is higher; a flat one at its beginning.

    >>> knee([0, 1, 2, 3, 4], [0.0, 0.6, 0.9, 0.95, 1.0])
    2
    """
    rise = y[-1] - y[0]
    if rise <= 0:
        return 0
    above = [(b - y[0]) / rise - (a - x[0]) / (x[-1] - x[0]) for a, b in zip(x, y, strict=True)]
    best = max(range(len(x)), key=lambda i: above[i])
    return best if above[best] > 1e-9 else len(x) - 1


FEWEST = 6
"""Steps that three lines need: each has two points or more."""


def two_knots(levels: Sequence[float], divergence: Sequence[float]) -> tuple[int, int]:
    """Steps (i, j) such that log divergence, seen over t, is best drawn by three joined lines that meet before i and j.

    levels: where steps start; no threshold is needed. Least squares over all pairs; each line has two points or more.
    Raises ValueError for fewer than six steps, and where the experts never differ.
    """
    if len(levels) < FEWEST:
        raise ValueError(f"three lines need six steps or more, not {len(levels)}")
    if max(divergence) <= 0:
        raise ValueError("these experts never differ, so nothing says where to change; any boundary is as good")
    y = torch.tensor([max(r, 1e-12) for r in divergence], dtype=torch.float64).log()[:, None]
    knots, lines = _lines(tuple(levels))
    best, found = math.inf, (0, len(levels))
    for knot, rest in zip(knots, (y - lines @ (lines.mT @ y)).square().sum((1, 2)).tolist(), strict=True):
        if rest < best - 1e-12:
            best, found = rest, knot
    return found


@lru_cache(maxsize=8)
def _lines(levels: tuple[float, ...]) -> tuple[list[tuple[int, int]], Tensor]:
    """All pairs of steps at which three joined lines may meet, and for each an orthonormal basis of what they draw."""
    t = torch.tensor(levels, dtype=torch.float64)
    between = [(a + b) / 2 for a, b in pairwise(levels)]
    knots = [(i, j) for i, j in combinations(range(2, len(levels) - 1), 2) if j - i >= 2]
    hinges = [[(t - between[k - 1]).clamp(min=0) for k in pair] for pair in knots]
    bases = torch.stack([torch.stack([torch.ones_like(t), t, *pair], 1) for pair in hinges])
    return knots, torch.linalg.qr(bases).Q


def u_shaped(divergence: Sequence[float], cut: tuple[int, int]) -> bool:
    """Whether the geometric mean between two steps is below that on either side."""
    i, j = cut
    parts = [divergence[:i], divergence[i:j], divergence[j:]]
    if not all(parts):
        return False
    early, middle, late = (math.fsum(math.log(max(r, 1e-12)) for r in part) / len(part) for part in parts)
    return middle < min(early, late)


def interval(
    costs: Sequence[float],
    errors: Sequence[Sequence[float]],
    *,
    budget: float | None = None,
    error: float | None = None,
    small: int = 1,
) -> Schedule:
    """One interval of the small expert inside the large one's: least error within a cost, or least cost within an error.

    Raises ValueError where even the small expert at all steps costs more than `budget`.
    """
    steps = len(errors[0])
    spans = [(i, j) for i in range(steps + 1) for j in range(i, steps + 1)]
    tried = [Schedule.of(sandwich(steps, i, steps - j, small), costs, errors) for i, j in spans]
    if budget is not None:
        fits = [schedule for schedule in tried if schedule.cost <= budget * (1 + 1e-9)]
        if not fits:
            least = min(schedule.cost for schedule in tried)
            raise ValueError(f"no schedule costs {budget:g} or less; the least is {least:g}")
        return min(fits, key=lambda schedule: (schedule.error, schedule.cost))
    assert error is not None
    fits = [schedule for schedule in tried if schedule.error <= error * (1 + 1e-9)]
    return min(fits, key=lambda schedule: (schedule.cost, schedule.error))


Follows = Mapping[int, int]
"""Candidates that may only take a step right after another's: who, and after whom."""


def cheapest(
    costs: Sequence[float],
    errors: Sequence[Sequence[float]],
    price: float,
    follows: Follows | None = None,
) -> Schedule:
    """The schedule of least cost + price * error, by dynamic programming over steps and candidates."""
    after: Follows = {} if follows is None else follows
    everyone = range(len(costs))
    spent = [math.inf if who in after else costs[who] + price * errors[who][0] for who in everyone]
    came: list[list[int]] = []
    for step in range(1, len(errors[0])):
        best = min(everyone, key=lambda who: spent[who])
        stays = [spent[who] <= spent[best] for who in everyone]
        came.append([after.get(who, who if stays[who] else best) for who in everyone])
        spent = [spent[before] + costs[who] + price * errors[who][step] for who, before in enumerate(came[-1])]
    choice = [min(everyone, key=lambda who: spent[who])]
    for before in reversed(came):
        choice.append(before[choice[-1]])
    return Schedule.of(choice[::-1], costs, errors)


def frontier(
    costs: Sequence[float],
    errors: Sequence[Sequence[float]],
    follows: Follows | None = None,
) -> tuple[Schedule, ...]:
    """Every schedule that some price of error makes the best, dearest first: the convex edge of cost against error."""

    def between(dear: Schedule, cheap: Schedule) -> list[Schedule]:
        if dear.error >= cheap.error or dear.cost <= cheap.cost:
            return []
        price = (dear.cost - cheap.cost) / (cheap.error - dear.error)
        new = cheapest(costs, errors, price, follows)
        gain = dear.cost + price * dear.error - (new.cost + price * new.error)
        if gain <= 1e-9 * (abs(dear.cost) + 1):
            return []
        return [*between(dear, new), new, *between(new, cheap)]

    largest = max(costs) * len(errors[0])
    smallest = min((e for row in errors for e in row if e > 0), default=1.0)
    dear = cheapest(costs, errors, 1e6 * largest / smallest, follows)
    cheap = cheapest(costs, errors, 0.0, follows)
    return (dear, *between(dear, cheap), *([cheap] if cheap.choice != dear.choice else []))


def within(schedules: Sequence[Schedule], budget: float) -> Schedule:
    """The schedule of least error that costs no more than `budget`. Raises ValueError where none does."""
    fits = [schedule for schedule in schedules if schedule.cost <= budget * (1 + 1e-9)]
    if not fits:
        raise ValueError(f"no schedule costs {budget:g} or less; the least is {min(s.cost for s in schedules):g}")
    return min(fits, key=lambda schedule: (schedule.error, schedule.cost))


def mixture(
    costs: Sequence[float],
    errors: Sequence[Sequence[float]],
    *,
    budget: float,
    follows: Follows | None = None,
) -> Schedule:
    """Any candidate at any step: the best of the convex edge within a cost; what that leaves of it is then spent, for as
    long as other candidates at two steps err less together.

    Raises ValueError where no schedule costs `budget` or less.
    """
    best = within(frontier(costs, errors, follows=follows), budget)
    room = budget * (1 + 1e-9)
    while True:
        now = best.choice
        singles = [
            (costs[who] - costs[now[step]], errors[who][step] - errors[now[step]][step], step, who)
            for step, who in product(range(len(now)), range(len(costs)))
        ]
        fits = [
            choice
            for (paid, less, i, a), (more, err, j, b) in combinations(singles, 2)
            if i != j and less + err < -1e-12 and best.cost + paid + more <= room
            if _allowed(choice := (*now[:i], a, *now[i + 1 : j], b, *now[j + 1 :]), follows or {})
        ]
        if not fits:
            return best
        changed = (Schedule.of(choice, costs, errors) for choice in fits)
        best = min(changed, key=lambda schedule: (schedule.error, schedule.cost))


def _allowed(choice: Sequence[int], follows: Follows) -> bool:
    """Whether everyone who has to stand right behind somebody does."""
    return all(follows.get(who, before) == before for before, who in pairwise((-1, *choice)))
