"""What stands still, held from window to window: each window's middle colour is drawn to the first one's.

    middle(x0) = the median of x0 over frames, height and width, channel by channel
    x0'_j      = x0_j + share (middle(x0_1) - middle(x0_j))                windows j, at every level

What a prompt leaves open each window decides for itself, and averages of overlapping windows agree with their neighbours
only, so a background fades into another over a long video. What covers most of most frames decides on the median:
a background does, an object that moves over it does not, so ways and events stay free. One shift for a whole window
changes no motion within it. Beyond all four papers; where a story asks for another background, it is not to be held.
"""

from dataclasses import dataclass

from torch import Tensor

from dovetail.core.path import Split, split


@dataclass(frozen=True)
class Hold:
    """How windows are held to the first one. share: how far each is drawn; 1 makes its middle the first one's."""

    share: float = 1.0

    def of(self, x0: Tensor) -> Tensor:
        """What others are held to, of the first window's x0 "b c f h w"."""
        return middle(x0)

    def __call__(self, seen: Split, x: Tensor, t: float, first: Tensor) -> Split:
        """What a window sees in x at t, drawn to what `of` said of the first one."""
        return split(x, seen.x0 + self.share * (first - middle(seen.x0)), t)


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
