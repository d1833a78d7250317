"""Optical flow by dense inverse search (Kroeger et al., 2016) as OpenCV has it, and what moves along with it.

A flow "n 2 h w" (x, y, pixels) says where each pixel of a frame goes: after(x + F(x)) shows what before(x) showed.
OpenCV comes with the extra `eval`; it is imported when a flow is asked for, never before.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from dovetail.errors import ExtraError

SMALLEST, LARGEST = 128, 256
"""Flow is looked for in frames whose shorter side is brought between these: larger is slow, smaller is coarse."""


def opencv() -> Any:
    """OpenCV, with as many threads as torch. Raises ExtraError where it is not installed."""
    try:
        import cv2
    except ImportError:
        raise ExtraError("optical flow needs OpenCV, which is not installed", "eval") from None
    cv2.setNumThreads(torch.get_num_threads())
    return cv2


def shrunk(frames: Tensor) -> Tensor:
    """Frames "f c h w" no larger than is looked at."""
    return _sized(frames, min(min(frames.shape[2:]), LARGEST))


def fitted(frames: Tensor) -> Tensor:
    """Frames "f c h w" at the size in which flow is looked for."""
    return _sized(frames, min(max(min(frames.shape[2:]), SMALLEST), LARGEST))


def _sized(frames: Tensor, side: int) -> Tensor:
    """Frames with a shorter side so long; proportions are kept."""
    short = min(frames.shape[2:])
    if side == short:
        return frames
    height, width = (round(length * side / short) for length in frames.shape[2:])
    return interpolate(frames, (height, width), mode="bilinear", antialias=side < short, align_corners=False)


def flows(before: Tensor, after: Tensor) -> Tensor:
    """The flow "n 2 h w" from each frame to the one at the same place; both "n 3 h w" in [-1, 1]."""
    if not len(before):
        return torch.zeros(0, 2, *before.shape[2:])
    cv2 = opencv()
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    found = [search.calc(a, b, None) for a, b in zip(_grey(before), _grey(after), strict=True)]
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous()


def _grey(frames: Tensor) -> Any:
    weights = torch.tensor([0.299, 0.587, 0.114])
    grey = torch.einsum("fchw,c->fhw", frames.float().cpu(), weights)
    return ((grey.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()


def fetched(picture: Tensor, flow: Tensor) -> Tensor:
    """What lies at x + flow(x) in pictures "n c h w"; beyond the border, the border."""
    height, width = flow.shape[2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    across = (flow[:, 0] + x) * (2 / max(width - 1, 1)) - 1
    down = (flow[:, 1] + y) * (2 / max(height - 1, 1)) - 1
    grid = torch.stack([across, down], 3)
    return grid_sample(picture, grid, mode="bilinear", padding_mode="border", align_corners=True)


def agreeing(there: Tensor, back: Tensor) -> Tensor:
    """Where a flow and the one back lead home, "n h w" bool; elsewhere something is hidden. Sundaram et al., 2010."""
    returned = fetched(back, there)
    off = (there + returned).square().sum(1)
    return off < 0.01 * (there.square().sum(1) + returned.square().sum(1)) + 0.5


def between(before: Tensor, after: Tensor) -> Tensor:
    """The frames half way between two, "n c h w": each is moved half the way to the other, and the two averaged."""
    came = fetched(before, flows(before, after) * -0.5)
    return (came + fetched(after, flows(after, before) * -0.5)) / 2
