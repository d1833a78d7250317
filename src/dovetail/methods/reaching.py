"""What windows that lie far apart can go by: the coarse look of one of them, or a clip of frames from the whole video.

    low(y)    = y averaged over time, blurred over space
    anchored    x0_i <- x0_i - w (low(D_i) - low(D_1))                       D_1: what the first window sees
    keyframes   x0   <- x0 - w blur(x0_K - D_K), between keyframes evenly    D_K: what is seen in frames K as one clip

Beyond SynCoS (Kim et al., 2025, arXiv:2503.08605), in whose mean over n windows each has a say of 1 / n: these have the
same weight for any n. Only what is coarse is shared, since windows show other events. Keyframes over the whole video,
as NUWA-XL begins with (Yin et al., 2023, arXiv:2303.12346), but by an expert that did not learn on them.
"""

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import interpolate

from dovetail.core.blur import blurred
from dovetail.core.denoiser import Denoiser
from dovetail.core.path import mix
from dovetail.core.windows import gather, tile

COARSE = 8
"""A coarse look is blurred by this part of its height."""


def coarse(rows: Tensor) -> Tensor:
    """Windows' coarse look, "n c 1 h w" of "n c f h w"."""
    return blurred(rows.mean(2, keepdim=True), rows.shape[3] / COARSE)


def spread(x0: Tensor, size: int, stride: int) -> float:
    """How far the coarse looks of a video's windows lie from their mean: root mean square, 0 for one window.

    >>> video = torch.ones(1, 3, 12, 8, 8)
    >>> video[:, :, 6:] = -1
    >>> round(spread(video, 6, 6), 3), spread(video[:, :, :6], 6, 6)
    (1.0, 0.0)
    """
    looks = torch.stack([coarse(x0[:, :, window]) for window in tile(x0.shape[2], size, stride)])
    return float((looks - looks.mean(0)).square().mean().sqrt())


def anchored(seen: Tensor) -> Tensor:
    """By how much the coarse look of each window departs from the first one's, "n c 1 h w"; seen: "n c f h w"."""
    looks = coarse(seen)
    return looks - looks[:1]


def keyframes(length: int, size: int) -> Tensor:
    """The places of as many frames as a window has, evenly over the whole video.

    >>> keyframes(25, 4).tolist()
    [0, 8, 16, 24]
    """
    return torch.linspace(0, length - 1, min(size, length)).round().long()


def between(told: Tensor, length: int) -> Tensor:
    """What keyframes "1 c k h w" are told, as coarse as it is shared, for all frames: each takes that of its neighbours."""
    _, _, _, height, width = told.shape
    flat = rearrange(blurred(told, height / COARSE), "1 c k h w -> 1 (c h w) k")
    wide = interpolate(flat, length, mode="linear", align_corners=True)
    return rearrange(wide, "1 (c h w) f -> 1 c f h w", h=height, w=width)


def afar(look: Denoiser, x0: Tensor, eps: Tensor, t: float, frames: Tensor, size: int) -> Tensor:
    """Which way x0 "1 c f h w" departs from what is seen, through eps at t, in frames of the whole video as one clip."""
    length = x0.shape[2]
    if length <= size:
        return torch.zeros_like(x0)
    at = keyframes(length, size)
    clip = x0[:, :, at]
    return between(clip - look(mix(clip, eps[:, :, at], t), t, frames[:, at]).x0, length)


def drawn(windows: list[slice], chosen: list[int], anchored: bool) -> list[slice]:
    """The windows of a minibatch, in their order; an anchor is always among them, and the first."""
    return [windows[place] for place in sorted({*chosen, 0} if anchored else chosen)]


def seam(rows: Tensor, weight: Tensor, windows: list[slice], mean: Tensor) -> float:
    """How far windows "(w b) c n h w" lie from their mean "b c f h w" on the frames that they share, as a part of it.

    weight: of each row's places, "(w b) n"; places of no weight say nothing. 0 where windows share no frames.
    """
    length = mean.shape[2]
    frames = torch.arange(length).expand(len(mean), -1)
    there, shown = gather(mean, frames, windows)
    many = torch.bincount(torch.cat([frames[0, window] for window in windows]), minlength=length)
    counts = ((many > 1)[shown] & (weight > 0)).to(rows)[:, None, :, None, None]
    apart, all_of_it = ((counts * part).norm() for part in (rows - there, there))
    return float(apart / all_of_it) if bool(all_of_it > 0) else 0.0
