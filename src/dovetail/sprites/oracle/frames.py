"""Frames as the oracle wants them."""

import torch
from torch import Tensor
from torch.nn import functional

from dovetail.sprites.world import SIZE


def read(video: Tensor) -> Tensor:
    """Frames "f 3 64 64" in [0, 1], from floats "f 3 h w" in [-1, 1] or uint8 "f h w 3"; square, of any size."""
    whole = video.dtype == torch.uint8
    if video.ndim != 4 or video.shape[3 if whole else 1] != 3 or not len(video):
        raise ValueError(
            f"the oracle got frames of shape {tuple(video.shape)} and {video.dtype}; "
            'it reads uint8 "f h w 3", or floats "f 3 h w" in [-1, 1], with at least one frame'
        )
    frames = video.detach().cpu()
    frames = frames.permute(0, 3, 1, 2).float() / 255 if whole else (frames.float() + 1) / 2
    height, width = frames.shape[2:]
    if height != width:
        raise ValueError(f"the oracle got frames of {width} x {height} pixels; the sprite world is square")
    if not bool(frames.isfinite().all()):
        raise ValueError("the oracle got frames with NaN or infinite values")
    if height != SIZE:
        frames = functional.interpolate(frames, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
    return frames.clamp(0, 1)


def lab(frames: Tensor) -> Tensor:
    """CIE L*a*b* (D65) of sRGB "f 3 h w" in [0, 1]: a distance of about 2 is just visible."""
    linear = torch.where(frames <= 0.04045, frames / 12.92, ((frames + 0.055) / 1.055) ** 2.4)
    # The rows are X, Y and Z, each over that of white.
    to_xyz = torch.tensor([[0.43395, 0.37622, 0.18983], [0.21267, 0.71516, 0.07217], [0.01776, 0.10947, 0.87277]])
    xyz = torch.einsum("kc,fchw->fkhw", to_xyz, linear)
    x, y, z = torch.where(xyz > (6 / 29) ** 3, xyz.clamp(min=1e-6) ** (1 / 3), xyz * (29 / 6) ** 2 / 3 + 4 / 29).unbind(
        1
    )
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)
