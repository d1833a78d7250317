"""Baseline: long video by re-injecting the tail. Each window begins with the last frames of the one before it.

    x_t[known] <- mix(tail, eps, t)     at every level, eps always the same
    x0[known]  <- tail

It is what inpainting without training does (RePaint, Lugmayr et al., 2022, arXiv:2201.09865, without its repetitions),
with time in place of space, and the autoregressive baseline of long video. Errors add up from window to window.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dovetail.core.denoiser import Denoiser
from dovetail.core.noise import Noise
from dovetail.core.path import Split, mix
from dovetail.core.stages import Segment


@dataclass(frozen=True)
class Reinjected:
    """Sequel of a denoiser, for windows that overlap: frames that the window before has made are known.

    noise: the stage's own.
    """

    denoise: Denoiser
    noise: Noise

    def after(self, before: Segment | None) -> Denoiser:
        return self.denoise if before is None else Continued(self.denoise, self.noise, before)


@dataclass(frozen=True, eq=False)
class Continued:
    """Denoiser of one window, which keeps what the window before it has made."""

    denoise: Denoiser
    noise: Noise
    before: Segment

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        made = self.before.frames[0].tolist()
        known = [frame in made for frame in frames[0].tolist()]
        tail = self.before.states[-1].seen.x0[:, :, [made.index(f) for f in frames[0].tolist() if f in made]]
        video, eps = x.clone(), self.noise.like(x, frames, "start")
        video[:, :, known] = tail
        held = torch.tensor(known, device=x.device)[:, None, None]
        seen = self.denoise(torch.where(held, mix(video, eps, t), x), t, frames)
        return Split(torch.where(held, video, seen.x0), torch.where(held, eps, seen.eps))
