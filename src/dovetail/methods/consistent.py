"""ConFiner-Long's consistency initialisation. Li et al., 2024, arXiv:2408.13423, section 3.5.

One base noise of L frames; segment n starts from a frame-wise permutation of it, the first from the base itself:

    eps_n[f] = base[perm_n(f)]

Beyond the paper, against content that comes back with every segment, the base gives way to fresh noise:

    eps_n = cos(theta_n) base[perm_n] + sin(theta_n) fresh_n,   theta_n = acos(strength) + turn (n - 1),  n = 1, 2, ..

Both parts are unit noise and independent, so the variance stays 1. And in place of its frames, which say where things go
as well, the base may give the means of its blocks alone, which say how they look; the rest is fresh for each frame:

    eps_n[f] = fresh_n[f] - mean(fresh_n) + cos(theta_n) mean(base) + sin(theta_n) mean(fresh_n)      means over f's block

The mean of independent normal noise and what differs from it are independent, so a block's frames are again. Nothing is
drawn before it is asked for: where a frame's noise comes from is a function of the frame. Readings:
docs/methods/confiner-long.md.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from einops import reduce
from torch import Tensor

from dovetail.core.noise import Noise


@dataclass(frozen=True)
class Consistent:
    """The noise that a stage's segments of `length` frames start from.

    noise: the stage's own. strength: how much of the base the second segment has, 0 to 1; at 0 every frame has noise
    of its own, as without this method. turn: radians by which a segment has less of it than the one before. block:
    frames that are permuted among themselves, all of a segment by default; it must divide `length`, else ValueError.
    shared: what of the base others have, its frames or the means of its blocks.
    """

    noise: Noise
    length: int
    strength: float = 1.0
    turn: float = 0.0
    block: int | None = None
    shared: Literal["frames", "means"] = "frames"

    def __post_init__(self) -> None:
        if self.length < 1 or self.length % (self.block or self.length):
            raise ValueError(f"blocks of {self.block} frames do not fill a base of {self.length}; take a divisor of it")
        if not 0 <= self.strength <= 1 or self.turn < 0:
            raise ValueError(f"strength lies in [0, 1] and turn is not negative, not {self.strength:g}, {self.turn:g}")

    def source(self, frames: Tensor) -> Tensor:
        """The frame of the base that each of these global frames starts from, both "b f". Means are permuted by nothing."""
        if self.shared == "means":
            return frames % self.length
        block = self.block or self.length
        found = frames.clone()
        for number in set((frames // block).flatten().tolist()):
            if number * block >= self.length:
                first = number * block % self.length
                order = torch.tensor(self.noise.order(block, "segment", number)) + first
                here = frames // block == number
                found[here] = order[frames[here] % block]
        return found

    def share(self, segment: int) -> float:
        """cos(theta): how much of the base is in a segment's noise, from 1 for the first (0) down to 0."""
        if segment == 0:
            return 1.0
        share = math.cos(min(math.acos(self.strength) + self.turn * (segment - 1), math.pi / 2))
        return share if share > 1e-12 else 0.0

    def eps(self, x: Tensor, frames: Tensor, *of: object) -> Tensor:
        """Unit noise like x, "b c f h w", for the global frames "b f". of: which, that of the start by default."""
        key = of or ("start",)
        if self.shared == "means":
            own, mean = self.noise.like(x, frames, *key), self._means(x, frames, *key)
            cos, sin = self._shares(x, frames)
            return own + (cos * self._means(x, self.source(frames), *key) + (sin - 1) * mean)
        base = self.noise.like(x, self.source(frames), *key)
        if self.strength == 1 and self.turn == 0:
            return base
        cos, sin = self._shares(x, frames)
        return cos * base + sin * self.noise.like(x, frames, *key)

    def _shares(self, x: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """cos(theta) and sin(theta) of each frame, "b 1 f 1 1"."""
        shares = [[self.share(segment) for segment in row] for row in (frames // self.length).tolist()]
        cos = torch.tensor(shares, dtype=torch.float64)[:, None, :, None, None]
        return cos.to(x), (1 - cos**2).sqrt().to(x)

    def _means(self, x: Tensor, frames: Tensor, *key: object) -> Tensor:
        """For each frame the mean noise of the block that it is of, "b c f h w"."""
        block = self.block or self.length
        numbers = frames // block
        means = {}
        for number in set(numbers.flatten().tolist()):
            within = torch.arange(number * block, (number + 1) * block)[None]
            means[number] = reduce(self.noise.like(x, within, *key), "1 c f h w -> c h w", "mean")
        return torch.stack([torch.stack([means[number] for number in row], dim=1) for row in numbers.tolist()])
