"""A video measured frame by frame, as it comes: all that long-video measures need, as numbers per frame.

Windows of `WINDOW` frames go in one after another; what a window must know of those before is a few frames,
so a video of any length is measured in constant memory, but for some numbers per frame. Frames are "f 3 h w" in
[-1, 1]. Nothing here has learned weights; stillness and blur flatter most of it (see `dovetail.eval.long`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate, normalize

from dovetail.eval.flow import agreeing, between, fetched, fitted, flows, shrunk
from dovetail.eval.pixel import colours, thumbnails, top_speed
from dovetail.sprites.oracle.frames import lab

WINDOW = 16
"""Frames of a window; clips of this length are what long videos are compared with."""
STILL = 0.05
"""Flows below this many pixels (root mean square) point nowhere."""


@dataclass(frozen=True, eq=False)
class Series:
    """One number for each frame, "n" (colour: "n 3"); NaN where a frame has too few before it.

    Of the frame: `first`, `home`, `near`: likeness to the video's first frame, its window's first and the frame before
    (cosines of gradients, colours and thumbnails, averaged); `colour`: mean in Lab; `detail`: variance of the Laplacian;
    `contrast`: deviation of grey.
    Of the step from the frame before: `change`: mean absolute difference, of 1; `moved`: the same, motion taken out;
    `squared`: squared difference where flow there and back agree; `hidden`: share where it does not; `step`: of the mean
    colour, in Lab; `speed`: pixels per frame of the fastest 5 %.
    Of three frames, at the last one, where its number is even: `error`, `blend`: how far the middle one is from one
    made of its neighbours, with and without motion; `between`: mean of the two changes.
    Of the two steps around the one to this frame: `jerk`: how far its flow is from their mean, over the 5 % where
    it is farthest, in 256ths; `turn`: cosine of their flows, 1 where nothing moves.
    """

    first: Tensor
    home: Tensor
    near: Tensor
    colour: Tensor
    detail: Tensor
    contrast: Tensor
    change: Tensor
    moved: Tensor
    squared: Tensor
    hidden: Tensor
    step: Tensor
    speed: Tensor
    error: Tensor
    blend: Tensor
    between: Tensor
    jerk: Tensor
    turn: Tensor

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True, eq=False)
class Past:
    """What a window knows of those before: how many frames they had, the last two of them and their mean colour, the
    flow between these, and the descriptors of the video's first frame and of the last one."""

    count: int
    frames: Tensor
    flow: Tensor
    colour: Tensor
    first: tuple[Tensor, ...]
    last: tuple[Tensor, ...]


def follow(video: Iterable[Tensor]) -> Series:
    """Measure a video that comes in pieces "f 3 h w" in [-1, 1], of any lengths. Raises ValueError for other shapes and
    for fewer than two frames, ExtraError without OpenCV."""
    past: Past | None = None
    parts: list[dict[str, Tensor]] = []
    # Large frames are shrunk before any of them wait for a window to fill.
    for window in windows(shrunk(piece) if piece.ndim == 4 else piece for piece in video):
        measured, past = _window(window, past)
        parts.append(measured)
    if past is None or past.count < 2:
        raise ValueError("a video has two frames or more, or there is no motion to measure")
    whole = {f.name: torch.cat([part[f.name] for part in parts]) for f in fields(Series)}
    # What a frame's step is compared with comes after it, so it is found one frame late.
    for late in ("jerk", "turn"):
        whole[late] = torch.cat([whole[late][1:], torch.full((1,), torch.nan)])
    return Series(**whole)


def windows(video: Iterable[Tensor], size: int = WINDOW) -> Iterator[Tensor]:
    """The same frames in pieces of `size`; the last one may be shorter. Raises ValueError for what are no frames."""
    held: list[Tensor] = []
    for piece in video:
        if piece.ndim != 4 or piece.shape[1] != 3:
            raise ValueError(f"frames are 'f 3 h w', not {tuple(piece.shape)}")
        held.append(piece.float())
        while sum(map(len, held)) >= size:
            joined = torch.cat(held)
            yield joined[:size]
            held = [joined[size:]]
    rest = torch.cat(held) if held else torch.zeros(0, 3, 1, 1)
    if len(rest):
        yield rest


def descriptors(frames: Tensor) -> tuple[Tensor, ...]:
    """What likeness is judged by: gradients, colours and thumbnails, each "f d" of length 1."""
    return tuple(normalize(part, dim=1) for part in (gradients(frames), colours(frames), thumbnails(frames)))


