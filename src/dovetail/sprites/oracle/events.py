"""Which motions a video shows, in their order, and when each begins."""

import torch
from torch import Tensor
from torch.nn import functional

from dovetail.sprites.oracle.frames import read
from dovetail.sprites.oracle.look import look
from dovetail.sprites.oracle.track import Path, path
from dovetail.sprites.world import DIRECTIONS, MOTIONS, SIZE, SPEED

SLOW, FAST = (speed * SIZE / 2 for speed in SPEED)
"""Speeds of the world's objects, in pixels per frame."""
STRAY = 0.6
"""A step strays from its motion by about this much, in pixels."""
WORST = 8.0
"""No single step speaks louder than this against a motion, so that one bad frame ends no event."""
SWITCH = 12.0
"""Cost of a change of motion: about two frames that clearly speak for it."""


def events(video: Tensor) -> list[tuple[int, str]]:
    """The motions of the video's object: pairs (first frame, motion), the first at frame 0.

    The most likely sequence of motions (Viterbi) for the object's step and change of radius at each frame, where a
    change of motion has a price. Empty when fewer than two frames show an object. `video` as in `judge`.
    """
    frames = read(video)
    way = path(look(frames))
    if len(way.when) < 2:
        return []
    best = _viterbi(_costs(way, len(frames)))
    names = list(MOTIONS)
    return [(at, names[now]) for at, now in enumerate(best) if at == 0 or now != best[at - 1]]


def _costs(way: Path, count: int) -> Tensor:
    """How badly each motion explains the step that leaves each frame: "frames motions"."""
    span = way.when.diff()
    steps = way.place.diff(dim=0) / span[:, None]
    padded = functional.pad(way.radius[None, None], (4, 4), "replicate")[0, 0]
    windows = padded.unfold(0, 9, 1)
    swing = ((windows.amax(1) - windows.amin(1)) / windows.median(1).values)[:-1]
    columns = []
    for motion in MOTIONS:
        heading = torch.tensor(DIRECTIONS.get(motion, (0, 0))).float()
        along = (steps @ heading)[:, None].clamp(SLOW, FAST)
        cost = (steps - along * heading).square().sum(1) / STRAY**2
        if motion == "still":
            cost = cost + ((swing - 0.1) / 0.05).clamp(min=0).square()
        if motion == "pulsing":
            cost = cost + ((0.2 - swing) / 0.05).clamp(min=0).square()
        columns.append(cost.clamp(max=WORST))
    costs = torch.zeros(count, len(columns))  # frames without a sighting speak for nothing
    costs[way.when[:-1].long()] = torch.stack(columns, 1)
    return costs


def _viterbi(costs: Tensor) -> list[int]:
    total = costs[0]
    before = []
    move = SWITCH * (1 - torch.eye(costs.shape[1]))
    for cost in costs[1:]:
        reach = (total[:, None] + move).min(0)
        before.append(reach.indices)
        total = reach.values + cost
    best = [int(total.argmin())]
    for back in reversed(before):
        best.append(int(back[best[-1]]))
    return best[::-1]
