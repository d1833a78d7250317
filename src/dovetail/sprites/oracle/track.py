"""The object's path and size over time, and the one motion of the world that explains them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dovetail.sprites.oracle.look import Look
from dovetail.sprites.world import DIRECTIONS, SIZE

MOVES = 0.5
"""An object that moves does at least this many pixels per frame; the world's do 1.1 to 1.8."""
STRAIGHT = 0.5
"""A moving object's path has at least this R^2, or else no direction explains it."""
RESTS = 3.0
"""An object that rests stays within this distance (root mean square) of its place, in pixels."""
PULSES = 0.2
"""A pulsing radius varies by at least this share (10th to 90th percentile); the world's by .75, others by 0."""


@dataclass(frozen=True)
class Path:
    """Where the object was seen. Lengths in pixels, on the plane: the torus is unrolled."""

    when: Tensor  # "n" frame numbers
    place: Tensor  # "n 2" x, y
    radius: Tensor  # "n"


@dataclass(frozen=True)
class Fit:
    """A straight and even path, fitted by the median of slopes (Theil and Sen)."""

    velocity: tuple[float, float]  # pixels per frame
    r2: float
    error: float  # root mean square distance from the fitted path, pixels
    motion: str | None  # the world's motion that explains path and radius, if one does

    @property
    def speed(self) -> float:
        return math.hypot(*self.velocity)


def path(seen: Look) -> Path:
    """The path through the frames that show an object. Steps go the short way round the torus."""
    when = seen.present.nonzero()[:, 0]
    place = seen.centre[when]
    if len(when) > 1:
        steps = place.diff(dim=0)
        steps = (steps + SIZE / 2) % SIZE - SIZE / 2
        place = torch.cat([place[:1], place[0] + steps.cumsum(0)])
    return Path(when.float(), place, seen.radius[when])


def fit(way: Path) -> Fit:
    """Fit one motion to a path; without two sightings there is none."""
    if len(way.when) < 2:
        return Fit((0.0, 0.0), 0.0, 0.0, None)
    velocity = _slope(way.when, way.place)
    line = way.when[:, None] * velocity
    off = way.place - line
    off = off - off.median(0).values
    squared = float(off.square().sum(1).mean())
    # One square pixel more, so that a resting object, which has no variance to explain, is not 0/0.
    total = float(way.place.var(0, correction=0).sum()) + 1
    r2 = max(0.0, 1 - squared / total)
    vx, vy = velocity.tolist()
    return Fit((vx, vy), r2, math.sqrt(squared), _motion((vx, vy), r2, math.sqrt(squared), way.radius))


def _motion(velocity: tuple[float, float], r2: float, error: float, radius: Tensor) -> str | None:
    if math.hypot(*velocity) >= MOVES:
        ahead = {name: velocity[0] * dx + velocity[1] * dy for name, (dx, dy) in DIRECTIONS.items()}
        return max(ahead, key=lambda name: ahead[name]) if r2 >= STRAIGHT else None
    if error > RESTS:
        return None
    low, middle, high = radius.quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
    return "pulsing" if high - low > PULSES * middle else "still"


def _slope(when: Tensor, place: Tensor) -> Tensor:
    """Median of the slopes between all pairs of sightings; of at most 512 of them, evenly taken."""
    every = math.ceil(len(when) / 512)
    when, place = when[::every], place[::every]
    first, second = torch.triu_indices(len(when), len(when), 1)
    slopes = (place[second] - place[first]) / (when[second] - when[first])[:, None]
    return slopes.quantile(0.5, dim=0) if len(slopes) < 1_000_000 else slopes.median(0).values
