"""What stands still, held from window to window: each window is drawn to the first one, where it says the same place.

    frame(x0)  = the median of x0 over frames, place by place            what stands still in a window
    middle(x0) = the median of x0 over frames, height and width          its colour, where that covers most

    colours    c_j = middle(x0_1) - middle(x0_j)                         windows j, channel by channel
    places     d_j = frame(x0_1) - frame(x0_j) - c_j                     if asked for; the middles are then the frames'
               w_j = (1 - (|d_j| / (within median |d_j|))^2)^2           0 beyond; this median is over places
               x0'_j = x0_j + share (c_j + w_j d_j)                      at every level; w_j is 0 where t > below

What a prompt leaves open each window decides for itself, and averages of overlapping windows agree with their neighbours
only, so over a long video a background fades into another and stripes slip. What covers most of most frames decides on
the middle: a background does, an object that moves over it does not. In places a difference that is like most is of what
covers most, one that stands out is an object's, here or in the first window, and is left: Tukey's biweight. One
shift for all frames of a window changes no motion in it. Beyond all four papers; where a story asks for another
background, it is not to be held.

Windows that are made in turn are held to the first one as it is finished, at every level.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dovetail.core.denoiser import Denoiser
from dovetail.core.path import Split, split


@dataclass(frozen=True)
class Hold:
    """How windows are held to the first one.

    share: how far each is drawn; 1 makes its colour the first one's. within: where the difference in a place is less
    than so many times the median one, places are drawn too; 0 is none. below: places are where t is at most this, for above
    it windows still decide on what moves; colours are at every level.
    """

    share: float = 1.0
    within: float = 0.0
    below: float = 1.0

    def of(self, x0: Tensor) -> Tensor:
        """What others are held to, of the first window's x0 "b c f h w": its median frame, or its colours alone."""
        return frame(x0) if self.within else middle(x0)

    def __call__(self, seen: Split, x: Tensor, t: float, first: Tensor) -> Split:
        """What a window sees in x at t, drawn to what `of` said of the first one."""
        now = self.of(seen.x0)
        shift = middle(first) - middle(now)
        if self.within and t <= self.below:
            shift = shift + alike(first - now - shift, self.within)
        return split(x, seen.x0 + self.share * shift, t)


@dataclass(frozen=True, eq=False)
class Held:
    """Denoiser of a window that is made in turn, held to what was remembered of the first one."""

    denoise: Denoiser
    hold: Hold
    first: Tensor

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        return self.hold(self.denoise(x, t, frames), x, t, self.first)


def frame(x0: Tensor) -> Tensor:
    """The median over frames, "b c 1 h w" of "b c f h w"."""
    return x0.contiguous().median(2, keepdim=True).values


def middle(x0: Tensor) -> Tensor:
    """The median of each channel, "b c 1 1 1" of "b c f h w".

    >>> import torch
    >>> video = torch.zeros(1, 1, 3, 4, 4)
    >>> video[:, :, :, 1:3, 1:3] = 9.0  # an object
    >>> middle(video + 0.5).item(), middle(torch.tensor(0.5).expand(1, 1, 3, 4, 4)).item()
    (0.5, 0.5)
    """
    # Of a tensor that is expanded (stride 0) torch 2.13's median is zeros or what lies in memory, hence contiguous.
    return x0.flatten(2).contiguous().median(2).values[:, :, None, None, None]


def alike(apart: Tensor, within: float) -> Tensor:
    """Differences "b c 1 h w" that are like most, place by place; what stands out is 0.

    >>> import torch
    >>> slip = torch.full((1, 1, 1, 4, 4), 0.1)
    >>> slip[..., 0, 0] = 5.0  # an object that stood there
    >>> (alike(slip, within=2.0) / slip)[0, 0, 0, 0].tolist()
    [0.0, 0.5625, 0.5625, 0.5625]
    """
    size: Tensor = torch.linalg.vector_norm(apart, dim=1, keepdim=True)
    most = within * middle(size)
    return apart * (1 - (size / most.clamp(min=torch.finfo(size.dtype).tiny)).square()).clamp(min=0).square()
