"""Videos in one picture or side by side."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from dovetail.errors import RecipeError
from dovetail.video.clip import Video
from dovetail.video.frames import Frames, larger
from dovetail.video.places import whole


def sheet(videos: Iterable[Video], columns: int = 8) -> Frames:
    """A contact sheet "h w c": one row per video, frames evenly apart."""
    return stacked([strip(video, columns) for video in videos])


def strip(video: Video, columns: int = 8) -> Frames:
    """A picture "h w c" of so many frames side by side, evenly apart."""
    picked = evenly(len(video.frames), columns)
    return np.concatenate([np.pad(video.frames[i], ((1, 1), (1, 1), (0, 0))) for i in picked], axis=1)


def evenly(length: int, count: int = 8) -> list[int]:
    """So many of `length` frames, evenly apart, the first and the last among them."""
    count = min(count, length)
    return [round(i * (length - 1) / max(count - 1, 1)) for i in range(count)]


def stacked(strips: Sequence[Frames]) -> Frames:
    """Strips below each other, in one picture."""
    width = max(strip.shape[1] for strip in strips)
    return np.concatenate([np.pad(strip, ((0, 0), (0, width - strip.shape[1]), (0, 0))) for strip in strips])


def save_image(image: Frames, path: str | Path) -> Path:
    """Write one picture "h w c" as PNG, whole or not at all."""
    from PIL import Image

    target = Path(path)
    with whole(target) as part:
        Image.fromarray(image).save(part, format="PNG")
    return target


def beside(left: Video, right: Video) -> Video:
    """Two videos side by side; the smaller is enlarged by a whole factor, the shorter holds its last frame.

    Raises RecipeError when their speeds differ, or when no whole factor makes their heights equal.
    """
    if left.fps != right.fps:
        raise RecipeError(
            f"the videos run at {left.fps:g} and {right.fps:g} frames per second; side by side they must agree"
        )
    height, length = max(left.size[0], right.size[0]), max(len(left.frames), len(right.frames))
    for video in (left, right):
        if height % video.size[0]:
            raise RecipeError(
                f"heights {left.size[0]} and {right.size[0]}: neither is a whole multiple of the other; "
                "make both videos at one size"
            )
    panes = [_held(larger(video.frames, height // video.size[0]), length) for video in (left, right)]
    gap = np.zeros((length, height, max(2, height // 32), 3), np.uint8)
    settings = {"beside": [dict(left.settings), dict(right.settings)]}
    return Video(np.concatenate([panes[0], gap, panes[1]], axis=2), left.fps, settings)


def _held(frames: Frames, length: int) -> Frames:
    return np.concatenate([frames, np.repeat(frames[-1:], length - len(frames), axis=0)])
