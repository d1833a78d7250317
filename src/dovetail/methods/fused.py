"""Beyond the ConFiner paper: each expert is believed where it is strong, in one look of each.

    a <- spatial(x, t);  b <- temporal(x, t)
    x0 <- low(b) + (a - low(a))         low: a Gaussian blur over each frame

Coarse structure, and with it the motion, is the temporal expert's, fine detail the spatial one's. No
noise is added, and the two calls do not wait for each other.
"""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import conv2d, pad

from dovetail.core.denoiser import Denoiser
from dovetail.core.path import Split, split


@dataclass(frozen=True)
class Fused:
    """Denoiser of a spatial and a temporal denoiser, one call of each. blur: of `low`, in latent pixels."""

    spatial: Denoiser
    temporal: Denoiser
    blur: float = 1.0

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        a = self.spatial(x, t, frames).x0
        b = self.temporal(x, t, frames).x0
        return split(x, a + low(b - a, self.blur), t)


def low(video: Tensor, blur: float) -> Tensor:
    """Every frame of "b c f h w", blurred by a Gaussian of this standard deviation; borders are repeated."""
    reach = math.ceil(3 * blur)
    kernel = torch.exp(-((torch.arange(-reach, reach + 1) / blur) ** 2) / 2)
    kernel = (kernel / kernel.sum()).to(video)
    maps = pad(rearrange(video, "b c f h w -> (b c f) 1 h w"), (reach,) * 4, mode="replicate")
    maps = conv2d(conv2d(maps, kernel[None, None, None, :]), kernel[None, None, :, None])
    return rearrange(maps, "(b c f) 1 h w -> b c f h w", b=video.shape[0], c=video.shape[1])
