"""Where a longer video can go on from a shorter one: where no window has begun that the shorter one's end cuts short."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

from dovetail.core.stages import Memory, Stage, levels_of
from dovetail.core.windows import begun


def goes_on(stages: Sequence[Stage], memory: Memory, length: int, longer: int | None = None) -> bool:
    """Whether all windows that have begun in a video of `length` latent frames are the same in one of `longer` frames;
    without that, in any longer one."""
    lengths = (length, longer or length + 2 * max(stage.window or length for stage in stages))
    many = windows_begun(stages, memory)
    return all(_alike(stage, count, lengths) for stage, count in zip(stages, many, strict=True))


def windows_begun(stages: Sequence[Stage], memory: Memory) -> list[int]:
    """How many windows each stage has begun."""
    return [place.windows for place in places(stages, memory)]


def places(stages: Sequence[Stage], memory: Memory) -> list[Memory]:
    """Where each stage takes what the one before it makes."""
    return [first for first, *_ in levels_of(stages, memory)]


def _alike(stage: Stage, count: int, lengths: tuple[int, int]) -> bool:
    """Whether a stage's first windows are the same in videos of two lengths."""

    def spans(length: int) -> list[Any]:
        if stage.fuses:
            return list(islice(begun(stage.windows(length), length), count))
        return list(islice(stage.spans(length), count))

    return len(spans(lengths[0])) == count and spans(lengths[0]) == spans(lengths[1])
