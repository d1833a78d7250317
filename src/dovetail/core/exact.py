"""Denoisers in closed form: no weights, milliseconds, and answers that are known beforehand.

Use them as test doubles: a method tried on them shows what it does by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot

from torch import Tensor

from dovetail.core.denoiser import Condition, Denoiser, Expert, Target
from dovetail.core.path import Split, split
from dovetail.core.schedules import Schedule


@dataclass(frozen=True)
class Gaussian:
    """Videos drawn from N(mean, std^2), elementwise, so that E[x0 | x] is linear in x.

    With std 0 there is one video, and every step of every sampler lands on it.
    """

    mean: float = 0.0
    std: float = 1.0

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        variance = hypot((1 - t) * self.std, t) ** 2
        gain = (1 - t) * self.std**2 / variance
        return split(x, self.mean + gain * (x - (1 - t) * self.mean), t)

    def flow(self, x: Tensor, t: float, to: float) -> Tensor:
        """Where the sampling ODE carries a latent at t, exactly: every quantile keeps its place."""
        ratio = hypot((1 - to) * self.std, to) / hypot((1 - t) * self.std, t)
        return (1 - to) * self.mean + ratio * (x - (1 - t) * self.mean)


def spoken(denoise: Denoiser, schedule: Schedule, target: Target, name: str = "exact") -> Expert:
    """An expert that says in a family's dialect what `denoise` knows: a stand-in for a network.

    >>> import torch
    >>> from dovetail.core import denoiser, schedules
    >>> expert = spoken(Gaussian(3.0, 0.0), schedules.Flow(), denoiser.predicts_flow)
    >>> seen = expert.given("anything")(torch.zeros(1, 4, 2, 8, 8), 0.5, torch.arange(2)[None])
    >>> float(seen.x0.mean())
    3.0
    """

    def network(native: Tensor, time: float, conditions: Sequence[Condition], frames: Tensor) -> Tensor:
        t = schedule.share(time)
        scale = schedule.scale(t)
        a, b = target(scale * (1 - t), scale * t)
        seen = denoise(native / scale, t, frames)
        return a * seen.x0 + b * seen.eps

    return Expert(name, schedule, target, network)
