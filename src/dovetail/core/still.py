"""Finished frames, held to what stands still in the first ones.

    still  = the median of the first frames, pixel by pixel
    d = still - frame;  c = the median of d over pixels, channel by channel           what the frame's ground lacks
    w = (1 - (|d - c| / (within median |d - c|))^2)^2                                 0 beyond: what lacks as most does
    v = (1 - (|frame + c - median still| / |c|)^2)^2                                  0 beyond: of most pixels' colour
    frame' = frame + w d + (1 - w) v c

A decoder is no function of one place: it shows what surrounds an object otherwise where the object is large, or near, or
away, and where a latent lies between two looks it shows either. So a background that is held in latents (`core.hold`) may
still flicker, drift and jump in pixels. Each frame is drawn to the still picture here: wholly in pixels that lack to it
what most do, by Tukey's biweight; what stands out is what moves and is left as it is, with its own colour. Something that
moves stood in the still picture, too, where a frame now shows its ground: pixels of which the frame's own change would make
most pixels' colour are given that change. Frames are held one by one, so any part of a video can be made again by itself.
Beyond all four papers; for a camera that stands.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dovetail.core.hold import frame, middle, tiny

STEP = 2 / 255
"""One step of 8 bits, for pixels in [-1, 1]: what lacks less than that is no reason to let go of a pixel."""


@dataclass(frozen=True)
class Still:
    """How frames are held. frames: how many of the first make the still picture; within: how many times what most pixels
    lack one may lack.

    >>> import torch
    >>> video = torch.zeros(4, 3, 8, 8)
    >>> video[2] += 0.5  # a flash
    >>> video[2:, :, 2:4, 2:4] = 1.0  # an object
    >>> still = Still(frames=2)
    >>> held = still(video, still.picture(video))
    >>> held[2, 0, 0, 0].item(), held[2, 0, 2, 2].item()
    (0.0, 1.0)
    """

    frames: int = 16
    within: float = 3.0

    def picture(self, pixels: Tensor) -> Tensor:
        """What stands still in the first frames, "c h w" of "f c h w" in [-1, 1]."""
        return frame(pixels[: self.frames].movedim(1, 0)[None])[0, :, 0]

    def __call__(self, pixels: Tensor, picture: Tensor) -> Tensor:
        """Frames "f c h w" in [-1, 1], held to a picture "c h w"."""
        to = middle(picture[None, :, None])
        # One by one, for what is between is many times their size.
        return torch.cat([self._one(one[None, :, None], picture[None, :, None], to)[:, :, 0] for one in pixels])

    def _one(self, shown: Tensor, picture: Tensor, to: Tensor) -> Tensor:
        lacks = picture - shown
        change = middle(lacks)
        size = squares(lacks - change)
        like = biweight(size / (self.within**2 * middle(size).clamp(min=STEP**2)))
        there = biweight(squares(shown + change - to) / squares(change).clamp(min=tiny(change)))
        held: Tensor = shown + like * lacks + (1 - like) * there * change
        return held.clamp(-1, 1)


def squares(x: Tensor) -> Tensor:
    """Squared lengths over channels, which stay as one."""
    return x.square().sum(1, keepdim=True)


def biweight(square: Tensor) -> Tensor:
    """Tukey's, of squared distances: from 1 where there is none to 0 from 1 on."""
    return (1 - square).clamp(min=0).square()
