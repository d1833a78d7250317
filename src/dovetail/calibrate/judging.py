"""Videos of one prompt and one noise, compared: how like the large expert's, and how far in their detail."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from dovetail.core.blur import blurred
from dovetail.eval.pixel import colours, thumbnails

Features = Callable[[Tensor], Tensor]
"""Frames "f 3 h w" in [-1, 1] -> a vector for each, "f d"."""


def pixels(frames: Tensor) -> Tensor:
    """Small frames without their mean, and their colours, each of length 1: for videos of any kind, and no weights."""
    parts = (thumbnails(frames), colours(frames))
    return torch.cat([part / part.norm(dim=1, keepdim=True).clamp(min=1e-6) for part in parts], 1)


def oracle(frames: Tensor) -> Tensor:
    """What the sprite oracle finds in each frame: a one for each label, and the object's place on the torus."""
    from dovetail.sprites.oracle import judge
    from dovetail.sprites.world import BACKGROUNDS, COLOURS, PATTERNS, SHAPES, TEXTURES

    kinds = {
        "texture": TEXTURES,
        "colour": tuple(COLOURS),
        "shape": SHAPES,
        "background": tuple(BACKGROUNDS),
        "pattern": PATTERNS,
    }
    verdict = judge(frames, "")
    rows = []
    for found, place in zip(verdict.frames, verdict.track, strict=True):
        labels = [float(getattr(found, kind) == name) for kind, names in kinds.items() for name in names]
        turn = torch.tensor([0.0, 0.0] if place is None else place[:2]) * (2 * torch.pi / 64)
        where = torch.cat([turn.cos(), turn.sin()]) * float(place is not None)
        rows.append(torch.cat([torch.tensor(labels), where]))
    return torch.stack(rows)


def similarity(features: Features, video: Tensor, other: Tensor) -> float:
    """Mean cosine between the features of frames at the same time."""
    return float(cosine_similarity(features(video), features(other)).mean())


def psnr(video: Tensor, other: Tensor, cap: float = 50.0) -> float:
    """Peak signal-to-noise ratio in dB of frames in [-1, 1], at most `cap`."""
    error = (video.double() - other.double()).square().mean().clamp(min=4 * 10 ** (-cap / 10))
    return float(10 * torch.log10(4 / error))


def artifacts(video: Tensor, reference: Tensor) -> float:
    """How far fine detail is from the reference's: root mean square, after what a blur of two pixels keeps is gone."""
    detail, expected = (frames - blurred(frames, 2.0) for frames in (video, reference))
    return float((detail - expected).square().mean().sqrt())


def sharp(video: Tensor) -> tuple[float, float]:
    """How much fine detail a video has, and how much of that changes from frame to frame (flicker), root mean squares.

    No reference is needed: detail that is elsewhere is as much, blurred detail is less, and flicker is more.
    """
    detail = video - blurred(video, 2.0)
    change = detail.diff(dim=0)
    return float(detail.square().mean().sqrt()), float(change.square().mean().sqrt()) if len(change) else 0.0
