"""How much a video speaks for its prompt, as the expert that is asked for it sees: a diffusion classifier with two classes,
the prompt and none.

    x_t = mix(x0, eps, t),  e(c)[f] = |eps - eps_c(x_t)|^2 of frame f
    speaks[f] = sum over t of (e(none)[f] - e(prompt)[f]) / mean of e(prompt) over f
    evidence = mean of the lowest quarter of speaks

Li et al., "Your Diffusion Model is Secretly a Zero-Shot Classifier", 2023, arXiv:2303.16203, sections 3.2 and 3.3: the class
is likelier whose error is less, over the same noise for all. Here no class is chosen but, of several videos of one prompt,
the one that speaks for it most. Errors grow with the share of the video, so each level counts by its own; and a video is as
good as the frames that say least, so that one in which something comes and goes is not one that shows it. Choosing among
first noises by a judge: Ma et al., 2025, arXiv:2501.09732, though theirs are models of their own.
"""

from collections.abc import Sequence
from math import ceil

import torch
from torch import Tensor

from dovetail.core.denoiser import Denoiser
from dovetail.core.noise import Noise
from dovetail.core.path import mix

LEVELS = (0.2, 0.35, 0.5, 0.65, 0.8)
"""Noise shares at which a judge looks: where nearly all is noise it says little of this video, near none it sees detail."""


@torch.no_grad()
def evidence(
    asked: Denoiser, unasked: Denoiser, video: Tensor, frames: Tensor, noise: Noise, levels: Sequence[float] = LEVELS
) -> float:
    """How much better the one who is asked knows the noise than the one who is not, of a latent "b c f h w" with global
    frames "b f". Above 0 the video speaks for the prompt. noise: the same for all videos that are compared.

    Raises ValueError for levels outside (0, 1), at which there is no noise to know, or no video.

    >>> from dovetail.core.denoiser import timeline
    >>> from dovetail.core.exact import Gaussian
    >>> wide, narrow, frames = Gaussian(2.0), Gaussian(0.5), timeline(4)
    >>> video = 0.5 * Noise(3).like(torch.zeros(1, 4, 4, 8, 8), frames)
    >>> evidence(narrow, wide, video, frames, Noise(0)) > 0 > evidence(wide, narrow, video, frames, Noise(0))
    True
    """
    if not levels or not all(0 < t < 1 for t in levels):
        raise ValueError(
            f"a judge looks at levels between 0 and 1, not at {', '.join(f'{t:g}' for t in levels) or 'none'}"
        )
    speaks = torch.zeros(video.shape[2])
    for t in levels:
        eps = noise.like(video, frames, "evidence", t)
        x = mix(video, eps, t)
        error, without = ((one(x, t, frames).eps - eps).square().mean((0, 1, 3, 4)).cpu() for one in (asked, unasked))
        speaks += (without - error) / error.mean()
    return float(speaks.sort().values[: ceil(len(speaks) / 4)].mean())
