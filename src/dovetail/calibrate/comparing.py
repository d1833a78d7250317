"""Whole videos by different schedules, compared: the paper's sweeps, and chosen schedules on prompts they have not seen."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import torch
from torch import Tensor

from dovetail.calibrate.candidates import Ready
from dovetail.calibrate.choose import knee, sandwich
from dovetail.calibrate.judging import Features, artifacts, psnr, sharp, similarity
from dovetail.core.noise import Noise
from dovetail.core.sampler import Forgetting, last, sample
from dovetail.methods.flowblending import Blended

Decode = Callable[[Tensor], Tensor]
"""A latent "1 c f h w" -> frames "f 3 h w" in [-1, 1]."""


def film(ready: Ready, choice: Sequence[int], decode: Decode, x: Tensor | None = None) -> Tensor:
    """The frames that a schedule makes, from the stage's first latent or another."""
    ladder, solver = ready.stage.ladder, ready.stage.solver
    blended = Blended.of(ladder, [ready.together[who] for who in choice])
    solver = Forgetting(solver, blended.boundaries) if ready.drops else solver
    start = ready.x if x is None else x
    return decode(last(sample(blended, start, ready.frames, ladder.levels, solver)).seen.x0)


def nudged(ready: Ready, other: Tensor) -> Tensor:
    """The stage's first latent, changed by 1 % of another."""
    return (ready.x + 0.01 * other) / math.sqrt(1 + 0.01**2)


def drawn_anew(ready: Ready, seed: int) -> Tensor:
    """Another first latent, of the next seed's noise."""
    other = Noise(seed + 1).of(ready.stage.name).like(ready.x, ready.frames, "start")
    return float(ready.x.std() / other.std()) * other


# --- the paper's sweeps ------------------------------------------------------------------------------------------


def shares(steps: int, early: int = 0) -> list[int]:
    """Numbers of steps at every tenth of the ladder, none included, that leave the small expert a step."""
    return sorted({n for tenth in range(11) if (n := round(steps * tenth / 10)) + early < steps})


def early_sweep(ready: Ready, small: int, features: Features, decode: Decode, seed: int) -> list[float]:
    """Likeness to the large expert's video, for each early share of LSS; last, that of the large expert's from noise
    changed by 1 %."""
    steps = ready.stage.ladder.steps
    whole = film(ready, (0,) * steps, decode)
    videos = [film(ready, sandwich(steps, early, 0, small), decode) for early in shares(steps)]
    videos.append(film(ready, (0,) * steps, decode, nudged(ready, drawn_anew(ready, seed))))
    return [similarity(features, whole, video) for video in videos]


def late_sweep(ready: Ready, small: int, early: int, decode: Decode, seed: int) -> list[tuple[float, float]]:
    """How much more detail and flicker than the large expert's video each late share of LSL leaves; last, the large
    expert's from noise changed by 1 %.

    Amounts, and not the distance from that very video: that falls to nothing as the last small step goes, and fastest
    there, so it never stops falling.
    """
    steps = ready.stage.ladder.steps
    expected = sharp(film(ready, (0,) * steps, decode))
    videos = [film(ready, sandwich(steps, early, late, small), decode) for late in shares(steps, early)]
    videos.append(film(ready, (0,) * steps, decode, nudged(ready, drawn_anew(ready, seed))))
    found = [sharp(video) for video in videos]
    return [(detail - expected[0], flicker - expected[1]) for detail, flicker in found]


def early_share(steps: int, sweeps: Sequence[Sequence[float]]) -> int:
    """The smallest early share before likeness drops: the knee of the mean over prompts.

    Likeness above that of a change of the noise by 1 % is as good as that, so a pair that is alike all along needs none.
    """
    tried = shares(steps)
    *curve, ceiling = (fmean(values) for values in zip(*sweeps, strict=True))
    return tried[knee(tried, [min(like, ceiling) for like in curve])]


def late_share(steps: int, early: int, sweeps: Sequence[Sequence[Sequence[float]]]) -> int:
    """The smallest late share after which artifacts stop falling: no larger one has fewer by more than noise allows.

    Artifacts are how far detail and flicker, meant over prompts, are from the large expert's: a set of videos beside
    another, as in the paper's FID. Noise: what a change of the first noise by 1 % does to a video, or two standard errors
    over prompts of the difference between the two shares, whichever is more.
    """
    *curve, floor = zip(*sweeps, strict=True)
    artifacts = [math.hypot(*(fmean(amounts) for amounts in zip(*rows, strict=True))) for rows in curve]
    best = min(range(len(curve)), key=lambda i: artifacts[i])
    nudge = fmean(math.hypot(*row) for row in floor)
    noise = [max(nudge, 2 * _standard_error(rows, curve[best])) for rows in curve]
    left = [more - artifacts[best] - allowed for more, allowed in zip(artifacts, noise, strict=True)]
    return next(late for late, over in zip(shares(steps, early), left, strict=True) if over <= 1e-9)


def _standard_error(rows: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> float:
    """Of the mean difference of two shares over prompts, in all directions together; 0 for one prompt."""
    if len(rows) < 2:
        return 0.0
    apart = [[a - b for a, b in zip(row, other, strict=True)] for row, other in zip(rows, others, strict=True)]
    return math.hypot(*(stdev(amounts) for amounts in zip(*apart, strict=True))) / math.sqrt(len(rows))


# --- chosen schedules --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Likeness:
    """A schedule's video beside the large expert's: `similarity` of features, `normalised` so that another seed is 0
    and a change of the noise by 1 % is 1, `psnr` in dB, and `artifacts`."""

    similarity: float
    normalised: float
    psnr: float
    artifacts: float


def compared(
    ready: Ready,
    choices: Mapping[str, Sequence[int]],
    features: Features,
    decode: Decode,
    seed: int,
    others: Mapping[str, Ready] | None = None,
) -> dict[str, Likeness]:
    """Each schedule's video of one prompt beside the large expert's. others: the same on other ladders, by name, where the
    large expert takes all steps."""
    steps = ready.stage.ladder.steps
    whole = film(ready, (0,) * steps, decode)
    other = drawn_anew(ready, seed)
    floor = similarity(features, whole, film(ready, (0,) * steps, decode, other))
    ceiling = similarity(features, whole, film(ready, (0,) * steps, decode, nudged(ready, other)))
    found = {}
    schedules = {name: (ready, choice) for name, choice in choices.items()}
    schedules |= {name: (at, (0,) * at.stage.ladder.steps) for name, at in (others or {}).items()}
    for name, (at, choice) in schedules.items():
        video = film(at, choice, decode)
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
