"""Which latents an expert works on, and whether two experts work on the same.

Design page: docs/decisions/0023-spaces-and-bridges.md.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from math import dist, hypot, isclose
from typing import Any

import torch
from torch import Tensor

from dovetail.errors import SpaceError
from dovetail.experts.wfvae.facts import COMPRESSION, FACTOR, SCALE, learned

SAME_WEIGHTS = 0.02
"""Encoders whose weights are apart by no more than this share are one: half precision rounds to 0.0005, bfloat16 to
0.004, and two trainings are apart by more than 1."""

SAME_STATISTICS = 0.01
"""The same of the means and deviations by which channels are normalised."""

BUCKETS = 8
"""Numbers that all weights of one size leave in a sketch."""

Sketch = tuple[tuple[int, tuple[float, ...]], ...]
"""Weights of an encoder, in short: for each size of a tensor, a few sums of them all with signs that only that size
tells. It is linear, so the distance of two sketches estimates that of the weights, and it knows no names."""

Tensors = Callable[..., Mapping[str, Tensor]]
"""The tensors of a checkpoint whose names begin so."""


@dataclass(frozen=True)
class LatentSpace:
    """What fixes the meaning of a latent. None: not known, because the checkpoint came without its VAE.

    vae: class of the autoencoder. factor: pixels per latent cell along each side. compression: video frames per latent
    frame, but that the first latent frame is one. scaling, shift: latent = (code - shift) * scaling. encoder: a sketch
    of the encoder's weights; the decoder is left out, because many checkpoints differ in a finetuned decoder only, and
    share their latents. statistics: the means and deviations by which each channel is normalised.
    """

    channels: int
    vae: str | None = None
    factor: int | None = None
    scaling: float | None = None
    shift: float | None = None
    encoder: Sketch | None = None
    compression: int | None = None
    statistics: tuple[float, ...] | None = None

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a video of so many frames; one of a length that does not fit is counted up.

        >>> LatentSpace(16, compression=4).latent_frames(81), LatentSpace(4).latent_frames(16)
        (21, 16)
        """
        return 1 + -(-(frames - 1) // (self.compression or 1))

    def whole(self, frames: int) -> int:
        """The first number of frames from this one on that its latent frames make.

        >>> LatentSpace(16, compression=4).whole(16), LatentSpace(4).whole(16)
        (17, 16)
        """
        return (self.latent_frames(frames) - 1) * (self.compression or 1) + 1


SIZES = ("channels", "factor", "compression")
"""What of a space decides the size of a latent, so that one of another size cannot even be shown."""


def same_space(
    a: LatentSpace, b: LatentSpace, names: tuple[str, str] = ("the one", "the other"), trusted: bool = False
) -> None:
    """Raise SpaceError, saying how they differ, unless latents of one space mean the same in the other.

    What is not known of one of them is taken to agree; if `trusted`, so is all but the sizes.
    """
    differ = {
        field.name: said
        for field in fields(LatentSpace)
        if (not trusted or field.name in SIZES) and (said := _differs(field.name, a, b)) is not None
    }
    if differ:
        hint = "Join experts that were trained on one autoencoder, or join them through pixels: bridge: pixels on the stage "
        hint += "where the latents change, with a codec for each side"
        if not differ.keys() & {"vae", *SIZES}:
            hint += ". To check a pair by hand: encode a video with the one's autoencoder and decode it with the other's; if "
            hint += "that costs more than 0.5 dB of PSNR against its own, do not join them"
        if differ.keys() == {"encoder"}:
            hint += ". If you know that their latents mean the same, trust_space: true on the expert says so"
        said = "; ".join(differ.values())
        raise SpaceError(f"{names[0]} and {names[1]} live in different latent spaces: {said}. {hint}")


def with_weights(who: str, part: object) -> str:
    """How messages call an expert or a codec: by `who` it is and, where it has any, its weights."""
    weights = getattr(part, "weights", None)
    return who if weights is None else f"{who} ({weights})"


def _differs(name: str, a: LatentSpace, b: LatentSpace) -> str | None:
    one, two = getattr(a, name), getattr(b, name)
    if one is None or two is None:
        return None
    if name == "encoder":
        apart = distance(one, two)
        return None if apart <= SAME_WEIGHTS else f"encoder weights are {apart:.0%} apart"
    if name == "statistics":
        alike = len(one) == len(two) and dist(one, two) <= SAME_STATISTICS * max(hypot(*one), hypot(*two))
        return None if alike else "means and deviations of the channels"
    if name in ("scaling", "shift"):
        return None if isclose(one, two, rel_tol=1e-3, abs_tol=1e-6) else f"{name} {one!r} against {two!r}"
    return None if one == two else f"{name} {one!r} against {two!r}"


def space_of(config: Mapping[str, Any], tensors: Tensors | None = None) -> LatentSpace:
    """The space of an autoencoder, from its config and, if at hand, its tensors. Raises what odd values raise, ValueError
    for sizes that are none."""
    known = {
        "AutoencoderKLWan": _wan_space,
        "AutoencoderKLLTXVideo": _ltx_space,
        "AutoencoderKLCogVideoX": _cogvideox_space,
        "WFVAEModel": _wfvae_space,
    }
    space = known.get(config.get("_class_name", ""), _kl_space)(config, tensors)
    for name in SIZES:
        if not isinstance(size := getattr(space, name), int) or size < 1:
            raise ValueError(f"{name} of its latents: {size!r}, which is no whole number above 0")
    return space


def _kl_space(config: Mapping[str, Any], tensors: Tensors | None) -> LatentSpace:
    return LatentSpace(
        channels=config.get("latent_channels", 4),
        vae=config.get("_class_name", "AutoencoderKL"),
        factor=2 ** (len(config["block_out_channels"]) - 1),
        scaling=float(config.get("scaling_factor", 0.18215)),
        shift=float(config.get("shift_factor") or 0),
        encoder=encoder_sketch(tensors),
        compression=1,
    )


def _wan_space(config: Mapping[str, Any], tensors: Tensors | None) -> LatentSpace:
    # Configs that were written before diffusers had these keys mean Wan 2.1's autoencoder.
    told = [torch.tensor(config[key]) for key in ("latents_mean", "latents_std") if config.get(key) is not None]
    return LatentSpace(
        channels=config.get("z_dim", 16),
        vae="AutoencoderKLWan",
        factor=config.get("scale_factor_spatial", 8),
        encoder=encoder_sketch(tensors),
        compression=config.get("scale_factor_temporal", 4),
        statistics=_numbers(told),
    )


def _ltx_space(config: Mapping[str, Any], tensors: Tensors | None) -> LatentSpace:
    halvings = 2 ** sum(config.get("spatio_temporal_scaling", (True, True, True, False)))
    kept = {} if tensors is None else tensors("latents_mean", "latents_std")
    return LatentSpace(
        channels=config.get("latent_channels", 128),
        vae="AutoencoderKLLTXVideo",
        factor=config.get("spatial_compression_ratio") or config.get("patch_size", 4) * halvings,
        scaling=float(config.get("scaling_factor", 1)),
        encoder=encoder_sketch(tensors),
        compression=config.get("temporal_compression_ratio") or config.get("patch_size_t", 1) * halvings,
        statistics=_numbers([kept[name] for name in sorted(kept)]),
    )


def _cogvideox_space(config: Mapping[str, Any], tensors: Tensors | None) -> LatentSpace:
    return LatentSpace(
        channels=config.get("latent_channels", 16),
        vae="AutoencoderKLCogVideoX",
        factor=2 ** (len(config.get("block_out_channels", (128, 256, 256, 512))) - 1),
        scaling=float(config.get("scaling_factor", 1.15258426)),
        encoder=encoder_sketch(tensors),
        compression=int(config.get("temporal_compression_ratio", 4)),
    )


def _wfvae_space(config: Mapping[str, Any], tensors: Tensors | None) -> LatentSpace:
    channels = config.get("latent_dim", 8)
    scale, shift = config.get("scale") or [SCALE] * channels, config.get("shift") or [0.0] * channels
    one = len({*scale}) == len({*shift}) == 1
    return LatentSpace(
        channels=channels,
        vae="WFVAEModel",
        factor=FACTOR,
        scaling=scale[0] if one else None,
        shift=float(shift[0]) if one else None,
        # Files may lack the wavelets' filters, which are constants.
        encoder=encoder_sketch(None if tensors is None else lambda *starts: learned(tensors(*starts))),
        compression=COMPRESSION,
        statistics=None if one else (*map(float, shift), *(1 / value for value in scale)),
    )


# --- weights in short --------------------------------------------------------------------------------------------


def encoder_sketch(tensors: Tensors | None) -> Sketch | None:
    """A sketch of an autoencoder's encoder; None without one."""
    found = {} if tensors is None else tensors("encoder.")
    sums: dict[int, Tensor] = {}
    for tensor in found.values():
        size = tensor.numel()
        signed = tensor.flatten().float() * _signs(size)
        parts = torch.stack([signed[i::BUCKETS].sum() for i in range(BUCKETS)]).double()
        sums[size] = sums.get(size, torch.zeros(BUCKETS, dtype=torch.float64)) + parts
    return tuple((size, tuple(sums[size].tolist())) for size in sorted(sums)) or None


@cache
def _signs(size: int) -> Tensor:
    """Fixed random signs, int8 "size"."""
    made = torch.Generator().manual_seed(size)
    return torch.randint(0, 2, (size,), generator=made, dtype=torch.int8) * 2 - 1


def distance(one: Sketch, two: Sketch) -> float:
    """How far apart two encoders' weights are, as a share of the weights; infinite for encoders of other sizes."""
    if [size for size, _ in one] != [size for size, _ in two]:
        return float("inf")
    a, b = ([number for _, numbers in sketch for number in numbers] for sketch in (one, two))
    return dist(a, b) / max(hypot(*a), hypot(*b), 1e-12)


def _numbers(statistics: Sequence[Tensor]) -> tuple[float, ...] | None:
    """Means and deviations as numbers; None unless both are there."""
    if len(statistics) < 2:
        return None
    return tuple(torch.cat([value.flatten().float() for value in statistics]).tolist())
