"""Gaussian blur of frames: along each axis a product with a banded matrix, which is faster than to convolve."""

import math
from functools import lru_cache

import torch
from torch import Tensor


def blurred(frames: Tensor, deviation: float) -> Tensor:
    """Frames "... h w", blurred by a Gaussian cut off at three standard deviations; borders are repeated.

    deviation: in pixels, more than 0.

    >>> spot = torch.zeros(5, 5).index_put((torch.tensor(2), torch.tensor(2)), torch.tensor(1.0))
    >>> soft = blurred(spot, 0.5)
    >>> round(float(soft.sum()), 3), round(float(soft[2, 2]), 3), round(float(soft[2, 1] / soft[2, 2]), 3)
    (1.0, 0.619, 0.135)
    """
    height, width = frames.shape[-2:]
    return _band(height, deviation).to(frames) @ frames @ _band(width, deviation).T.to(frames)


@lru_cache(maxsize=16)
def _band(size: int, deviation: float) -> Tensor:
    """What each of `size` places in a row takes of the others."""
    reach = torch.arange(-math.ceil(3 * deviation), math.ceil(3 * deviation) + 1)
    kernel = torch.exp(-((reach / deviation) ** 2) / 2)
    # A place beyond a border counts for the border's own.
    places = (torch.arange(size)[:, None] + reach).clamp(0, size - 1)
    return torch.zeros(size, size).scatter_add(1, places, (kernel / kernel.sum()).expand(size, -1))
