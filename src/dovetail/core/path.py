"""The straight path from a video to noise.

Every latent in this library is x = (1 - t) * x0 + t * eps, with t in [0, 1]: t = 0 is the video,
t = 1 is pure noise. Other schedules (DDPM, EDM) are this same path, scaled; `schedules.py` does the
scaling, and nothing else ever sees it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Split:
    """A latent taken apart: the video `x0` and the noise `eps` it is a mix of, both "b c f h w".

    >>> import torch
    >>> seen = Split(torch.zeros(1, 4, 2, 8, 8), torch.ones(1, 4, 2, 8, 8))
    >>> float(seen.mix(0.25).mean())
    0.25
    """

    x0: Tensor
    eps: Tensor

    def mix(self, t: float) -> Tensor:
        """The latent of these two parts at noise share t. One DDIM (eta 0) or flow Euler step."""
        return mix(self.x0, self.eps, t)

    def lerp(self, other: "Split", weight: float) -> "Split":
        """The way from this split to the other, and beyond for weight > 1."""
        return Split(self.x0.lerp(other.x0, weight), self.eps.lerp(other.eps, weight))

    def map(self, change: Callable[[Tensor], Tensor]) -> "Split":
        """The same change to both parts."""
        return Split(change(self.x0), change(self.eps))


def mix(x0: Tensor, eps: Tensor, t: float) -> Tensor:
    """(1 - t) * x0 + t * eps: add noise. Design page: docs/algebra.md."""
    return x0.lerp(eps, t)


def split(x: Tensor, x0: Tensor, t: float) -> Split:
    """Take x apart, once its video is known: the noise lies on the line from x0 through x.

    t must lie in (0, 1]; at t = 0 a latent has no noise to find.
    """
    return Split(x0, x0.lerp(x, 1 / t))
