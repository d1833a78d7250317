"""Which latents an expert works on, and whether two experts work on the same."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dovetail.errors import SpaceError


@dataclass(frozen=True)
class LatentSpace:
    """What fixes the meaning of a latent. None: not known, because the checkpoint came without its VAE.

    vae: class of the autoencoder. factor: pixels per latent cell along each side. compression: video
    frames per latent frame, but that the first latent frame is one. scaling, shift: latent = (code -
    shift) * scaling. encoder: a digest of the encoder's weights. statistics: a digest of the means and
    deviations by which each channel is normalised.
    """

    channels: int
    vae: str | None = None
    factor: int | None = None
    scaling: float | None = None
    shift: float | None = None
    encoder: str | None = None
    compression: int | None = None
    statistics: str | None = None

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a video of so many frames; one of a length that does not fit is counted up.

        >>> LatentSpace(16, compression=4).latent_frames(81), LatentSpace(4).latent_frames(16)
        (21, 16)
        """
        return 1 + -(-(frames - 1) // (self.compression or 1))


def same_space(a: LatentSpace, b: LatentSpace, names: tuple[str, str] = ("the one", "the other")) -> None:
    """Raise SpaceError, saying how they differ, unless latents of one space mean the same in the other.

    What is not known of one of them is taken to agree.
    """
    differ = [
        f"{field.name} {one!r} against {two!r}"
        for field in fields(LatentSpace)
        if (one := getattr(a, field.name)) != (two := getattr(b, field.name)) and None not in (one, two)
    ]
    if differ:
        raise SpaceError(
            f"{names[0]} and {names[1]} live in different latent spaces: {'; '.join(differ)}. "
            "Join experts that were trained on one autoencoder, or decode and encode between them"
        )


def space_of(config: Mapping[str, Any], weights: Path | None = None) -> LatentSpace:
    """The space of an autoencoder, from its config and, if at hand, its safetensors file."""
    known = {
        "AutoencoderKLWan": _wan_space,
        "AutoencoderKLLTXVideo": _ltx_space,
        "AutoencoderKLCogVideoX": _cogvideox_space,
    }
    return known.get(config.get("_class_name", ""), _kl_space)(config, weights)


def _kl_space(config: Mapping[str, Any], weights: Path | None) -> LatentSpace:
    return LatentSpace(
        channels=config.get("latent_channels", 4),
        vae=config.get("_class_name", "AutoencoderKL"),
        factor=2 ** (len(config["block_out_channels"]) - 1),
        scaling=config.get("scaling_factor", 0.18215),
        shift=config.get("shift_factor") or 0.0,
        encoder=None if weights is None else encoder_digest(weights),
        compression=1,
    )


def _wan_space(config: Mapping[str, Any], weights: Path | None) -> LatentSpace:
    # Configs that were written before diffusers had these keys mean Wan 2.1's autoencoder.
    told = [config[key] for key in ("latents_mean", "latents_std") if key in config]
    return LatentSpace(
        channels=config.get("z_dim", 16),
        vae="AutoencoderKLWan",
        factor=config.get("scale_factor_spatial", 8),
        encoder=None if weights is None else encoder_digest(weights),
        compression=config.get("scale_factor_temporal", 4),
        statistics=_digest([torch.tensor(values) for values in told]),
    )


def _ltx_space(config: Mapping[str, Any], weights: Path | None) -> LatentSpace:
    halvings = 2 ** sum(config.get("spatio_temporal_scaling", (True, True, True, False)))
    return LatentSpace(
        channels=config.get("latent_channels", 128),
        vae="AutoencoderKLLTXVideo",
        factor=config.get("spatial_compression_ratio") or config.get("patch_size", 4) * halvings,
        scaling=config.get("scaling_factor", 1.0),
        encoder=None if weights is None else encoder_digest(weights),
        compression=config.get("temporal_compression_ratio") or config.get("patch_size_t", 1) * halvings,
        statistics=None if weights is None else _digest(_kept(weights, "latents_mean", "latents_std")),
    )


def _cogvideox_space(config: Mapping[str, Any], weights: Path | None) -> LatentSpace:
    return LatentSpace(
        channels=config.get("latent_channels", 16),
        vae="AutoencoderKLCogVideoX",
        factor=2 ** (len(config.get("block_out_channels", (128, 256, 256, 512))) - 1),
        scaling=config.get("scaling_factor", 1.15258426),
        encoder=None if weights is None else encoder_digest(weights),
        compression=int(config.get("temporal_compression_ratio", 4)),
    )


def _kept(weights: Path, *names: str) -> list[Tensor]:
    from safetensors import safe_open

    with safe_open(weights, framework="pt") as file:
        return [file.get_tensor(name) for name in names if name in file.keys()]  # noqa: SIM118


def encoder_digest(weights: Path) -> str:
    """A digest of an autoencoder's encoder, blind to names of tensors and to float32 against float16.

    The decoder is left out: many checkpoints differ only in a finetuned decoder, and share their latents.
    """
    from safetensors import safe_open

    with safe_open(weights, framework="pt") as file:
        ours = [key for key in file.keys() if key.startswith(("encoder.", "quant_conv."))]  # noqa: SIM118
        parts = (file.get_tensor(key).to(torch.float16).contiguous().numpy().tobytes() for key in ours)
        digests = sorted(hashlib.blake2b(part, digest_size=8).hexdigest() for part in parts)
    return hashlib.blake2b("".join(digests).encode(), digest_size=8).hexdigest()


def _digest(statistics: Sequence[Tensor]) -> str | None:
    """A digest of means and deviations; None unless both are there."""
    if len(statistics) < 2:
        return None
    parts = (value.to(torch.float16).numpy().tobytes() for value in statistics)
    return hashlib.blake2b(b"".join(parts), digest_size=8).hexdigest()
