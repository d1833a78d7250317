"""Baseline: FIFO-Diffusion, a queue of frames, each noisier than the one before. Kim et al., 2024, arXiv:2405.11473.

    z_1 .. z_n at levels tau_1 < .. < tau_n                           n: the ladder's steps
    repeat:  z_q <- the step from tau_q to tau_{q-1}, tau_0 = 0       every frame, one step ("diagonal denoising")
             z_1 is finished; the others move up; noise joins at the end

The expert is asked with a noise share for every frame, in clips of f. Each clip begins with f / 2 frames that are less
noisy, and only the other half takes its step ("lookahead denoising"). The queue begins as a clip of the expert's own, noised
frame by frame, its first frame repeated where it is too short; the n - f frames that these become are left out.

It is no denoiser, as its frames stand at levels of their own, and no network here learned to be asked so: exact experts can
be. Readings: docs/methods/syncos.md.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import count

import torch
from torch import Tensor

from dovetail.core.denoiser import timeline
from dovetail.core.noise import Noise
from dovetail.core.path import Split, split
from dovetail.core.sampler import Euler, last, sample

Look = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(path latent "b c f h w", noise share of each frame "b f", global frames "b f") -> E[x0 | x]; a share may be 0."""


def fifo(look: Look, noise: Noise, levels: Sequence[float], size: int, shape: tuple[int, int, int]) -> Iterator[Tensor]:
    """The frames of a video without end, one by one, "1 c 1 h w".

    levels: from 1 down to 0, in n steps; size: f, frames of a clip; shape: channels, height and width of the latent.
    Frames before the first that is handed out have negative numbers. Raises ValueError for a clip that cannot be halved, or
    a queue that is no whole number of halves.
    """
    n, half = len(levels) - 1, size // 2
    if size % 2 or n % half or n < size:
        raise ValueError(f"the queue holds a frame for each of {n} steps, which are to be clips of {size} in halves")
    c, h, w = shape

    def fresh(frames: Tensor) -> Tensor:
        return noise.like(torch.zeros(1, c, frames.shape[1], h, w), frames, "start")

    def alike(x: Tensor, t: float, frames: Tensor) -> Split:
        return split(x, look(x, torch.full(frames.shape, t), frames), t)

    clip = last(sample(alike, fresh(timeline(size)), timeline(size), levels, Euler())).seen.x0
    began = torch.arange(-half - (n - size), size)[None]
    # Half a clip of finished frames, then the queue.
    now, to = (torch.tensor([[0.0] * half + rising]) for rising in (list(levels[-2::-1]), list(levels[:0:-1])))
    z = clip[:, :, began[0].clamp_min(0)].lerp(fresh(began), now[:, None, :, None, None])
    for step in count():
        frames = began + step
        z = torch.cat([z[:, :, :half], *_steps(look, z, now, to, frames, size)], 2)
        if step >= n - size:
            yield z[:, :, half : half + 1]
        z = torch.cat([z[:, :, 1:], fresh(frames[:, -1:] + 1)], 2)


@torch.no_grad()
def _steps(look: Look, z: Tensor, now: Tensor, to: Tensor, frames: Tensor, size: int) -> Iterator[Tensor]:
    """Of each clip the noisier half, one step on."""
    half = size // 2
    for start in range(0, z.shape[2] - half, half):
        clip, later = slice(start, start + size), slice(start + half, start + size)
        x, t, end = z[:, :, later], now[:, None, later, None, None], to[:, None, later, None, None]
        x0 = look(z[:, :, clip], now[:, clip], frames[:, clip])[:, :, half:]
        yield x0.lerp(x0.lerp(x, 1 / t), end)
