"""What happens in a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dovetail.run.states import Standing
from dovetail.video import Frames


@dataclass(frozen=True)
class Step:
    """A step that has just been taken: its stage, its number there (from 1), the share of all network work that is
    done, in (0, 1], the first and last latent frame that it worked on, and which of the stage's windows these are,
    from 1, of how many. after: where the run stands after it, if it was on the whole video at once."""

    stage: str
    step: int
    steps: int
    share: float
    frames: tuple[int, int] = (0, 0)
    segment: int = 1
    segments: int = 1
    after: Standing | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, eq=False)
class Latent:
    """A piece that is finished but for decoding: latent "1 c f h w", and where the run stands after it."""

    latent: Tensor
    after: Standing


@dataclass(frozen=True, eq=False)
class Piece:
    """Frames that are finished: uint8 "f h w c", how many came before them, and their latent "1 c f h w"."""

    frames: Frames
    first: int
    latent: Tensor


@dataclass(frozen=True)
class Turned:
    """The end of a turn of decoding, whatever became of it: a decoder that looks ahead waits. Nobody is told of it."""


@dataclass(frozen=True)
class End:
    """A run's end, and what a manifest says of it."""

    settings: Mapping[str, Any]
