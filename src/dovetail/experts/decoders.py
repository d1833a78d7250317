"""Decoders of video autoencoders: how far each looks in time, and how one goes on where it was left.

Wan's and CogVideoX's look back only, and keep what their convolutions saw last; so does WF-VAE's, which is shown one
latent frame more than it makes. LTX-Video's looks both ways and keeps nothing, so it is shown again what lies on both
sides.
"""

from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
from torch import Tensor

from dovetail.core.excerpts import Excerpt, Reach, Trail

COGVIDEOX, WAN, LTX, WFVAE = "AutoencoderKLCogVideoX", "AutoencoderKLWan", "AutoencoderKLLTXVideo", "WFVAEModel"


# --- how far they look -------------------------------------------------------------------------------------------


def reach_of(module: Any) -> Reach:
    """How far the decoder of a video autoencoder looks, from its convolutions over time."""
    kind = type(module).__name__
    if kind == COGVIDEOX:
        # Norms are over what is decoded at once, so each convolution that sees the pair before sees all of it.
        return Reach(1 + sum(_looks(module.decoder, "CogVideoXCausalConv3d", "time_kernel_size")), 1, pairs=True)
    if kind == WAN:
        return _reach(_looks(module.decoder, "WanCausalConv3d", "kernel_size"), causal=True)
    if kind == WFVAE:
        return module.decoder.reach  # type: ignore[no-any-return]
    looks = _looks(module.decoder, "LTXVideoCausalConv3d", "kernel_size")
    return _reach(looks, causal=bool(module.config.decoder_causal))


def _looks(decoder: Any, convolution: str, kernel: str) -> list[int]:
    """How many frames convolutions look at besides the one they make, summed up to each doubling of the frames."""
    looks = [0]
    for name, part in decoder.named_modules():
        if type(part).__name__ != convolution:
            continue
        size = getattr(part, kernel)
        looks[-1] += (size[0] if isinstance(size, tuple) else size) - 1
        if name.endswith(("time_conv", "upsamplers.0.conv")):
            looks.append(0)
    return looks


def _reach(looks: list[int], causal: bool) -> Reach:
    """Followed from the frames of one latent frame, far from the beginning, through all convolutions to the latent."""
    place = 1 + sum(looks)
    rate = 2 ** (len(looks) - 1)
    first, last = rate * (place - 1) + 1, rate * place
    for level, look in enumerate(reversed(looks)):
        if level:
            first, last = -(-first // 2), -(-last // 2)
        first, last = first - (look if causal else look // 2), last + (0 if causal else look // 2)
    return Reach(place - first, last - place)


# --- going on ----------------------------------------------------------------------------------------------------


def follow(
    module: Any, code: Tensor, asked: Excerpt, trail: Trail, tile: Hashable, compression: int
) -> Iterator[Tensor]:
    """Yield the frames "b c f h w" that are asked for, as the decoder makes them of codes "b c f h w" that begin as far
    before these frames as it looks back. Decoding goes on from the trail if that leads here, and leaves a trail for the
    next part.

    tile: what tells these codes from others of the same frames. An even number of CogVideoX's codes, which takes pairs
    after the first three, is decoded with the last one twice, and what that adds is left out.
    """
    kind = type(module).__name__
    pairs = kind == COGVIDEOX
    at, kept = trail.kept.get(tile, (-1, None))
    if not asked.first <= at <= asked.start:
        at, kept = asked.first, None
    kept, left = _moved(kept, code.device), (at, kept)
    for start, stop in _steps(at, asked, code.shape[2], pairs):
        piece = code[:, :, start - asked.first : stop - asked.first]
        if spare := stop - start - piece.shape[2]:
            piece = torch.cat([piece, piece[:, :, -1:]], 2)
        elif kind == WFVAE:
            piece = code[:, :, start - asked.first : stop - asked.first + 1]
        frames, kept = STEPS[kind](module, piece, kept)
        if stop <= asked.stop and not spare:
            left = (stop, kept)
        if stop > asked.start:
            a, b = max(start, asked.start), min(stop, asked.stop)
            made = frames[:, :, : frames.shape[2] - compression * (stop - b)]
            yield made if a == start else made[:, :, -compression * (b - a) :]
    if not asked.ends:
        trail.kept[tile] = (left[0], _moved(left[1], torch.device("cpu")))


def _steps(at: int, asked: Excerpt, length: int, pairs: bool) -> Iterator[tuple[int, int]]:
    """Which latent frames are decoded at once, up to those that are asked for; of pairs, the last may want one."""
    while at < asked.stop:
        stop = at + 1
        if pairs and not (asked.ends and asked.first + length == 1):
            stop = 3 if at == 0 else at + 2
        yield at, stop
        at = stop


@torch.no_grad()
def _single(module: Any, code: Tensor, kept: Any) -> tuple[Tensor, Any]:
    """Frames "b c f h w" of a code after what is kept of those before (None: the first), and what is kept now: Wan's
    decoder takes one code after another."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

    cache = [None] * module._cached_conv_counts["decoder"] if kept is None else list(kept)
    given = module.post_quant_conv(code)
    frames = module.decoder(given, feat_cache=cache, feat_idx=[0], first_chunk=kept is None)
    if module.config.patch_size is not None:
        frames = unpatchify(frames, patch_size=module.config.patch_size)
    return frames, cache


@torch.no_grad()
def _pair(module: Any, code: Tensor, kept: Any) -> tuple[Tensor, Any]:
    """The same of CogVideoX's decoder, which takes three codes and then two at a time."""
    given = code if module.post_quant_conv is None else module.post_quant_conv(code)
    frames, cache = module.decoder(given, conv_cache=kept)
    return frames, cache


@torch.no_grad()
def _ahead(module: Any, code: Tensor, kept: Any) -> tuple[Tensor, Any]:
    """The same of WF-VAE's decoder, which is shown the code behind the one whose frames it makes, if there is one."""
    frames, cache = module.after(code, kept)
    return frames, cache


STEPS: dict[str, Callable[[Any, Tensor, Any], tuple[Tensor, Any]]] = {WAN: _single, COGVIDEOX: _pair, WFVAE: _ahead}
"""How each decoder that keeps something goes on."""


def _moved(kept: Any, device: torch.device) -> Any:
    """What is kept, on another device: between parts others need the room. CogVideoX's convolutions of single frames
    keep all that they saw and never look at it."""
    if isinstance(kept, Tensor):
        return kept.to(device)
    if isinstance(kept, dict):
        return {name: _moved(part, device) for name, part in kept.items() if name not in ("conv_y", "conv_b")}
    return [_moved(part, device) for part in kept] if isinstance(kept, list) else kept
