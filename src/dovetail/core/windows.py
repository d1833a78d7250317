"""Windows over time: where they lie, and how much each frame in them counts."""

import math

import torch
from torch import Tensor


def tile(frames: int, size: int, stride: int) -> list[slice]:
    """Windows of equal size that cover every frame; the last one is flush with the end.

    >>> tile(10, 4, 4)
    [slice(0, 4, None), slice(4, 8, None), slice(6, 10, None)]
    """
    if not 0 < stride <= size:
        raise ValueError(f"stride must lie in 1..{size} (the window size), not {stride}")
    if frames <= size:
        return [slice(0, frames)]
    starts = [*range(0, frames - size, stride), frames - size]
    return [slice(s, s + size) for s in starts]


def flat(n: int) -> Tensor:
    """Every frame counts the same (Gen-L-Video, MultiDiffusion)."""
    return torch.ones(n)


def triangle(n: int) -> Tensor:
    """min(2 (f + .5) / n, 2 - 2 (f + .5) / n), as in DiTCtrl."""
    place = 2 * (torch.arange(n) + 0.5) / n
    return torch.minimum(place, 2 - place)


def sine(n: int) -> Tensor:
    """sin(pi (f + .5) / n), as in VideoMerge."""
    return torch.sin(math.pi * (torch.arange(n) + 0.5) / n)


def pyramid(n: int) -> Tensor:
    """1, 2, .., n/2, .., 2, 1, as in FreeNoise."""
    ramp = torch.arange(1, n + 1)
    return torch.minimum(ramp, ramp.flip(0)).float()


WEIGHTS = {"flat": flat, "triangle": triangle, "sine": sine, "pyramid": pyramid}
