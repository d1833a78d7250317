"""Latents to frames and back, in chunks of frames, so that a long video needs little memory."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from dovetail.errors import RecipeError
from dovetail.experts.checkpoint import find, model
from dovetail.experts.placement import device_of, dtype_of
from dovetail.experts.space import LatentSpace, kl_space


@dataclass(frozen=True, eq=False)
class Codec:
    """An AutoencoderKL, which knows single frames only. chunk: how many of them it is given at once."""

    weights: str
    module: Any = field(repr=False)
    space: LatentSpace
    chunk: int
    device: torch.device
    dtype: torch.dtype

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return self.space.channels

    @property
    def factor(self) -> int:
        """Pixels per latent cell, along height and along width."""
        return int(2 ** (len(self.module.config.block_out_channels) - 1))

    @property
    def _scaling(self) -> tuple[float, float]:
        """latent = (code - shift) * scale."""
        return float(self.module.config.scaling_factor), float(self.module.config.shift_factor or 0)

    def decode(self, latent: Tensor) -> Tensor:
        """Frames "b f c h w" in [-1, 1], float32, on the device of the latent "b c f h w"."""
        return torch.cat(list(self.stream(latent)), 1)

    def stream(self, latent: Tensor) -> Iterator[Tensor]:
        """What `decode` gives, some frames at a time: pieces "b f c h w" in order."""
        if latent.shape[1] != self.channels:
            raise RecipeError(f"codec '{self.weights}' decodes {self.channels} channels, not {latent.shape[1]}")
        for piece in torch.split(latent, max(1, self.chunk // len(latent)), 2):
            yield self._decode(piece)

    @torch.no_grad()
    def _decode(self, latent: Tensor) -> Tensor:
        scale, shift = self._scaling
        rows = rearrange(latent / scale + shift, "b c f h w -> (b f) c h w").to(self.device, self.dtype)
        frames: Tensor = self.module.decode(rows, return_dict=False)[0].to(latent.device, torch.float32)
        return rearrange(frames.clamp(-1, 1), "(b f) c h w -> b f c h w", b=len(latent))

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """The latent "b c f h w" (the posterior's mean) of frames "b f c h w" in [-1, 1].

        Height and width must be multiples of `factor`.
        """
        height, width = frames.shape[-2:]
        if height % self.factor or width % self.factor:
            raise RecipeError(
                f"codec '{self.weights}' needs height and width in multiples of {self.factor}, not {height}x{width}"
            )
        rows = rearrange(frames, "b f c h w -> (b f) c h w")
        codes = [
            self.module.encode(piece.to(self.device, self.dtype)).latent_dist.mode().to(frames.device, torch.float32)
            for piece in torch.split(rows, self.chunk)
        ]
        scale, shift = self._scaling
        return rearrange((torch.cat(codes) - shift) * scale, "(b f) c h w -> b c f h w", b=len(frames))


def load_codec(
    weights: str,
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    variant: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    chunk: int = 16,
) -> Codec:
    """The codec of a checkpoint: the AutoencoderKL in its `subfolder`.

    weights: a folder, a hub id, or "sprites/NAME". subfolder: "" is the checkpoint itself; None is the
    checkpoint itself if it is a single network, else its vae/. chunk: frames per call, at least 1. Raises
    WeightsError for weights that are missing or unsafe to open.
    """
    if chunk < 1:
        raise RecipeError(f"chunk is a number of frames, at least 1, not {chunk}")
    checkpoint = find(weights, revision, variant, ["vae", ""] if subfolder is None else [subfolder])
    if subfolder is None:
        subfolder = "" if (checkpoint.path / "config.json").is_file() else "vae"
    config, file = checkpoint.config(subfolder), checkpoint.safetensors(subfolder)
    if config.get("_class_name") != "AutoencoderKL":
        raise RecipeError(f"'{weights}' has a {config.get('_class_name')} in {subfolder}/; known: AutoencoderKL")
    from diffusers import AutoencoderKL

    module = model(AutoencoderKL, checkpoint, subfolder, dtype_of(dtype)).to(device_of(device))
    return Codec(weights, module, kl_space(config, file), chunk, device_of(device), dtype_of(dtype))
