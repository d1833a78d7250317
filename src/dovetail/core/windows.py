"""Windows over time: where they lie, and how much each frame in them counts."""

import math
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise

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


def along(frames: int, size: int, hop: int | None = None, offset: int = 0) -> Iterator[slice]:
    """Windows along a timeline of any length, one at a time, so that a long one needs no long list.

    hop: from start to start. At `size`, the default, windows stand side by side: the first is `offset` long, if that
    is not 0, and the last takes what is left. Below it they are those of `tile`. Raises ValueError for windows that
    leave gaps, and for an offset of windows that overlap.

    >>> [(w.start, w.stop) for w in along(12, 4, offset=2)]
    [(0, 2), (2, 6), (6, 10), (10, 12)]
    """
    hop = size if hop is None else hop
    if not 0 < hop <= size or not 0 <= offset < size:
        raise ValueError(
            f"windows of {size} have a hop in 1..{size} and an offset in 0..{size - 1}, not {hop}, {offset}"
        )
    if offset and hop < size:
        raise ValueError("an offset staggers windows that stand side by side; these overlap, so take one of the two")
    if hop < size:
        starts = chain(range(0, frames - size, hop), [max(0, frames - size)])
        return (slice(start, min(start + size, frames)) for start in starts)
    edges = chain([0], range(offset or size, frames, size), [frames])
    return (slice(start, stop) for start, stop in pairwise(edges))


def begun(windows: Iterator[slice], frames: int) -> Iterator[slice]:
    """The frames from each window's start to the next one's, or to the end."""
    starts = chain((window.start for window in windows), [frames])
    return (slice(start, stop) for start, stop in pairwise(starts))


def gather(x: Tensor, frames: Tensor, windows: Sequence[slice]) -> tuple[Tensor, Tensor]:
    """What windows of equal size show of a latent "b c f h w" and of its frames "b f", on the batch axis:
    "(w b) c n h w" and "(w b) n"."""
    return torch.cat([x[:, :, window] for window in windows]), torch.cat([frames[:, window] for window in windows])


def scatter(rows: Tensor, windows: Sequence[slice], weight: Tensor, frames: int) -> Tensor:
    """The way back: to each of `frames` frames the weighted mean of what windows say of it, "b c f h w".

    rows: "(w b) c n h w"; weight: of each place in a window, "n", or in each row's, "(w b) n". A frame in no window, or
    of no weight, is NaN.

    >>> x, windows = torch.randn(2, 4, 10, 3, 3), tile(10, 4, 3)
    >>> rows, shown = gather(x, torch.arange(10).expand(2, -1), windows)
    >>> rows.shape, bool(torch.allclose(scatter(rows, windows, triangle(4), 10), x))
    (torch.Size([6, 4, 4, 3, 3]), True)
    """
    weights = weight.to(rows).expand(len(rows), -1)[:, None, :, None, None]
    parts, shares = rows.chunk(len(windows)), weights.chunk(len(windows))
    total = rows.new_zeros(*parts[0].shape[:2], frames, *rows.shape[3:])
    mass = rows.new_zeros(len(parts[0]), 1, frames, 1, 1)
    for window, part, share in zip(windows, parts, shares, strict=True):
        total[:, :, window] += share * part
        mass[:, :, window] += share
    return total / mass


def inner(weight: Tensor, shown: Tensor, first: float) -> Tensor:
    """Weights of each row's places, "(w b) n": those of `weight` "n", but that the first frame of a window that does
    not begin the video counts `first` times as much.

    A causal autoencoder's first latent frame stands for one frame of the video, each other for several. A network that
    learned on whole clips takes the first latent it is shown for the former, which an inner window's is not.
    shown: global frames "(w b) n"; first: above 0, as a frame may be in no other window.

    >>> inner(flat(3), torch.tensor([[0, 1, 2], [2, 3, 4]]), 0.5)
    tensor([[1.0000, 1.0000, 1.0000],
            [0.5000, 1.0000, 1.0000]])
    """
    weights = weight.repeat(len(shown), 1)
    weights[shown[:, 0] > 0, 0] *= first
    return weights


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
