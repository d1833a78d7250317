"""A plan's story as text: when events happen, where windows lie, and which event each of them takes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dovetail.core.denoiser import Blend, Condition, Timeline, parts_of
from dovetail.core.stages import Stage
from dovetail.core.tree import walk
from dovetail.core.windows import tile
from dovetail.methods.syncos import Coupled
from dovetail.recipe.build import told_over
from dovetail.recipe.planning import Plan, by_window
from dovetail.recipe.story import WIDTH, drawn, frame, mark, seconds

LANES = 8
"""Rows that a stage's windows may take; more are no picture."""


def storyboard(plan: Plan) -> list[str]:
    """The timeline, line by line; none without a story. Windows that overlap stand in rows below each other, filled
    with the mark of the event that they take, or of both where one passes into the next.
    """
    recipe = plan.recipe
    if recipe.story is None:
        return []
    video = recipe.video
    lines = drawn(recipe.spans(), video.frames, video.fps)
    by_frame, others = recipe.story.by == "frame", plan.by_window
    if by_frame:
        but = f"; {', '.join(others)}: a window takes what lies at its middle" if others else ""
        lines.append(f"each frame takes the event at it, in a window too{but}")
    if recipe.story.fade is not None and (others or not by_frame):
        lines.append(
            f"each passes into the next for {seconds(frame(recipe.story.fade, video.frames, video.fps), video.fps)}"
        )
    for stage in plan.stages:
        length, room = plan.length(stage.name), plan.rooms.get(stage.name)
        told = told_over(recipe, length, None if room is None else room.frames)
        if by_window(stage):
            told = replace(told, by_frame=False)
        # Events may say the same, and are drawn apart.
        named = [Condition(str(i)) for i in range(len(told.keys))]
        told = replace(told, keys=tuple((start, name) for (start, _), name in zip(told.keys, named, strict=True)))
        marks = {name: mark(i) for i, name in enumerate(named)}
        for what, windows in _windows(stage, length, told.by_frame):
            lines += ["", f"stage {stage.name}, {what}", *_drawn(windows, told, marks, length)]
    return lines


def _windows(stage: Stage, length: int, by_frame: bool) -> Iterator[tuple[str, list[slice]]]:
    """What a stage's experts see at once: its windows, or those of the windowed denoisers in it, or the whole.

    by_frame: whether each frame is told what lies at it.
    """
    if stage.window is not None and stage.window < length:
        own = [sees for sees, _ in stage.spans(length)]
        yield f"{len(own)} windows of {stage.window} latent frames", own
        return
    found = dict.fromkeys(
        (part.size, part.stride) for part in walk(stage.denoise) if hasattr(part, "size") and hasattr(part, "stride")
    )
    wide = {part.wide for part in walk(stage.denoise) if isinstance(part, Coupled) and part.wide is not None}
    below = "".join(f", at and below the floor every {stride}" for stride in sorted(wide))
    for size, stride in found:
        windows = tile(length, size, stride)
        yield f"{len(windows)} windows of {size} latent frames, one every {stride}{below}", windows
    if not found:
        takes = "" if by_frame else ", which takes what lies at its middle"
        yield f"the whole video at once{takes}", [slice(0, length)]


def _drawn(windows: Sequence[slice], told: Timeline, marks: dict[Condition, str], length: int) -> Iterator[str]:
    """Windows in as few rows as they fit in."""
    rows: list[list[str]] = []
    ends: list[int] = []
    for window in windows:
        row = next((i for i, end in enumerate(ends) if end <= window.start), len(rows))
        if row == len(rows):
            rows.append([" "] * WIDTH)
            ends.append(0)
        ends[row] = window.stop
        _fill(rows[row], window, told, marks, length)
    yield from (f"       {''.join(row).rstrip()}" for row in rows[:LANES])
    if len(rows) > LANES:
        yield f"       .. and {len(rows) - LANES} rows more"


def _fill(row: list[str], window: slice, told: Timeline, marks: dict[Condition, str], length: int) -> None:
    """Draw one window between brackets; one too narrow for them is its event's mark alone."""
    parts = _shares(told, torch.arange(window.start, window.stop))
    first, stop = (round(edge / length * WIDTH) for edge in (window.start, window.stop))
    inner = range(first + 1, stop - 1) if stop - first > 2 else range(first, max(stop, first + 1))
    if stop - first > 2:
        row[first], row[stop - 1] = "[", "]"
    done, shown = 0.0, 0
    for condition, share in parts:
        done += share
        upto = round(done * len(inner))
        for column in inner[shown:upto]:
            row[min(column, WIDTH - 1)] = marks[condition]
        shown = upto


def _shares(told: Timeline, frames: Tensor) -> Sequence[tuple[Condition, float]]:
    """What a window with these frames takes, each with its share of it."""
    if told.by_frame:
        return [(condition, count / len(frames)) for condition, count in parts_of(told.along(frames), len(frames))]
    asked = told.at(frames)
    return asked.parts if isinstance(asked, Blend) else [(asked, 1.0)]
