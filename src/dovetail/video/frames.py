"""Frames as arrays: made larger."""

import math

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]

SHOWN = 384
"""Files for looking at are at least this many pixels along their shorter side."""

WIDEST = 4096
"""But nothing is enlarged beyond this many along the longer one, which is what players take."""


def larger(frames: Frames, factor: int) -> Frames:
    """Frames "f h w c", each pixel repeated along both sides."""
    return frames if factor == 1 else frames.repeat(factor, axis=1).repeat(factor, axis=2)


def enlarged(frames: Frames) -> Frames:
    """The frames as large as a screen shows well; H.264 wants even sides, so an odd one gains a line."""
    factor = min(math.ceil(SHOWN / min(frames.shape[1:3])), WIDEST // max(frames.shape[1:3]))
    frames = larger(frames, max(1, factor))
    return np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
