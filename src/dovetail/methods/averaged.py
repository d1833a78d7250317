"""Baseline: both experts look at the same latent, and their estimates are averaged.

    x0 <- (1 - w) spatial(x, t).x0 + w temporal(x, t).x0

One call of each per step, in any order or at once; no noise is added. Read as a product of experts, w is
the share of the evidence that the temporal one holds.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from dovetail.core.denoiser import Denoiser
from dovetail.core.path import Split


@dataclass(frozen=True)
class BySNR:
    """A temporal weight that falls from 1 in noise to 0 in the video: 1 / (1 + (snr / even) ** power).

    even: the signal-to-noise ratio ((1 - t) / t) ** 2 at which both experts count the same.
    """

    even: float
    power: float = 1.0

    def __call__(self, t: float) -> float:
        return 1 / (1 + math.pow((1 - t) ** 2 / t**2 / self.even, self.power))


@dataclass(frozen=True)
class Averaged:
    """Denoiser of two denoisers, averaged. weight: the temporal one's, a number or a function of SNR."""

    spatial: Denoiser
    temporal: Denoiser
    weight: float | BySNR = 0.5

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        weight = self.weight(t) if isinstance(self.weight, BySNR) else self.weight
        return self.spatial(x, t, frames).lerp(self.temporal(x, t, frames), weight)
