"""Verdicts on videos and still images of the sprite world."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from statistics import fmean

import torch
from torch import Tensor

from dovetail.sprites.oracle.frames import lab, read
from dovetail.sprites.oracle.look import DOTTED, Look, look
from dovetail.sprites.oracle.track import fit, path
from dovetail.sprites.world import BACKGROUNDS, COLOURS, PATTERNS, SHAPES, Ask
from dovetail.sprites.world import ask as read_prompt


@dataclass(frozen=True)
class FrameVerdict:
    """The oracle's verdict on one still image.

    - `asked`, `found`: what the prompt fixes; what the image shows. Without an object only the background is found.
    - `right`: for each attribute that the ask fixes (never the motion), whether it was found so.
    - `prompt`: prompt fidelity, the share of `right` that is True; 1 if the ask fixes nothing that a still shows.
    - `presence`: 1 with an object, else 0. `single`: 1 with exactly one, else 0.
    - `sharpness`, `texture_contrast`: as in `Verdict`; 0 without an object.
    """

    asked: Ask
    found: Ask
    right: Mapping[str, bool]
    prompt: float
    presence: float
    single: float
    sharpness: float
    texture_contrast: float

    def scores(self) -> dict[str, float]:
        """All numbers by name, for logs and averages; what is right as 0 or 1 under `shape_right` and so on."""
        return _scores(self)


@dataclass(frozen=True)
class Verdict:
    """The oracle's verdict on one video. Lengths in pixels of a 64 pixel frame.

    - `asked`, `found`: what the prompt fixes; what the video shows: each attribute's label in more than half of the
      frames that show it, the motion by the path. None: not seen, undecided, or no motion of the world.
    - `right`: for each attribute that the ask fixes, whether it was found so.
    - `prompt`: prompt fidelity, the share of `right` that is True. A free attribute does not count; 1 if all are free.
    - `presence`: share of frames that show an object. `single`: share of frames that show exactly one.
    - `switches`: share of neighbouring frame pairs whose (colour, shape) differ, of the pairs that both show an
      object (missing ones are presence's matter); 1 if there is no such pair, 0 for a single frame.
    - `speed`: of the straight and even path fitted to the object's centre (slopes' median), pixels per frame.
    - `path_error`: root mean square distance from that path, pixels; a resting object's path is a point.
    - `path_fit`: R^2 of that path: 1 - error^2 / (variance + 1 px^2); the pixel keeps resting objects from 0/0.
    - `background_sd`: standard deviation over time, in Lab, of the pixels that lie clear of the object (three pixels
      and more from it) in at least half of the frames, while they do; mean over these pixels. 0 is constant.
    - `sharpness`: 90th percentile of the gradient within 1.5 pixels of the outline over the contrast of object and
      background, divided by the same of the renderer's drawing. 1 = the renderer; noise adds to it.
    - `texture_contrast`: matched filter at the dots' period, inside the object. 1 = the renderer's dots, 0 = solid.
    - `frames`: what each frame shows alone. `track`: x, y, radius in each frame, None without an object.
    """

    asked: Ask
    found: Ask
    right: Mapping[str, bool]
    prompt: float
    presence: float
    single: float
    switches: float
    speed: float
    path_error: float
    path_fit: float
    background_sd: float
    sharpness: float
    texture_contrast: float
    frames: tuple[Ask, ...]
    track: tuple[tuple[float, float, float] | None, ...]

    def scores(self) -> dict[str, float]:
        """All numbers by name, for logs and averages; what is right as 0 or 1 under `motion_right` and so on."""
        return _scores(self)


def judge(video: Tensor, asked: Ask | str) -> Verdict:
    """Say what a sprite video shows, and whether that was asked.

    `video`: floats "f 3 h w" in [-1, 1] or uint8 "f h w 3", square; other sizes than 64 are resized.
    `asked`: what was asked, or a prompt in the world's grammar; words outside it fix nothing.
    Raises ValueError for another shape, and for NaN.
    """
    frames = read(video)
    wanted = read_prompt(asked)[0] if isinstance(asked, str) else asked
    seen = look(frames)
    alone = _labels(seen)
    moved = fit(path(seen))
    found = Ask(
        texture=_most(a.texture for a in alone),
        colour=_most(a.colour for a in alone),
        shape=_most(a.shape for a in alone),
        motion=moved.motion,
        background=_most(a.background for a in alone),
        pattern=_most(a.pattern for a in alone),
    )
    right = _compare(wanted, found)
    return Verdict(
        asked=wanted,
        found=found,
        right=right,
        prompt=_share(right),
        presence=float(seen.present.float().mean()),
        single=float(seen.alone.float().mean()),
        switches=_switches(alone),
        speed=moved.speed,
        path_error=moved.error,
        path_fit=moved.r2,
        background_sd=_background_sd(frames, seen.under),
        sharpness=_mean(seen.sharpness[seen.present]),
        texture_contrast=_mean(seen.texture[seen.present]),
        frames=alone,
        track=_track(seen),
    )


def judge_frames(frames: Tensor, asked: Ask | str | Sequence[Ask | str]) -> list[FrameVerdict]:
    """Judge still images, each alone: "f" of them as in `judge`, and one ask for all or one for each.

    Motion does not count. Raises ValueError as `judge` does, and where asks and images differ in number.
    """
    pictures = read(frames)
    asks = [asked] * len(pictures) if isinstance(asked, Ask | str) else list(asked)
    if len(asks) != len(pictures):
        raise ValueError(f"{len(asks)} asks for {len(pictures)} images; give one for all, or one for each")
    seen = look(pictures)
    verdicts = []
    for at, (one, found) in enumerate(zip(asks, _labels(seen), strict=True)):
        wanted = read_prompt(one)[0] if isinstance(one, str) else one
        right = {name: value for name, value in _compare(wanted, found).items() if name != "motion"}
        there = float(seen.present[at])
        verdicts.append(
            FrameVerdict(
                asked=wanted,
                found=found,
                right=right,
                prompt=_share(right),
                presence=there,
                single=float(seen.alone[at]),
                sharpness=float(seen.sharpness[at]) * there,
                texture_contrast=float(seen.texture[at]) * there,
            )
        )
    return verdicts


def average(verdicts: Sequence[Verdict] | Sequence[FrameVerdict]) -> dict[str, float]:
    """Mean of each score over the verdicts that have it: an attribute counts where it was asked."""
    gathered: dict[str, list[float]] = {}
    for verdict in verdicts:
        for name, value in verdict.scores().items():
            gathered.setdefault(name, []).append(value)
    return {name: fmean(values) for name, values in gathered.items()}


def _scores(verdict: Verdict | FrameVerdict) -> dict[str, float]:
    numbers = {f.name: getattr(verdict, f.name) for f in fields(verdict)}
    scores = {name: value for name, value in numbers.items() if isinstance(value, float)}
    return scores | {f"{name}_right": float(value) for name, value in verdict.right.items()}


def _labels(seen: Look) -> tuple[Ask, ...]:
    colours, backgrounds = list(COLOURS), list(BACKGROUNDS)
    labels = []
    for at, there in enumerate(seen.present.tolist()):
        place = {"background": backgrounds[int(seen.background[at])], "pattern": PATTERNS[int(seen.pattern[at])]}
        if not there:
            labels.append(Ask(**place))
            continue
        texture = "dotted" if seen.texture[at] > DOTTED else "solid"
        labels.append(Ask(texture, colours[int(seen.colour[at])], SHAPES[int(seen.shape[at])], **place))
    return tuple(labels)


def _most(labels: Iterable[str | None]) -> str | None:
    """The label of more than half of the frames that have one."""
    seen = [label for label in labels if label is not None]
    label, count = Counter(seen).most_common(1)[0] if seen else (None, 0)
    return label if 2 * count > len(seen) else None


def _compare(wanted: Ask, found: Ask) -> dict[str, bool]:
    names = [f.name for f in fields(Ask) if getattr(wanted, f.name) is not None]
    return {name: getattr(wanted, name) == getattr(found, name) for name in names}


def _share(right: Mapping[str, bool]) -> float:
    return fmean(map(float, right.values())) if right else 1.0


def _switches(labels: Sequence[Ask]) -> float:
    if len(labels) < 2:
        return 0.0
    pairs = [(a, b) for a, b in pairwise(labels) if a.shape and b.shape]
    return fmean(float((a.colour, a.shape) != (b.colour, b.shape)) for a, b in pairs) if pairs else 1.0


def _background_sd(frames: Tensor, under: Tensor) -> float:
    clear = (~under).float()[:, None]
    often = clear.sum(0) >= len(frames) / 2
    if not bool(often.any()):
        return 0.0
    colours = lab(frames)
    count = clear.sum(0).clamp(min=1)
    mean = (colours * clear).sum(0) / count
    variance = ((colours - mean).square() * clear).sum(0) / count
    return float(variance.sum(0).sqrt()[often[0]].mean())


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else 0.0


def _track(seen: Look) -> tuple[tuple[float, float, float] | None, ...]:
    rows = torch.cat([seen.centre, seen.radius[:, None]], 1).tolist()
    return tuple((x, y, r) if there else None for (x, y, r), there in zip(rows, seen.present.tolist(), strict=True))
