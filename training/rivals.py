"""Targets without chance in them, where many clips could have given one noisy latent.

From much noise, a network is asked for the mean of all clips that the latent and the words leave
possible, and shown one of them at a time: what words tell drowns in what chance tells. With the
other possible clips at hand the mean can be said: a softmax over distances, as exact experts have it.
(Xu et al., 2023, arXiv:2302.00670, "Stable Target Field", Eq. 6; here the clips share a caption.)
"""

from collections import defaultdict
from dataclasses import replace

import torch
from torch import Tensor

from dovetail.sprites.world import Ask

FEW = 16
"""Fewer clips than these are no rivals: a mean over them would be a memory of them."""


def looks(asks: list[Ask]) -> dict[Ask, list[int]]:
    """The clips of each look, all motions together, for looks that have enough of them."""
    found: dict[Ask, list[int]] = defaultdict(list)
    for i, asked in enumerate(asks):
        found[replace(asked, motion=None)].append(i)
    return {look: clips for look, clips in found.items() if len(clips) >= FEW}


def expected(x: Tensor, alpha: float, sigma: float, clips: Tensor) -> Tensor:
    """E[x0 | x = alpha x0 + sigma eps] "c f h w", where x0 is one of the clips "n c f h w", all as likely."""
    far = (x - alpha * clips).square().flatten(1).sum(1) / (2 * sigma**2)
    return torch.einsum("n,n...->...", (-far).softmax(0), clips)


def motions(asks: list[Ask]) -> dict[Ask, list[int]]:
    """The clips of each look and motion, for looks that have enough of them."""
    found: dict[Ask, list[int]] = defaultdict(list)
    for clips in looks(asks).values():
        for i in clips:
            found[asks[i]].append(i)
    return found


def means(latents: Tensor, asks: list[Ask]) -> dict[Ask, Tensor]:
    """The mean clip "c f h w" of each look and motion, for looks that have clips enough; latents are "n f c h w"."""
    return {asked: latents[clips].float().mean(0).transpose(0, 1) for asked, clips in motions(asks).items()}
