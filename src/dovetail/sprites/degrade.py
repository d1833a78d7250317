"""What the temporal expert is made to believe videos look like: well moving, poorly drawn.

Open video models were trained on worse frames than image models. The sprite world builds that
division of labour in: its temporal expert has only ever seen blurred, low-contrast clips.
"""

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

BLUR = 1.2
"""Standard deviation of the blur, in pixels of a 64-pixel frame."""
CONTRAST = 0.75
"""What is left of the contrast, toward each frame's mean colour."""


def degrade(frames: Tensor) -> Tensor:
    """Blur frames "f c h w" and pull them toward their mean colour."""
    reach = torch.arange(-4, 5)
    kernel = torch.exp(-(reach**2) / (2 * BLUR**2))
    kernel = (kernel / kernel.sum()).to(frames)
    flat = frames.flatten(0, 1)[:, None]
    flat = conv2d(pad(flat, (4, 4, 0, 0), mode="replicate"), kernel[None, None, None, :])
    flat = conv2d(pad(flat, (0, 0, 4, 4), mode="replicate"), kernel[None, None, :, None])
    blurred = flat[:, 0].reshape(frames.shape)
    return blurred.mean((2, 3), keepdim=True).lerp(blurred, CONTRAST)
