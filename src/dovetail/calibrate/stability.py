"""How far a choice hangs on which prompts it was made over: the same choice over prompts drawn anew from them."""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median

from dovetail.core.ladders import Ladder

Curve = Sequence[float]
Rule = Callable[[Curve, Curve], tuple[int, ...]]
"""Divergence and error left in the video, of the small expert at each step, of one prompt or of many -> who takes each step."""

DRAWN = 200
"""How often prompts are drawn anew, as many as there are, with repetition."""
FIRM, WIDE = 0.9, 0.25
"""A choice is stable if at least this share of the draws gives experts in the same order, and no interval of a boundary is
wider than this."""


@dataclass(frozen=True)
class Stability:
    """letters: the choice's experts in their order, as LSL; shares: of the draws, by letters, the most frequent first;
    intervals: where 95 % of the draws with the choice's own letters have each boundary, as noise shares."""

    letters: str
    shares: Mapping[str, float]
    intervals: tuple[tuple[float, float], ...]

    @property
    def same(self) -> float:
        """The share of the draws with the choice's own letters."""
        return self.shares.get(self.letters, 0.0)

    @property
    def firm(self) -> bool:
        return self.same >= FIRM and all(high - low <= WIDE for low, high in self.intervals)

    @property
    def where(self) -> str:
        """The intervals in words."""
        return ", ".join(f"{low:.3f} to {high:.3f}" for low, high in self.intervals) or "no boundary"


def letters(choice: Sequence[int]) -> str:
    """Experts in their order, whatever number of steps each has: L the large one, S another.

    >>> letters((0, 0, 3, 3, 3, 0))
    'LSL'
    """
    return "".join("S" if who else "L" for who, _ in groupby(choice))


def stability(rule: Rule, ladder: Ladder, rows: Sequence[tuple[Curve, Curve]]) -> Stability:
    """Of a rule, over two prompts or more; rows: each prompt's curves."""
    draw, found, bounds = random.Random(0), Counter[str](), list[list[float]]()
    own = letters(rule(*medians(rows)))
    for _ in range(DRAWN):
        choice = rule(*medians(draw.choices(rows, k=len(rows))))
        found[letters(choice)] += 1
        if letters(choice) == own:
            changes = [k for k in range(1, len(choice)) if choice[k] != choice[k - 1]]
            bounds.append([ladder.between(k) for k in changes])
    shares = {pattern: count / DRAWN for pattern, count in found.most_common()}
    return Stability(own, shares, tuple(_middle(sorted(each)) for each in zip(*bounds, strict=True)))


def medians(rows: Sequence[tuple[Curve, Curve]]) -> tuple[list[float], list[float]]:
    """Both curves, step by step the median over prompts."""
    one, two = ([median(step) for step in zip(*curves, strict=True)] for curves in zip(*rows, strict=True))
    return one, two


def _middle(values: Sequence[float]) -> tuple[float, float]:
    cut = round(0.025 * (len(values) - 1))
    return values[cut], values[len(values) - 1 - cut]
