"""FlowBlending: the large model where its size tells. Song et al., 2025, arXiv:2512.24724.

    m(k) = L if k < K_e or k >= N - K_l else S          k = 0 .. N - 1, from noise to video
    u_k = CFG_m(k)(x_k, s_k, prompt)
    x_{k+1} = solver(x_k, u_k, s_k -> s_{k+1})

A hard switch per step, one ladder, one initial noise; nothing is interpolated. Steps are known by their noise share,
so K_e and K_l become boundaries of t, which mean the same on any ladder. Any number of experts may follow one another;
each is guided by itself. Readings of what the paper leaves open: docs/methods/flowblending.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from dovetail.core.denoiser import Denoiser
from dovetail.core.ladders import Ladder, interval
from dovetail.core.path import Split


@dataclass(frozen=True)
class Blended:
    """Denoiser of denoisers, each on an interval of noise shares: the first above the first boundary, and so on.

    boundaries: one fewer than experts, not rising, in [0, 1], else ValueError. A boundary itself belongs below; 1 leaves
    nothing above it, and two that are equal nothing between.
    """

    experts: tuple[Denoiser, ...]
    boundaries: tuple[float, ...]

    @classmethod
    def of(cls, ladder: Ladder, steps: Sequence[Denoiser]) -> "Blended":
        """The denoiser that asks steps[k] at step k of a ladder; neighbours that are equal are one interval.

        Raises ValueError unless there is one per step.
        """
        if len(steps) != ladder.steps:
            raise ValueError(f"a ladder of {ladder.steps} steps needs a denoiser for each, not {len(steps)}")
        changes = [k for k in range(1, len(steps)) if steps[k] != steps[k - 1]]
        return cls((steps[0], *(steps[k] for k in changes)), tuple(ladder.between(k) for k in changes))

    def __post_init__(self) -> None:
        bounds = (1.0, *self.boundaries, 0.0)
        if len(self.boundaries) != len(self.experts) - 1:
            raise ValueError(
                f"{len(self.experts)} experts have {len(self.experts) - 1} boundaries between them, not {len(self.boundaries)}"
            )
        if any(not high >= low for high, low in pairwise(bounds)):
            raise ValueError(f"boundaries lie in [0, 1] and fall, from noise to video; these do not: {self.boundaries}")

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        return self.experts[interval(t, self.boundaries)](x, t, frames)
