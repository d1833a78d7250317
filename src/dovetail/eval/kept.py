"""What a long sprite video keeps, by the oracle: its object, its background, its motion. In constant memory.

The oracle judges windows of 16 frames, as it judges clips; a window's label is that of most of its frames, so that a
single frame misread is no loss.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor

from dovetail.eval.series import windows
from dovetail.sprites.oracle import Verdict, judge
from dovetail.sprites.oracle.frames import lab, read
from dovetail.sprites.world import SIZE, Ask, ask

Track = Sequence[tuple[float, float, float] | None]
MOVED = 3.0
"""A background whose pixels differ from those of the first window by more than this, in Lab on average, is another
one. A pattern that has slipped by a quarter of its period differs by 6 and more; on black, where one hardly sees it,
by less than 2."""
AROUND = 6
"""Frames before and after a border, from which the object's motion there is read."""
SPREAD, MARGIN = 1.35, 3.0
"""What lies further from the centre than this many radii, and pixels, is clear of the object, whatever its shape."""


@dataclass(frozen=True)
class Kept:
    """The oracle's verdict on a long video.

    - `identity`, `ground`: share of windows whose (colour, shape), and whose background, are the video's commonest; for
      the background also its place. `texture_kept`, `motion_kept`: the same of texture and motion.
    - `identity_whole`, `ground_whole`: 1 if that is so in all windows, else 0: what a viewer would call kept.
    - `prompt`: share of what was asked that is right, mean over windows; `motion_right`: share of windows that move as
      asked, if a motion was asked.
    - `presence`, `single`, `switches`: permanence, as in `dovetail.sprites.oracle.Verdict`.
    - `background_sd`: deviation over the whole video, in Lab, of pixels clear of the object; `background_moved`: how
      far the background of a window lies from that of the first one at most, in Lab.
    - `lurch`: change of velocity at a border, pixels per frame, and `leap`: distance from where the object was bound to,
      pixels; means over borders at which both sides show it.
    """

    identity: float
    ground: float
    texture_kept: float
    motion_kept: float
    identity_whole: float
    ground_whole: float
    prompt: float
    motion_right: float | None
    presence: float
    single: float
    switches: float
    background_sd: float
    background_moved: float
    lurch: float | None
    leap: float | None

    def scores(self) -> dict[str, float]:
        """All that was measured, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def shows_sprites(settings: Mapping[str, Any]) -> bool:
    """Whether a video's settings say that sprite experts made it, so that the oracle knows its world."""
    experts = settings.get("recipe", {}).get("experts", {}).values()
    return bool(experts) and all(
        spec.get("family") == "exact" or "sprites" in str(spec.get("weights", "")) for spec in experts
    )


def kept(video: Iterable[Tensor], asked: Ask | str, borders: Sequence[int] = ()) -> Kept:
    """Judge a sprite video that comes in pieces "f 3 h w" in [-1, 1]. Raises ValueError as the oracle does."""
    wanted = ask(asked)[0] if isinstance(asked, str) else asked
    verdicts: list[Verdict] = []
    places: list[tuple[float, float, float] | None] = []
    ground = Ground()
    for window in windows(video):
        verdict = judge(window, wanted)
        ground.add(window, verdict.track)
        places += verdict.track
        verdicts.append(verdict)
    if not verdicts:
        raise ValueError("a video has one frame or more")
    found = [verdict.found for verdict in verdicts]
    identity = _alike([(a.colour, a.shape) for a in found])
    same = [
        a and moved <= MOVED
        for a, moved in zip(_alike([(a.background, a.pattern) for a in found]), ground.moved, strict=True)
    ]
    lurch, leap = borne(places, borders)
    weights = [len(verdict.frames) for verdict in verdicts]
    mean = {
        name: _weighted([getattr(v, name) for v in verdicts], weights) for name in ("presence", "single", "switches")
    }
    return Kept(
        identity=fmean(identity),
        ground=fmean(same),
        texture_kept=fmean(_alike([a.texture for a in found])),
        motion_kept=fmean(_alike([a.motion for a in found])),
        identity_whole=float(all(identity)),
        ground_whole=float(all(same)),
        prompt=fmean(verdict.prompt for verdict in verdicts),
        motion_right=fmean(float(v.right["motion"]) for v in verdicts) if wanted.motion else None,
        **mean,
        background_sd=ground.deviation(),
        background_moved=max(ground.moved),
        lurch=lurch,
        leap=leap,
    )


