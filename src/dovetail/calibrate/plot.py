"""Curves over the noise share, from noise (left) to video (right), as a picture."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from textwrap import wrap
from typing import Any

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Point = tuple[float, float]
COLOURS: tuple[Colour, ...] = (
    *((31, 98, 178), (214, 96, 30), (36, 140, 72), (150, 60, 160), (190, 150, 20)),
    *((20, 150, 160), (200, 40, 90), (110, 170, 60), (240, 130, 190), (110, 120, 230)),
)
"""Of curves."""
BOUNDS: tuple[tuple[Colour, tuple[int, ...]], ...] = (
    *(((90, 90, 90), ()), ((120, 90, 60), ()), ((0, 0, 0), (10, 6)), ((150, 150, 150), (3, 4))),
)
"""Of boundaries: no curve's colours, and dashes as `Line` has them."""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 330, 80, 250, 34, 40
ROW, FEW, SAMPLE = 18, 4, 22
"""Pixels of a line of words, how many boundaries of one rule are drawn (more are no picture), and pixels of a line that
stands before its name."""
INK, PALE = (40, 40, 40), (225, 225, 225)


@dataclass(frozen=True)
class Line:
    """A curve: its name, its values at the levels (None or 0: no point), its colour by number, and its dashes: pixels
    of ink and of none, in turns; nothing is a whole line."""

    name: str
    values: Sequence[float | None]
    colour: int
    dashes: tuple[int, ...] = ()


def draw(
    levels: Sequence[float],
    panels: Mapping[str, Sequence[Line]],
    boundaries: Mapping[str, Sequence[float]],
    placed: Mapping[str, str] | None = None,
) -> Image.Image:
    """One panel above the other, values on a logarithmic scale; a boundary is a vertical line in every panel.

    placed: for each name of boundaries, who is where.
    """
    rules = [_Rule(name, bounds, (placed or {}).get(name), i) for i, (name, bounds) in enumerate(boundaries.items())]
    words = sum(len(rule.words) for rule in rules)
    heights = [max(HEIGHT, TOP + BOTTOM + ROW * (len(lines) + words + 1)) for lines in panels.values()]
    picture = Image.new("RGB", (WIDTH, sum(heights)), "white")
    for i, ((title, lines), height) in enumerate(zip(panels.items(), heights, strict=True)):
        _Panel(ImageDraw.Draw(picture), sum(heights[:i]), height, levels, lines).draw(title, rules)
    return picture


@dataclass(frozen=True)
class _Rule:
    """Boundaries by a name, who is where, and its number among others."""

    name: str
    bounds: Sequence[float]
    placed: str | None
    number: int

    @property
    def style(self) -> tuple[Colour, tuple[int, ...]]:
        return BOUNDS[self.number % len(BOUNDS)]

    @property
    def drawn(self) -> Sequence[float]:
        return self.bounds if len(self.bounds) <= FEW else ()

    @property
    def words(self) -> list[str]:
        """Lines that have room beside a panel."""
        said = self.placed or ", ".join(f"{bound:.3f}" for bound in self.bounds) or "none"
        if len(self.bounds) > FEW:
            said = f"{len(self.bounds)} changes, as the table says"
        return wrap(f"{self.name}: {said}", 34)


@dataclass(frozen=True, eq=False)
class _Panel:
    pen: ImageDraw.ImageDraw
    top: int
    height: int
    levels: Sequence[float]
    lines: Sequence[Line]

    @property
    def decades(self) -> tuple[int, int]:
        seen = [math.log10(value) for line in self.lines for value in line.values if value]
        return (math.floor(min(seen)), math.floor(max(seen)) + 1) if seen else (-1, 0)

    def x(self, t: float) -> float:
        return LEFT + (1 - t) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.decades
        share = (math.log10(value) - low) / (high - low)
        return self.top + TOP + (1 - share) * (self.height - TOP - BOTTOM)

    def draw(self, title: str, rules: Sequence[_Rule]) -> None:
        self.write((LEFT, self.top + 10), title, 15)
        bottom = self.top + self.height - BOTTOM
        for decade in range(self.decades[0], self.decades[1] + 1):
            height = self.y(10.0**decade)
            self.pen.line([(LEFT, height), (WIDTH - RIGHT, height)], PALE)
            self.write((LEFT - 60, height - 7), f"{10.0**decade:g}")
        for tick in range(0, 11, 2):
            self.write((self.x(tick / 10) - 8, bottom + 6), f"{tick / 10:g}")
        self.write((self.x(0.5) - 60, bottom + 22), "noise share t")
        height = bottom - ROW * sum(len(rule.words) for rule in rules)
        for rule in rules:
            for bound in rule.drawn:
                self.stroke([(self.x(bound), self.top + TOP), (self.x(bound), bottom)], *rule.style)
            self.named(height, rule.words, *rule.style)
            height += ROW * len(rule.words)
        for i, line in enumerate(self.lines):
            self.curve(line)
            self.named(self.top + TOP + ROW * i, [line.name], COLOURS[line.colour % len(COLOURS)], line.dashes)

    def named(self, height: float, words: Sequence[str], colour: Colour, dashes: tuple[int, ...]) -> None:
        """What a line means, beside the panel: a piece of it, and words."""
        left = WIDTH - RIGHT + 12
        self.stroke([(left, height + 8), (left + SAMPLE, height + 8)], colour, dashes)
        for i, said in enumerate(words):
            self.write((left + SAMPLE + 6, height + ROW * i), said, colour=colour)

    def curve(self, line: Line) -> None:
        points = [(self.x(t), self.y(v)) if v else None for t, v in zip(self.levels, line.values, strict=True)]
        colour = COLOURS[line.colour % len(COLOURS)]
        # Where there is no point, there is no line across.
        for there, run in groupby(points, bool):
            if there:
                self.stroke([point for point in run if point], colour, line.dashes)
        for point in points:
            if point:
                self.pen.ellipse([point[0] - 2, point[1] - 2, point[0] + 2, point[1] + 2], colour)

    def stroke(self, points: Sequence[Point], colour: Colour, dashes: tuple[int, ...]) -> None:
        """A line through points; its dashes go on across them."""
        gone, whole = 0.0, sum(dashes)
        for start, end in pairwise(points):
            length = math.dist(start, end)
            for begin, stop in inked(gone, gone + length, dashes) if whole else [(gone, gone + length)]:
                ends = [_along(start, end, (at - gone) / length) for at in (begin, stop)] if length else [start, end]
                self.pen.line(ends, colour, 2)
            gone += length

    def write(self, place: Point, text: str, size: int = 12, colour: Any = INK) -> None:
        self.pen.text(place, text, colour, ImageFont.load_default(size))


def inked(begin: float, end: float, dashes: Sequence[int]) -> list[tuple[float, float]]:
    """The pieces of a way from `begin` to `end`, counted from where dashes began, that have ink.

    >>> inked(4, 30, (9, 5))
    [(4, 9), (14, 23), (28, 30)]
    """
    ink, whole = dashes[0], sum(dashes)
    starts = range(int(begin // whole) * whole, math.ceil(end), whole)
    pieces = [(max(begin, start), min(end, start + ink)) for start in starts]
    return [(start, stop) for start, stop in pieces if stop > start]


def _along(start: Point, end: Point, share: float) -> Point:
    return start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])
