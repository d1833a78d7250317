"""Finished frames, held to what stands still in the first ones.

    still  = the median of the first frames, pixel by pixel
    d = still - frame;  m = the median of d over pixels, channel by channel
    c = m, or 0 if a quarter of the pixels lack within max(a quarter's |d - m|, a step) at most    the ground's change
    s = the median of |d - c|
    w = (1 - (|d - c| / (within max(s, a step)))^2)^2      0 beyond: what lacks as most does
    v = (1 - (|frame + c - median still| / |c|)^2)^2       0 beyond: of most pixels' colour
    u = (1 - (s / AWAY)^2)^2                               0 beyond: another scene
    frame' = frame + u (w d + (1 - w) v c)

A decoder is no function of one place: it shows what surrounds an object otherwise where the object is large, or near, or
away, and where a latent lies between two looks it shows either. So a background that is held in latents (`core.hold`) may
still flicker, drift and jump in pixels. Each frame is drawn to the still picture here: wholly in pixels that lack to it
what most do, by Tukey's biweight; what stands out is what moves and is left as it is. Something that moves stood in the
still picture, too, where a frame now shows its ground: pixels of which the ground's change would make most pixels' colour
are given that change, and with them what is near that colour and moves. An object may cover three quarters of a frame whose
ground has not changed, and half of one whose ground has; where most pixels are of another scene, nothing is held. Frames
are held one by one, so any part of a video can be made again by itself. Beyond all four papers; for a camera that stands.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dovetail.core.hold import biweight, middle, tiny

STEP = 2 / 255
"""One step of 8 bits, for pixels in [-1, 1]: what lacks less than that is no reason to let go of a pixel."""
AWAY = 0.8
"""What most pixels lack, over three channels, where nothing is held any more."""
QUARTER = 4
"""The ground of a frame is one pixel of so many at least."""
AT_ONCE = 2**24
"""Values of which medians over frames are taken at once."""


@dataclass(frozen=True)
class Still:
    """How frames are held. frames: how many of the first make the still picture; within: how many times what most pixels
    lack one may lack.

    >>> import torch
    >>> video = torch.zeros(4, 3, 8, 8)
    >>> video[2] += 0.3  # a flash
    >>> video[2:, :, 2:4, 2:4] = 1.0  # an object
    >>> still = Still(frames=2)
    >>> held = still(video, still.picture(video))
    >>> held[2, 0, 0, 0].item(), held[2, 0, 2, 2].item()
    (0.0, 1.0)
    """

    frames: int = 48
    within: float = 3.0

    def picture(self, pixels: Tensor) -> Tensor:
        """What stands still in the first frames, "c h w" of "f c h w"."""
        first = pixels[: self.frames]
        rows = max(1, AT_ONCE // first[:, :, 0].numel())
        return torch.cat([part.contiguous().median(0).values for part in torch.split(first, rows, 2)], 1)

    def __call__(self, pixels: Tensor, picture: Tensor) -> Tensor:
        """Frames "f c h w" in [-1, 1], held to a picture "c h w"."""
        to = middle(picture[None, :, None])
        # One by one, for what is between is many times their size.
        return torch.cat([self._one(one[None, :, None], picture[None, :, None], to)[:, :, 0] for one in pixels])

    def _one(self, shown: Tensor, picture: Tensor, to: Tensor) -> Tensor:
        lacks = picture - shown
        change = self._change(lacks)
        size = squares(lacks - change)
        most = middle(size)
        like = biweight(size / (self.within**2 * most.clamp(min=STEP**2)))
        there = biweight(squares(shown + change - to) / squares(change).clamp(min=tiny(change)))
        held: Tensor = shown + biweight(most / AWAY**2) * (like * lacks + (1 - like) * there * change)
        return held.clamp(-1, 1)

    def _change(self, lacks: Tensor) -> Tensor:
        """What a frame's ground lacks "1 c 1 1 1": what most of it does, or nothing if enough of it lacks no more than what
        differs anyway. Most of it may be an object."""
        most = middle(lacks)
        kept, moved = low(squares(lacks)), low(squares(lacks - most))
        return most * (kept > self.within**2 * moved.clamp(min=STEP**2))


def squares(x: Tensor) -> Tensor:
    """Squared lengths over channels, which stay as one."""
    return x.square().sum(1, keepdim=True)


def low(x: Tensor) -> Tensor:
    """What a quarter of all values reaches at most."""
    return x.flatten().kthvalue(max(1, x.numel() // QUARTER)).values
