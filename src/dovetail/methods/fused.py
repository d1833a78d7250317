"""Beyond the ConFiner paper: each expert is believed where it is strong, in one look of each.

    a <- spatial(x, t);  b <- temporal(x, t)
    x0 <- low(b) + (a - low(a))         low: a Gaussian blur over each frame

Coarse structure, and with it the motion, is the temporal expert's, fine detail the spatial one's. No
noise is added, and the two calls do not wait for each other.
"""

from dataclasses import dataclass

from torch import Tensor

from dovetail.core.blur import blurred
from dovetail.core.denoiser import Denoiser
from dovetail.core.path import Split, split


@dataclass(frozen=True)
class Fused:
    """Denoiser of a spatial and a temporal denoiser, one call of each.

    blur: the standard deviation of `low`, in latent pixels, more than 0.
    """

    spatial: Denoiser
    temporal: Denoiser
    blur: float = 1.0

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        a = self.spatial(x, t, frames).x0
        b = self.temporal(x, t, frames).x0
        return split(x, a + blurred(b - a, self.blur), t)
