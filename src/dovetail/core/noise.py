"""Noise is a function, not a stream: the same seed, key and frame give the same tensor.

So call order, windows, workers, resume and device cannot change what noise a frame gets.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Noise:
    """Standard normal noise, addressed by seed, key and global frame index.

    >>> noise, frames = Noise(7), torch.arange(4)[None]
    >>> x = torch.zeros(1, 4, 4, 8, 8)
    >>> window = noise.like(x[:, :, 2:], frames[:, 2:], "start")
    >>> bool((noise.like(x, frames, "start")[:, :, 2:] == window).all())
    True
    """

    seed: int
    stage: str = ""

    def of(self, stage: str) -> "Noise":
        """The same seed's noise for another stage."""
        return Noise(self.seed, stage)

    def like(self, x: Tensor, frames: Tensor, *key: object) -> Tensor:
        """Noise for a latent "b c f h w" whose rows hold the global frames "b f".

        Drawn on the CPU in float32, then cast to x. A frame that stands in several rows gets the
        same noise in each.

        torch's CPU generator takes 32 bits of an address' hash: among a million of them about a hundred
        pairs share their noise.
        """
        shape = (x.shape[1], *x.shape[3:])
        drawn = {frame: self._draw(shape, (*key, frame)) for frame in set(frames.flatten().tolist())}
        rows = [torch.stack([drawn[frame] for frame in row], dim=1) for row in frames.tolist()]
        return torch.stack(rows).to(x)

    def order(self, n: int, *key: object) -> list[int]:
        """The numbers below n in a random order, addressed as noise is.

        >>> sorted(Noise(7).order(4, "segment", 1))
        [0, 1, 2, 3]
        """
        order: list[int] = torch.randperm(n, generator=self._generator(("order", *key))).tolist()
        return order

    def _draw(self, shape: tuple[int, ...], key: tuple[object, ...]) -> Tensor:
        return torch.randn(shape, generator=self._generator(key), dtype=torch.float32)

    def _generator(self, key: tuple[object, ...]) -> torch.Generator:
        digest = hashlib.blake2b(repr((self.seed, self.stage, *key)).encode(), digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
