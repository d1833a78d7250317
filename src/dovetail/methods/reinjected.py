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
        video, eps = self.given(x, frames), self.noise.like(x, frames, "start")
        held = torch.tensor(self._known(frames), device=x.device)[:, None, None]
        seen = self.denoise(torch.where(held, mix(video, eps, t), x), t, frames)
        return Split(torch.where(held, video, seen.x0), torch.where(held, eps, seen.eps))

    def given(self, video: Tensor, frames: Tensor) -> Tensor:
        """The video with what the window before has made of it."""
        made, video = self.before.frames[0].tolist(), video.clone()
        places = [made.index(frame) for frame in frames[0].tolist() if frame in made]
        video[:, :, self._known(frames)] = self.before.states[-1].seen.x0[:, :, places]
        return video

    def _known(self, frames: Tensor) -> list[bool]:
        made = self.before.frames[0].tolist()
        return [frame in made for frame in frames[0].tolist()]
