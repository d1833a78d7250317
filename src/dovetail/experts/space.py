"""Which latents an expert works on, and whether two experts work on the same."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from dovetail.errors import SpaceError


@dataclass(frozen=True)
class LatentSpace:
    """What fixes the meaning of a latent. None: not known, because the checkpoint came without its VAE.

    vae: class of the autoencoder. factor: pixels per latent cell along each side. scaling, shift:
    latent = (code - shift) * scaling. encoder: a digest of the encoder's weights.
    """

    channels: int
    vae: str | None = None
    factor: int | None = None
    scaling: float | None = None
    shift: float | None = None
    encoder: str | None = None


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


def kl_space(config: Mapping[str, Any], weights: Path | None = None) -> LatentSpace:
    """The space of an AutoencoderKL, from its config and, if at hand, its safetensors file."""
    return LatentSpace(
        channels=config.get("latent_channels", 4),
        vae=config.get("_class_name", "AutoencoderKL"),
        factor=2 ** (len(config["block_out_channels"]) - 1),
        scaling=config.get("scaling_factor", 0.18215),
        shift=config.get("shift_factor") or 0.0,
        encoder=None if weights is None else encoder_digest(weights),
    )


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
