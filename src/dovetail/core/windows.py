"""Windows over time: where they lie, and how much each frame in them counts."""

import math
from collections.abc import Sequence

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


def gather(x: Tensor, frames: Tensor, windows: Sequence[slice]) -> tuple[Tensor, Tensor]:
    """What windows of equal size show of a latent "b c f h w" and of its frames "b f", on the batch axis:
    "(w b) c n h w" and "(w b) n"."""
    return torch.cat([x[:, :, window] for window in windows]), torch.cat([frames[:, window] for window in windows])


def scatter(rows: Tensor, windows: Sequence[slice], weight: Tensor, frames: int) -> Tensor:
    """The way back: to each of `frames` frames the weighted mean of what windows say of it, "b c f h w".

    rows: "(w b) c n h w"; weight: of each place in a window, "n". A frame in no window is NaN.

    >>> x, windows = torch.randn(2, 4, 10, 3, 3), tile(10, 4, 3)
    >>> rows, shown = gather(x, torch.arange(10).expand(2, -1), windows)
    >>> rows.shape, bool(torch.allclose(scatter(rows, windows, triangle(4), 10), x))
    (torch.Size([6, 4, 4, 3, 3]), True)
    """
    weight, parts = weight.to(rows)[:, None, None], rows.chunk(len(windows))
    total = rows.new_zeros(*parts[0].shape[:2], frames, *rows.shape[3:])
    mass = rows.new_zeros(frames, 1, 1)
    for window, part in zip(windows, parts, strict=True):
        total[:, :, window] += weight * part
        mass[window] += weight
    return total / mass


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
