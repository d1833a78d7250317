"""Where a token lies, told by turning its queries and keys: a third of each head for time, for height and for width."""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

BASE = 10_000.0
"""The slowest of n angles grows by nearly 1 / BASE from one place to the next."""


@dataclass(frozen=True)
class Turns:
    """The turns of all tokens: cosines and sines "n 1 3 k", by time, height and width."""

    cosines: Tensor
    sines: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Rotary positions (Su et al., 2021, arXiv:2104.09864) of heads "b n h d": in each third of d, number i of the first
        half and number i of the second are turned by one angle."""
        a, b = rearrange(x, "b n h (three half k) -> half b n h three k", three=3, half=2)
        both = torch.stack((a * self.cosines - b * self.sines, b * self.cosines + a * self.sines))
        return rearrange(both, "half b n h three k -> b n h (three half k)")


def turns(
    size: tuple[int, int, int], head: int, scales: tuple[float, float, float], dtype: torch.dtype, device: torch.device
) -> Turns:
    """The turns of a clip's tokens, in order of time, height and width.

    size: frames, height and width in tokens. head: numbers of a head, a multiple of 6. scales: places along an axis are
    divided by its scale. Angles are made in float32, then rounded to `dtype` before their cosines, as the authors' code
    does: in half precision that is part of what the network was trained and published with.

    >>> made = turns((2, 3, 4), 12, (1.0, 1.0, 1.0), torch.float32, torch.device("cpu"))
    >>> made.sines.shape, [round(float(sine), 4) for sine in made.sines[23, 0, :, 0]]
    (torch.Size([24, 1, 3, 2]), [0.8415, 0.9093, 0.1411])
    """
    third = head // 3
    frequencies = 1 / BASE ** (torch.arange(0, third, 2, device=device).float() / third)
    places = [torch.arange(n, device=device).float() / scale for n, scale in zip(size, scales, strict=True)]
    angles = [torch.outer(along, frequencies).to(dtype) for along in places]
    time, height, width = (
        angle[tuple(slice(None) if i == axis else None for i in range(3))].expand(*size, -1)
        for axis, angle in enumerate(angles)
    )
    each = rearrange(torch.stack((time, height, width), -2), "f h w three k -> (f h w) 1 three k")
    return Turns(each.cos(), each.sin())
