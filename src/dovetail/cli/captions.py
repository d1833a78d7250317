"""Words below a row of pictures: which event of a story each of them shows."""

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np

from dovetail.video import Frames

SIZE, MARGIN = 12, 4
"""Of a caption, in pixels: height of the letters, and room around it."""


def captions(texts: Sequence[str], width: int) -> Frames:
    """A band "h w c" to stand below a row of pictures of `width` pixels each. Neighbours that share a text share a
    caption, in as many lines as it takes.

    >>> captions(["it moves right", "it moves right", "it moves down"], width=66).shape[1:]
    (198, 3)
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(SIZE)
    groups = [(text, len(list(same))) for text, same in groupby(texts)]
    wrapped = [_lines(text, count * width - 2 * MARGIN, font.getlength) for text, count in groups]
    height = (SIZE + MARGIN) * max(map(len, wrapped), default=0) + MARGIN
    band = Image.new("RGB", (width * len(texts), height))
    draw, left = ImageDraw.Draw(band), 0
    for (_, count), lines in zip(groups, wrapped, strict=True):
        for i, line in enumerate(lines):
            draw.text((left + MARGIN, MARGIN + i * (SIZE + MARGIN)), line, "white", font, anchor="lt")
        left += count * width
        draw.line([(left - 1, 0), (left - 1, height)], "gray")
    return np.asarray(band)


def _lines(text: str, width: float, length: Callable[[str], float]) -> list[str]:
    """A text in lines that are no longer than `width`, unless a word is."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and length(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