def _alike(labels: Sequence[Any]) -> list[bool]:
    """Which labels are the commonest one; what was not seen is like nothing."""
    known = [label for label in labels if label is not None and label != (None, None)]
    common = Counter(known).most_common(1)[0][0] if known else None
    return [label == common and common is not None for label in labels]


def _weighted(values: Sequence[float], weights: Sequence[int]) -> float:
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)


class Ground:
    """The background, window by window: sums over the pixels that are clear of the object."""

    def __init__(self) -> None:
        self.count = torch.zeros(SIZE, SIZE, dtype=torch.float64)
        self.total = torch.zeros(3, SIZE, SIZE, dtype=torch.float64)
        self.squares = torch.zeros(3, SIZE, SIZE, dtype=torch.float64)
        self.frames = 0
        self.first: tuple[Tensor, Tensor] | None = None
        self.moved: list[float] = []

    def add(self, window: Tensor, track: Track) -> None:
        """The next window's frames, and where the object is in them."""
        colours, clear = lab(read(window)).double(), away(track).double()
        count, total = clear.sum(0), (colours * clear[:, None]).sum(0)
        self.count += count
        self.total += total
        self.squares += (colours.square() * clear[:, None]).sum(0)
        self.frames += len(window)
        mean, often = total / count.clamp(min=1), count >= len(window) / 4
        if self.first is None:
            self.first = mean, often
        both = often & self.first[1]
        apart = (mean - self.first[0]).norm(dim=0)
        self.moved.append(float(apart[both].mean()) if bool(both.any()) else 0.0)

    def deviation(self) -> float:
        """Over time, of the pixels that are clear in at least half of the frames, mean over these."""
        often = self.count >= self.frames / 2
        if not bool(often.any()):
            return 0.0
        count = self.count.clamp(min=1)
        variance = self.squares / count - (self.total / count).square()
        return float(variance.clamp(min=0).sum(0).sqrt()[often].mean())


def away(track: Track) -> Tensor:
    """Which pixels are clear of the object, "f 64 64" bool; space is a torus."""
    lines = torch.arange(SIZE)
    clear = torch.ones(len(track), SIZE, SIZE, dtype=torch.bool)
    for i, seen in enumerate(track):
        if seen is not None:
            dx, dy = ((lines - c + SIZE / 2) % SIZE - SIZE / 2 for c in seen[:2])
            clear[i] = torch.hypot(dx[None, :], dy[:, None]) > SPREAD * seen[2] + MARGIN
    return clear


def borne(track: Track, borders: Sequence[int]) -> tuple[float | None, float | None]:
    """How the object's motion goes on across borders: mean change of velocity, mean distance from where it was bound
    to; None where no border shows it on both sides."""
    lurches, leaps = [], []
    for border in borders:
        before = _motion(track, max(0, border - AROUND), border)
        after = _motion(track, border, min(len(track), border + AROUND))
        if before is None or after is None:
            continue
        (_, (i, x, y), v), ((j, p, q), _, w) = before, after
        lurches.append(((w[0] - v[0]) ** 2 + (w[1] - v[1]) ** 2) ** 0.5)
        off = [_round(p - x - v[0] * (j - i)), _round(q - y - v[1] * (j - i))]
        leaps.append((off[0] ** 2 + off[1] ** 2) ** 0.5)
    return (fmean(lurches), fmean(leaps)) if leaps else (None, None)


Sighting = tuple[int, float, float]


def _motion(track: Track, start: int, stop: int) -> tuple[Sighting, Sighting, tuple[float, float]] | None:
    """The first and the last sighting, and the median velocity between sightings, in pixels per frame."""
    seen = [(i, at[0], at[1]) for i in range(start, stop) if (at := track[i]) is not None]
    if len(seen) < 3:
        return None
    steps = [(_round(b[1] - a[1]) / (b[0] - a[0]), _round(b[2] - a[2]) / (b[0] - a[0])) for a, b in pairwise(seen)]
    return seen[0], seen[-1], (median(x for x, _ in steps), median(y for _, y in steps))


def _round(distance: float) -> float:
    """The short way round the torus."""
    return (distance + SIZE / 2) % SIZE - SIZE / 2
