"""Denoisers made of denoisers."""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from dovetail.core.denoiser import Denoiser, Prompted
from dovetail.core.hold import Hold
from dovetail.core.path import Split
from dovetail.core.windows import WEIGHTS, gather, inner, scatter, tile


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance: away from `negative`, through `positive`, and beyond.

    `joint` asks the expert once, with both branches in one batch; both must then be `Prompted` views
    of one expert, else TypeError or ValueError. Ho & Salimans, 2022, arXiv:2207.12598, Eq. 6 (scale 1
    is no guidance).
    """

    positive: Denoiser
    negative: Denoiser
    scale: float
    joint: bool = False

    def __post_init__(self) -> None:
        if self.joint:
            self._branches()

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        if not self.joint:
            return self.negative(x, t, frames).lerp(self.positive(x, t, frames), self.scale)
        positive, negative = self._branches()
        conditions = negative.conditions(frames) + positive.conditions(frames)
        both = positive.expert.see(torch.cat([x, x]), t, conditions, torch.cat([frames, frames]))
        away, through = (Split(x0, eps) for x0, eps in zip(both.x0.chunk(2), both.eps.chunk(2), strict=True))
        return away.lerp(through, self.scale)

    def _branches(self) -> tuple[Prompted, Prompted]:
        positive, negative = self.positive, self.negative
        if not isinstance(positive, Prompted) or not isinstance(negative, Prompted):
            odd = negative if isinstance(positive, Prompted) else positive
            raise TypeError(
                "joint guidance asks one expert for both branches in one call, so both must be expert.given(prompt); "
                f"one is a {type(odd).__name__}. Guide the expert itself, inside other combinators, or use joint=False"
            )
        if positive.expert != negative.expert:
            raise ValueError(
                "joint guidance asks one expert for both branches in one call; these are two: "
                f"{positive.expert.name!r} and {negative.expert.name!r}. Use joint=False"
            )
        return positive, negative


@dataclass(frozen=True)
class Framewise:
    """An image denoiser, shown every frame on its own as a video of one frame."""

    image: Denoiser

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        seen = self.image(rearrange(x, "b c f h w -> (b f) c 1 h w"), t, rearrange(frames, "b f -> (b f) 1"))
        return seen.map(lambda z: rearrange(z, "(b f) c 1 h w -> b c f h w", b=len(x)))


@dataclass(frozen=True)
class Windowed:
    """A short-video denoiser, averaged where its windows overlap.

    The windows travel on the batch axis, so the denoiser is called once. `weights` is one of flat,
    triangle, sine, pyramid; the first frame of a window that does not begin the video counts `first` times as much.
    hold: how windows are held to the first one, if they are. Sizes are in latent frames.
    """

    video: Denoiser
    size: int
    stride: int
    weights: str = "flat"
    first: float = 1.0
    hold: Hold | None = None

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        windows = tile(x.shape[2], self.size, self.stride)
        if len(windows) == 1:
            seen = self.video(x, t, frames)
            return self.hold(seen, x, t) if self.hold else seen
        rows, weight = self.each(x, t, frames)
        return rows.map(lambda z: scatter(z, windows, weight, x.shape[2]))

    def each(self, x: Tensor, t: float, frames: Tensor) -> tuple[Split, Tensor]:
        """What each window sees, "(w b) c n h w", and how much each place in it counts, "(w b) n"."""
        rows, shown = gather(x, frames, tile(x.shape[2], self.size, self.stride))
        seen = self.video(rows, t, shown)
        if self.hold:
            seen = self.hold.to_first(seen, rows, t, len(x))
        return seen, inner(WEIGHTS[self.weights](rows.shape[2]), shown, self.first)
