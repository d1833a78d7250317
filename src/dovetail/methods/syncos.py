"""SynCoS: one story over many windows, by synchronized coupled sampling. Kim et al., 2025, arXiv:2503.08605.

    1  x0  <- the windows' estimates from x, averaged where they overlap              smooth from frame to frame
    2  while t > floor, with one eps for all its looks, and t as it is:
           D_j <- what window j sees in mix(x0, eps, t),  r_j = x0_j - D_j
           x0  <- x0 - rate * (sum_j k_ij r_j, averaged where windows overlap)        one story
    3  leave t along (x0, eps);  at or below the floor along the noise that x holds, given x0

The paper writes stage 2 for a network that predicts eps; its residual is (x0 - D) alpha / sigma, and that of v or flow
(x0 - D) / sigma, so in x0 it is one for all. Readings of what the paper leaves open: docs/methods/syncos.md.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dovetail.core.combine import Windowed
from dovetail.core.denoiser import Denoiser
from dovetail.core.ladders import Mask
from dovetail.core.noise import Noise
from dovetail.core.path import Split, mix
from dovetail.core.windows import WEIGHTS, gather, inner, scatter, tile
from dovetail.methods.consistent import Consistent
from dovetail.methods.descent import DESCENTS
from dovetail.methods.reaching import afar, anchored, drawn
from dovetail.methods.stein import KERNELS, couple

BASES, STAGES = ("step", "video", "iteration"), ("all", "outer", "inner")


@dataclass(frozen=True)
class Coupled:
    """Denoiser of windows over a long video, which are shown the whole of it.

    noise: the stage's own. start: where windows start from noise that they share; so do they then look, too.

    Stage 2. floor: it acts where t > floor; steps: and at which levels there, by default at all. iterations, rate;
    optimiser: "picard", or "adamw" without weight decay, begun anew at every level. tolerance: it ends once an iteration
    asks for a change of less than this share of x0. kernel: how windows share, see `stein.couple`; bandwidth, repulsion:
    how far a Stein kernel reaches, and whether it keeps them apart. minibatch: windows in each iteration, drawn anew; all
    by default. again: who is asked of a window, by default who is asked in stage 1. base: one noise for each "step", one
    for the "video" (that which a stage starts from by default), or one for each "iteration". levels: each iteration looks
    through one of these, drawn; none given: through t ("grounded").

    stages: "all", the "outer" (1 and 3) or the "inner" (2, on a video that is kept from level to level). wide: the
    windows' stride at and below the floor, by default the same. anchor, keyframes: beyond the paper, how much distant
    windows go by the first one, and by a clip of frames from the whole video; see `reaching`.

    Raises ValueError for unknown words.
    """

    windows: Windowed
    noise: Noise
    floor: float = 0.95
    iterations: int = 4
    rate: float = 1.0
    optimiser: str = "picard"
    kernel: str = "stein"
    repulsion: bool = True
    minibatch: int | None = None
    again: Denoiser | None = None
    base: str = "step"
    levels: tuple[float, ...] = ()
    stages: str = "all"
    tolerance: float = 0.0
    wide: int | None = None
    steps: Mask | None = None
    anchor: float = 0.0
    keyframes: float = 0.0
    bandwidth: float = 1.0
    start: Consistent | None = None

    def __post_init__(self) -> None:
        for name, words in {"optimiser": DESCENTS, "kernel": KERNELS, "base": BASES, "stages": STAGES}.items():
            if getattr(self, name) not in words:
                raise ValueError(f"{name} is one of {', '.join(words)}, not {getattr(self, name)!r}")

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        return self.second(self.first(x, t, frames), t, frames) if self.acts(t) else self.first(x, t, frames)

    def acts(self, t: float) -> bool:
        """Whether stage 2 does anything at this level."""
        return t > self.floor and self.stages != "outer" and (self.steps is None or self.steps(t))

    def first(self, x: Tensor, t: float, frames: Tensor) -> Split:
        """Stage 1. Without it the latent is the video itself, which leaves every level as it is."""
        if self.stages == "inner":
            return Split(x, x)
        wide = self.windows.stride if self.wide is None or t > self.floor else self.wide
        return replace(self.windows, stride=wide)(x, t, frames)

    def second(self, seen: Split, t: float, frames: Tensor) -> Split:
        """Stage 2 of each video in the batch, from what stage 1 saw."""
        told = [self.agreed(seen.x0[i : i + 1], t, frames[i : i + 1]) for i in range(len(frames))]
        x0, eps = (torch.cat(parts) for parts in zip(*((one.x0, one.eps) for one in told), strict=True))
        return Split(x0, x0 if self.stages == "inner" else eps)

    def agreed(self, x0: Tensor, t: float, frames: Tensor) -> Split:
        """Stage 2: one video "1 c f h w" that its windows agree on, and the noise through which they looked."""
        eps, past = self._eps(x0, t, frames, 0), None
        for i in range(self.iterations):
            eps = self._eps(x0, t, frames, i) if self.base == "iteration" else eps
            pull = self.pull(x0, eps, t, frames, i)
            x0, past = DESCENTS[self.optimiser](x0, pull, self.rate, past)
            if self.tolerance and pull.norm() < self.tolerance * x0.norm():
                break
        return Split(x0, eps)

    def pull(self, x0: Tensor, eps: Tensor, t: float, frames: Tensor, i: int) -> Tensor:
        """Which way x0 departs from what its windows, coupled, see in it."""
        at = self.levels[self.noise.order(len(self.levels), "level", t, i)[0]] if self.levels else t
        size, look = self.windows.size, self.again or self.windows.video
        spans = tile(x0.shape[2], size, self.windows.stride)
        if self.minibatch is not None and self.minibatch < len(spans):
            spans = drawn(spans, self.noise.order(len(spans), "windows", t, i)[: self.minibatch], self.anchor > 0)
        rows, shown = gather(mix(x0, eps, at), frames, spans)
        seen = look(rows, at, shown).x0
        doubts = gather(x0, frames, spans)[0] - seen
        told = couple(self.kernel, rows, doubts, at * self.repulsion, self.optimiser == "picard", self.bandwidth)
        told = told + self.anchor * anchored(seen) if self.anchor else told
        weight = inner(WEIGHTS[self.windows.weights](rows.shape[2]), shown, self.windows.first)
        # Frames of which no window of a minibatch says anything stay as they are.
        asked = torch.isin(frames[0], shown[weight > 0]).to(x0.device)[:, None, None]
        pull = scatter(told, spans, weight, x0.shape[2]).where(asked, torch.zeros_like(x0))
        return pull + self.keyframes * afar(look, x0, eps, at, frames, size) if self.keyframes else pull

    def _eps(self, x: Tensor, t: float, frames: Tensor, i: int) -> Tensor:
        keys: dict[str, tuple[object, ...]] = {"step": ("base", t), "video": ("start",), "iteration": ("base", t, i)}
        return (self.start.eps if self.start else self.noise.like)(x, frames, *keys[self.base])
