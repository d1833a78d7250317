"""Curves over the noise share, from noise (left) to video (right), as a picture."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
COLOURS: tuple[Colour, ...] = (
    *((31, 98, 178), (214, 96, 30), (36, 140, 72), (150, 60, 160), (190, 150, 20)),
    *((20, 150, 160), (200, 40, 90), (110, 170, 60), (120, 90, 60), (90, 90, 90)),
)
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 330, 80, 250, 34, 40
ROW, FEW = 18, 4
"""Pixels of a line of words, and how many boundaries of one rule are drawn: more are no picture."""
INK, PALE = (40, 40, 40), (225, 225, 225)


@dataclass(frozen=True)
class Line:
    """A curve: its name, its values at the levels (None or 0: no point), its colour by number, dashed or not."""

    name: str
    values: Sequence[float | None]
    colour: int
    dashed: bool = False


def draw(
    levels: Sequence[float], panels: Mapping[str, Sequence[Line]], boundaries: Mapping[str, Sequence[float]]
) -> Image.Image:
    """One panel above the other, values on a logarithmic scale; a boundary is a vertical line in every panel."""
    heights = [max(HEIGHT, TOP + BOTTOM + ROW * (len(lines) + len(boundaries) + 1)) for lines in panels.values()]
    picture = Image.new("RGB", (WIDTH, sum(heights)), "white")
    for i, ((title, lines), height) in enumerate(zip(panels.items(), heights, strict=True)):
        _Panel(ImageDraw.Draw(picture), sum(heights[:i]), height, levels, lines).draw(title, boundaries)
    return picture


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

    def draw(self, title: str, boundaries: Mapping[str, Sequence[float]]) -> None:
        self.write((LEFT, self.top + 10), title, 15)
        bottom = self.top + self.height - BOTTOM
        for decade in range(self.decades[0], self.decades[1] + 1):
            height = self.y(10.0**decade)
            self.pen.line([(LEFT, height), (WIDTH - RIGHT, height)], PALE)
            self.write((LEFT - 60, height - 7), f"{10.0**decade:g}")
        for tick in range(0, 11, 2):
            self.write((self.x(tick / 10) - 8, bottom + 6), f"{tick / 10:g}")
        self.write((self.x(0.5) - 60, bottom + 22), "noise share t")
        for i, (name, bounds) in enumerate(boundaries.items()):
            colour, few = COLOURS[-1 - i % len(COLOURS)], len(bounds) <= FEW
            for bound in bounds if few else ():
                self.pen.line([(self.x(bound), self.top + TOP), (self.x(bound), bottom)], colour, 2)
            said = ", ".join(f"{bound:.3f}" for bound in bounds) or "none"
            text = f"{name}: {said if few else f'{len(bounds)} changes'}"
            self.write((WIDTH - RIGHT + 12, bottom - ROW * (len(boundaries) - i)), text, colour=colour)
        for i, line in enumerate(self.lines):
            self.curve(line)
            self.write(
                (WIDTH - RIGHT + 12, self.top + TOP + ROW * i), line.name, colour=COLOURS[line.colour % len(COLOURS)]
            )

    def curve(self, line: Line) -> None:
        points = [(self.x(t), self.y(v)) if v else None for t, v in zip(self.levels, line.values, strict=True)]
        colour = COLOURS[line.colour % len(COLOURS)]
        for i, (start, end) in enumerate(pairwise(points)):
            # Where there is no point, there is no line across.
            if start and end and not (line.dashed and i % 2):
                self.pen.line([start, end], colour, 2)
        for point in points:
            if point:
                self.pen.ellipse([point[0] - 2, point[1] - 2, point[0] + 2, point[1] + 2], colour)

    def write(self, place: tuple[float, float], text: str, size: int = 12, colour: Any = INK) -> None:
        self.pen.text(place, text, colour, ImageFont.load_default(size))
