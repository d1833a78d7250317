"""ConFiner-Long's consistency initialisation. Li et al., 2024, arXiv:2408.13423, section 3.5.

One base noise of L frames; segment n starts from a frame-wise permutation of it, the first from the base itself:

    eps_n[f] = base[perm_n(f)]

Beyond the paper, against content that comes back with every segment, the base gives way to fresh noise:

    eps_n = cos(theta_n) base[perm_n] + sin(theta_n) fresh_n,   theta_n = acos(strength) + turn (n - 1),  n = 1, 2, ..

Both parts are unit noise and independent, so the variance stays 1. Nothing is drawn before it is asked for: where a
frame's noise comes from is a function of the frame. Readings: docs/methods/confiner-long.md.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dovetail.core.noise import Noise


@dataclass(frozen=True)
class Consistent:
    """The noise that a stage's segments of `length` frames start from.

    noise: the stage's own. strength: how much of the base the second segment has, 0 to 1; at 0 every frame has noise
    of its own, as without this method. turn: radians by which a segment has less of it than the one before. block:
    frames that are permuted among themselves, all of a segment by default; it must divide `length`, else ValueError.
    """

    noise: Noise
    length: int
    strength: float = 1.0
    turn: float = 0.0
    block: int | None = None

    def __post_init__(self) -> None:
        if self.length < 1 or self.length % (self.block or self.length):
            raise ValueError(f"blocks of {self.block} frames do not fill a base of {self.length}; take a divisor of it")
        if not 0 <= self.strength <= 1 or self.turn < 0:
            raise ValueError(f"strength lies in [0, 1] and turn is not negative, not {self.strength:g}, {self.turn:g}")

    def source(self, frames: Tensor) -> Tensor:
        """The frame of the base that each of these global frames starts from, both "b f"."""
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
        base = self.noise.like(x, self.source(frames), *key)
        if self.strength == 1 and self.turn == 0:
            return base
        shares = [[self.share(segment) for segment in row] for row in (frames // self.length).tolist()]
        cos = torch.tensor(shares, dtype=torch.float64)[:, None, :, None, None]
        sin = (1 - cos**2).sqrt()
        return cos.to(base) * base + sin.to(base) * self.noise.like(x, frames, *key)
