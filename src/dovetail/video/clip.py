"""A video in memory."""

import base64
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import interpolate

from dovetail.video.frames import SHOWN, Frames
from dovetail.video.growing import writing


@dataclass(frozen=True, eq=False)
class Video:
    """Frames uint8 "f h w c", frames per second, and the settings that made them.

    settings: what a manifest says (recipe, versions, counts). latent: "b c f h w", before decoding.
    """

    frames: Frames = field(repr=False)
    fps: float
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    latent: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        shape, kind = self.frames.shape, self.frames.dtype
        if len(shape) != 4 or shape[3] != 3 or kind != np.uint8 or not shape[0]:
            raise ValueError(f"a video is uint8 'f h w 3' with one frame or more, not {kind} {shape}")
        if not 0 < self.fps < math.inf:
            raise ValueError(f"a video has more than 0 frames per second, not {self.fps}")

    @classmethod
    def of(
        cls, pixels: Tensor, fps: float, settings: Mapping[str, Any] | None = None, latent: Tensor | None = None
    ) -> "Video":
        """From decoded pixels "1 f 3 h w" in [-1, 1]."""
        scaled = ((pixels[0].float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return cls(rearrange(scaled, "f c h w -> f h w c").cpu().numpy(), fps, settings or {}, latent)

    @property
    def pixels(self) -> Tensor:
        """Float32 "1 f 3 h w" in [-1, 1]."""
        return rearrange(torch.from_numpy(self.frames.copy()), "f h w c -> 1 f c h w").float() / 127.5 - 1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.frames.shape[1], self.frames.shape[2]

    def resized(self, height: int, width: int) -> "Video":
        """The video at another size: averaged where it shrinks, interpolated where it grows."""
        if (height, width) == self.size:
            return self
        pixels = interpolate(self.pixels[0], (height, width), mode="bilinear", antialias=True)
        return Video.of(pixels[None], self.fps, self.settings)

    def save(self, path: str | Path) -> Path:
        """Write the video and its manifest; both appear whole or not at all.

        Raises OutputError for a name that says no known format, or a place that cannot be written.
        """
        with writing(path, self.fps) as growing:
            growing.add(self.frames)
            growing.settings = self.settings
        return Path(path)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """What a notebook shows: the video itself, looping."""
        with tempfile.TemporaryDirectory() as folder:
            self.save(Path(folder) / "clip.mp4")
            data = base64.b64encode((Path(folder) / "clip.mp4").read_bytes()).decode()
        height, width = self.size
        shown = f'<video controls loop autoplay muted width="{max(width, SHOWN)}" src="data:video/mp4;base64,{data}"></video>'
        return {"text/plain": f"{len(self.frames)} frames of {width}x{height} at {self.fps:g} fps", "text/html": shown}