def gradients(frames: Tensor, side: int = 128, cells: int = 8, bins: int = 9) -> Tensor:
    """Histograms of oriented gradients (Dalal and Triggs, 2005) without their blocks, "f d": in each cell how much
    gradient points where, up to its sign; square roots, so that no edge outweighs all others."""
    grey = interpolate(frames.mean(1, keepdim=True), (side, side), mode="bilinear", antialias=True)[:, 0]
    dy, dx = torch.gradient(grey, dim=(1, 2))
    place = torch.atan2(dy, dx) / torch.pi * bins % bins
    low, share = place.floor(), place - place.floor()
    votes = torch.zeros(len(frames), bins, side, side)
    size = torch.hypot(dx, dy)
    for index, weight in ((low, size * (1 - share)), (low + 1, size * share)):
        votes.scatter_add_(1, (index.long() % bins)[:, None], weight[:, None])
    return (avg_pool2d(votes, side // cells) * (side // cells) ** 2).sqrt().flatten(1)


def likeness(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> Tensor:
    """The mean over descriptors of their cosines, none below 0, "f"."""
    return torch.stack([(a * b).sum(1).clamp(min=0) for a, b in zip(one, other, strict=True)]).mean(0)


# --- one window --------------------------------------------------------------------------------------------------


def _window(frames: Tensor, past: Past | None) -> tuple[dict[str, Tensor], Past]:
    """The numbers of a window's frames, and what the next one must know."""
    own, seen, tone = descriptors(frames), fitted(frames), lab((frames + 1) / 2).mean((2, 3))
    first, home = (tuple(part[:1] for part in own) for _ in range(2))
    known, tones, flow, last = seen, tone, torch.zeros(0, 2, *seen.shape[2:]), own
    if past is not None:
        first, flow = past.first, past.flow
        known, tones = torch.cat([past.frames, seen]), torch.cat([past.colour, tone])
        last = tuple(torch.cat(both) for both in zip(past.last, own, strict=True))
    new = len(known) - max(1, len(known) - len(seen))  # frames that have one before them
    there = flows(known[-new - 1 : -1], known[-new:])
    flow = torch.cat([flow, there])
    count = len(frames) + (past.count if past else 0)
    numbers = {
        "first": likeness(own, first),
        "home": likeness(own, home),
        "near": likeness(tuple(part[-new:] for part in last), tuple(part[-new - 1 : -1] for part in last)),
        "colour": tone,
        "step": tones.diff(dim=0).norm(dim=1),
        **_still(frames),
        **_steps(known[-new - 1 :], there),
        **_three(known, count),
        **_flows(flow),
    }
    scale = 256 / min(seen.shape[2:])
    numbers["speed"], numbers["jerk"] = numbers["speed"] * scale, numbers["jerk"] * scale
    padded = {name: _late(values, len(frames)) for name, values in numbers.items()}
    return padded, Past(count, known[-2:], flow[-2:], tone[-1:], first, tuple(part[-1:] for part in own))


def _late(values: Tensor, count: int) -> Tensor:
    """The last `count` values, NaN where there are fewer: those that come first have too little before them."""
    missing = torch.full((max(0, count - len(values)), *values.shape[1:]), torch.nan)
    return torch.cat([missing, values[-count:] if len(values) else values])


def _still(frames: Tensor) -> dict[str, Tensor]:
    """What a frame shows alone."""
    grey = frames.mean(1, keepdim=True)
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    return {"detail": conv2d(grey, kernel).flatten(1).var(1), "contrast": grey.flatten(1).std(1)}


def _steps(known: Tensor, there: Tensor) -> dict[str, Tensor]:
    """What a step changes, with and without its motion."""
    before, after = known[:-1], known[1:]
    brought, same = fetched(after, there), agreeing(there, flows(after, before))
    apart = (before - brought) / 2
    count = same.sum((1, 2)).clamp(min=1)
    return {
        "change": (after - before).abs().mean((1, 2, 3)) / 2,
        "moved": apart.abs().mean((1, 2, 3)),
        "squared": (apart.square().mean(1) * same).sum((1, 2)) / count,
        "hidden": 1 - same.float().mean((1, 2)),
        "speed": top_speed(there),
    }


def _three(known: Tensor, count: int) -> dict[str, Tensor]:
    """How well a frame is made of its neighbours: VBench's motion smoothness drops every odd frame."""
    before, middle, after = known[:-2], known[1:-1], known[2:]
    last = torch.arange(count - len(after), count)
    even = last % 2 == 0
    values = {name: torch.full((len(after),), torch.nan) for name in ("error", "blend", "between")}
    if bool(even.any()):
        before, middle, after = before[even], middle[even], after[even]
        values["error"][even] = (between(before, after) - middle).abs().mean((1, 2, 3)) / 2
        values["blend"][even] = ((before + after) / 2 - middle).abs().mean((1, 2, 3)) / 2
        changes = (middle - before).abs().mean((1, 2, 3)) + (after - middle).abs().mean((1, 2, 3))
        values["between"][even] = changes / 4
    return values


def _flows(flow: Tensor) -> dict[str, Tensor]:
    """How a step's flow differs from those around it, at the step after it."""
    before, here, after = flow[:-2], flow[1:-1], flow[2:]
    if not len(here):
        return {"jerk": torch.zeros(0), "turn": torch.zeros(0)}
    along = (before * after).sum((1, 2, 3))
    size = before.square().sum((1, 2, 3)).sqrt() * after.square().sum((1, 2, 3)).sqrt()
    still = size < STILL**2 * before[0, 0].numel()
    return {
        "jerk": top_speed(here - (before + after) / 2),
        "turn": torch.where(still, torch.ones(()), along / size.clamp(min=1e-9)),
    }
