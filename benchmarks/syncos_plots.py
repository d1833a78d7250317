"""What is swept, and what is lost with length, of stories: curves over the values themselves, as one picture."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log
from statistics import fmean

from PIL import Image, ImageDraw, ImageFont
from report import column
from syncos_report import Lines, Rows, gathered, in_common, near_and_far, sweep
from syncos_rows import BASELINES, DECODED, FAR, FIFO, SWEEPS

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 240, 60, 30, 34, 44
INK, PALE = (40, 40, 40), (225, 225, 225)
COLOURS = ((31, 98, 178), (214, 96, 30), (130, 130, 130), (46, 139, 87), (150, 80, 170))
WIDE = 50
"""An axis whose values span more than this factor is drawn in their logarithms."""
APART = 34
"""Pixels that numbers on an axis keep between each other; of nearer values there is the tick alone."""


@dataclass(frozen=True)
class Chart:
    """Curves between 0 and 1 over what `across` names; `top` is where it lies in the picture."""

    title: str
    across: str
    curves: Mapping[str, Points]
    top: int = 0

    @property
    def values(self) -> list[float]:
        """Where there is a point in some curve."""
        return sorted({value for curve in self.curves.values() for value, _ in curve})

    @property
    def bottom(self) -> int:
        return self.top + HEIGHT - BOTTOM

    def x(self, value: float) -> int:
        low, high = self.values[0], self.values[-1]
        if low > 0 and high > WIDE * low:
            low, high, value = log(low), log(high), log(value)
        return LEFT + round((value - low) / (high - low) * (WIDTH - LEFT - RIGHT))

    def y(self, value: float) -> int:
        return self.bottom - round(min(max(value, 0.0), 1.0) * (HEIGHT - TOP - BOTTOM))


def plots(lines: Lines, main: int, lengths: Sequence[int]) -> Image.Image | None:
    """A chart for each value that is swept, and for length; None where no curve has two points."""
    rows = gathered(lines)
    found = [*sensitivity(rows, main), *by_length(rows, lengths)]
    charts = [chart for chart in found if len(chart.values) > 1]
    return drawn(charts) if charts else None


def sensitivity(rows: Rows, main: int) -> Iterator[Chart]:
    """What is right of each event, where events go on as before and where they turn right round, and identity."""
    for word, values in SWEEPS.items():
        curves: dict[str, list[tuple[float, float]]] = {}
        names = sweep(word, main)
        shared = in_common(rows, names)
        for value, name in zip(values, names, strict=True):
            row = shared.get(name, {})
            parts = {f"event_prompt, {where}": (part, "event_prompt") for where, part in near_and_far(row).items()}
            for curve, (part, measure) in {**parts, "identity": (row, "identity")}.items():
                if known := column(part, measure):
                    curves.setdefault(curve, []).append((float(value), fmean(known.values())))
        yield Chart(f"Sensitivity: {word}, {main} frames", word, curves)


def by_length(rows: Rows, lengths: Sequence[int]) -> Iterator[Chart]:
    """Identity over the number of frames: beside the baselines, and, where it was made, of what is not to fade."""
    far = [way for way in FAR if any(f"{way} {n}" in rows for n in lengths)]
    own = DECODED if any(f"{DECODED} {n}" in rows for n in lengths) else "full"
    for ways in (("full", *BASELINES, FIFO), *([(own, *far)] if far else [])):
        shared = in_common(rows, [f"{way} {n}" for way in ways for n in lengths])
        curves = {
            way: [(float(n), fmean(known.values())) for n in lengths if (known := identities(shared, f"{way} {n}"))]
            for way in ways
        }
        yield Chart("identity by length", "frames", {way: points for way, points in curves.items() if points})


def identities(rows: Rows, name: str) -> dict[tuple[int, int], float]:
    return column(rows.get(name, {}), "identity")


def drawn(charts: Sequence[Chart]) -> Image.Image:
    """The charts above each other."""
    picture = Image.new("RGB", (WIDTH, HEIGHT * len(charts)), "white")
    pen = ImageDraw.Draw(picture)
    for place, chart in enumerate(charts):
        placed = Chart(chart.title, chart.across, chart.curves, HEIGHT * place)
        _axes(pen, placed)
        _curves(pen, placed)
    return picture


def _axes(pen: ImageDraw.ImageDraw, chart: Chart) -> None:
    for value in (0.5, 1.0):
        pen.line([(LEFT, chart.y(value)), (WIDTH - RIGHT, chart.y(value))], PALE)
    for value in (0.0, 0.5, 1.0):
        _write(pen, 24, chart.y(value) - 7, f"{value:g}")
    pen.line([(LEFT, chart.y(1)), (LEFT, chart.bottom), (WIDTH - RIGHT, chart.bottom)], INK)
    last = -APART
    for value in chart.values:
        at = chart.x(value)
        pen.line([(at, chart.bottom), (at, chart.bottom + 4)], INK)
        if at - last >= APART:
            _write(pen, at - 8, chart.bottom + 7, f"{value:g}")
            last = at
    _write(pen, (LEFT + WIDTH - RIGHT) // 2, chart.bottom + 24, chart.across)


def _curves(pen: ImageDraw.ImageDraw, chart: Chart) -> None:
    _write(pen, LEFT, chart.top + 8, chart.title)
    at = LEFT + 260
    for (name, curve), colour in zip(chart.curves.items(), COLOURS, strict=False):
        points = [(chart.x(value), chart.y(height)) for value, height in curve]
        pen.line(points, colour, 2)
        for x, y in points:
            pen.ellipse([x - 3, y - 3, x + 3, y + 3], colour)
        _write(pen, at, chart.top + 8, name, colour)
        at += 130


def _write(pen: ImageDraw.ImageDraw, x: float, y: float, text: str, colour: tuple[int, int, int] = INK) -> None:
    pen.text((x, y), text, colour, ImageFont.load_default(12))
