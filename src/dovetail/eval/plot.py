"""Curves over a video's frames, and the frames around its borders, as one picture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dovetail.video import Frames

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 200, 60, 20, 30, 26
INK, PALE, BLUE, ORANGE = (40, 40, 40), (225, 225, 225), (31, 98, 178), (214, 96, 30)


@dataclass(frozen=True)
class Panel:
    """A curve over frames (NaN: no point), drawn between `low` and `high`; a level to compare with, and frames to mark."""

    title: str
    values: Sequence[float]
    low: float
    high: float
    level: float | None = None
    marks: Sequence[int] = field(default=())


def draw(panels: Sequence[Panel], strips: Sequence[tuple[str, Frames]] = ()) -> Image.Image:
    """The panels above each other, and below them strips of frames "h w 3", each with its words."""
    below = [(words, Image.fromarray(strip)) for words, strip in strips]
    heights = [strip.height + TOP for _, strip in below]
    width = max([WIDTH, *(strip.width + 2 * RIGHT for _, strip in below)])
    picture = Image.new("RGB", (width, HEIGHT * len(panels) + sum(heights)), "white")
    pen = ImageDraw.Draw(picture)
    for place, panel in enumerate(panels):
        _panel(pen, HEIGHT * place, panel)
    top = HEIGHT * len(panels)
    for (words, strip), height in zip(below, heights, strict=True):
        _write(pen, RIGHT, top + 8, words)
        picture.paste(strip, (RIGHT, top + TOP - 4))
        top += height
    return picture


def strip(frames: Sequence[Frames], side: int = 96, gap: int | None = None) -> Frames:
    """Frames "h w 3" side by side, about `side` pixels high, a bar before the one numbered `gap`."""
    factor = max(1, side // frames[0].shape[0])
    large = [frame.repeat(factor, 0).repeat(factor, 1) for frame in frames]
    if factor == 1 and frames[0].shape[0] > side:
        size = (round(frames[0].shape[1] * side / frames[0].shape[0]), side)
        large = [np.asarray(Image.fromarray(frame).resize(size)) for frame in frames]
    parts: list[Frames] = []
    for at, frame in enumerate(large):
        if at:
            bar = ORANGE if at == gap else (255, 255, 255)
            parts.append(np.full((frame.shape[0], 4, 3), bar, np.uint8))
        parts.append(frame)
    return np.concatenate(parts, axis=1)


def _panel(pen: ImageDraw.ImageDraw, top: int, panel: Panel) -> None:
    bottom, count = top + HEIGHT - BOTTOM, max(1, len(panel.values) - 1)

    def x(at: float) -> float:
        return LEFT + at / count * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        share = (min(max(value, panel.low), panel.high) - panel.low) / (panel.high - panel.low)
        return bottom - share * (HEIGHT - TOP - BOTTOM)

    _write(pen, LEFT, top + 8, panel.title, 14)
    for mark in panel.marks:
        pen.line([(x(mark), top + TOP), (x(mark), bottom)], PALE)
    for value in (panel.low, (panel.low + panel.high) / 2, panel.high):
        pen.line([(LEFT, y(value)), (WIDTH - RIGHT, y(value))], PALE)
        _write(pen, 8, y(value) - 7, f"{value:.3g}")
    for tick in range(5):
        _write(pen, x(tick * count / 4) - 8, bottom + 6, f"{round(tick * count / 4)}")
    if panel.level is not None:
        pen.line([(LEFT, y(panel.level)), (WIDTH - RIGHT, y(panel.level))], ORANGE)
    known = [(x(at), y(value)) for at, value in enumerate(panel.values) if not math.isnan(value)]
    if len(known) > 1:
        pen.line(known, BLUE, 2)


def _write(pen: ImageDraw.ImageDraw, x: float, y: float, text: str, size: int = 12) -> None:
    pen.text((x, y), text, INK, ImageFont.load_default(size))
