"""Whole videos by different schedules, compared: the paper's sweeps, and chosen schedules on prompts they have not seen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from dovetail.calibrate.candidates import Ready
from dovetail.calibrate.choose import knee, sandwich
from dovetail.calibrate.judging import Features, artifacts, psnr, similarity
from dovetail.core.noise import Noise
from dovetail.core.sampler import last, sample
from dovetail.methods.flowblending import Blended

Decode = Callable[[Tensor], Tensor]
"""A latent "1 c f h w" -> frames "f 3 h w" in [-1, 1]."""


def film(ready: Ready, choice: Sequence[int], decode: Decode, x: Tensor | None = None) -> Tensor:
    """The frames that a schedule makes, from the stage's first latent or another."""
    ladder = ready.stage.ladder
    blended = Blended.of(ladder, [ready.together[who] for who in choice])
    start = ready.x if x is None else x
    return decode(last(sample(blended, start, ready.frames, ladder.levels, ready.stage.solver)).seen.x0)


def shares(steps: int) -> list[int]:
    """Numbers of steps at every tenth of the ladder, none and all included."""
    return sorted({round(steps * tenth / 10) for tenth in range(11)})


def early_sweep(ready: Ready, small: int, features: Features, decode: Decode) -> list[float]:
    """Likeness to the large expert's video, for each early share of LSS."""
    steps = ready.stage.ladder.steps
    whole = film(ready, (0,) * steps, decode)
    videos = [film(ready, sandwich(steps, early, 0, small), decode) for early in shares(steps)]
    return [similarity(features, whole, video) for video in videos]


def late_sweep(ready: Ready, small: int, early: int, decode: Decode) -> list[float]:
    """Artifacts beside the large expert's video, for each late share of LSL that leaves the small expert a step."""
    steps = ready.stage.ladder.steps
    whole = film(ready, (0,) * steps, decode)
    tried = [late for late in shares(steps) if early + late <= steps]
    return [artifacts(film(ready, sandwich(steps, early, late, small), decode), whole) for late in tried]


def early_share(steps: int, curves: Sequence[Sequence[float]]) -> int:
    """The smallest early share before likeness drops: the knee of the mean over prompts."""
    tried = shares(steps)
    return tried[knee(tried, [fmean(values) for values in zip(*curves, strict=True)])]


def late_share(steps: int, early: int, curves: Sequence[Sequence[float]]) -> int:
    """The smallest late share after which artifacts stop falling: the knee of the mean over prompts."""
    tried = [late for late in shares(steps) if early + late <= steps]
    fallen = [-fmean(values) for values in zip(*curves, strict=True)]
    return tried[knee(tried, fallen)] if len(tried) > 1 else tried[0]


@dataclass(frozen=True)
class Likeness:
    """A schedule's video beside the large expert's: `similarity` of features, `normalised` so that another seed is 0
    and a change of the noise by 1 % is 1, `psnr` in dB, and `artifacts`."""

    similarity: float
    normalised: float
    psnr: float
    artifacts: float


def compared(
    ready: Ready, choices: Mapping[str, Sequence[int]], features: Features, decode: Decode, seed: int
) -> dict[str, Likeness]:
    """Each schedule's video of one prompt beside the large expert's."""
    steps = ready.stage.ladder.steps
    whole = film(ready, (0,) * steps, decode)
    other = Noise(seed + 1).of(ready.stage.name).like(ready.x, ready.frames, "start")
    size = float(ready.x.std() / other.std())
    nudged = (ready.x + 0.01 * size * other) / (1 + 0.01**2) ** 0.5
    floor = similarity(features, whole, film(ready, (0,) * steps, decode, size * other))
    ceiling = similarity(features, whole, film(ready, (0,) * steps, decode, nudged))
    found = {}
    for name, choice in choices.items():
        video = film(ready, choice, decode)
        like = similarity(features, whole, video)
        span = ceiling - floor
        normalised = (like - floor) / span if span > 0 else float(like >= ceiling)
        found[name] = Likeness(like, normalised, psnr(video, whole), artifacts(video, whole))
    return found


def averaged(rows: Sequence[Mapping[str, Likeness]]) -> dict[str, dict[str, float]]:
    """Means over prompts, by schedule and measure."""
    measures = Likeness.__dataclass_fields__
    return {name: {m: fmean(getattr(row[name], m) for row in rows) for m in measures} for name in rows[0]}


def frames_of(pixels: Tensor) -> Tensor:
    """ "1 f 3 h w" -> "f 3 h w" on the CPU, in float32."""
    return pixels[0].to("cpu", torch.float32)
