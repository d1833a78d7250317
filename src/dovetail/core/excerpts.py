"""Parts of a video that is decoded while it grows: how far a decoder looks in time, which frames are asked of it, what
it keeps of those before."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Reach:
    """How many latent frames before and after one hang together with its frames; none where frames are decoded one by
    one. pairs: the decoder takes three latent frames at once and then two at a time, so its parts begin and end there.

    >>> Reach(back=26, ahead=26).begin(40), Reach(back=26, ahead=26).end(40)
    (14, 66)
    >>> [Reach(8, 1, pairs=True).begin(start) for start in (6, 12, 13, 14)]
    [0, 3, 5, 5]
    >>> [Reach(8, 1, pairs=True).end(stop) for stop in (1, 3, 4, 5, 6)]
    [3, 3, 5, 5, 7]
    """

    back: int = 0
    ahead: int = 0
    pairs: bool = False

    def begin(self, start: int) -> int:
        """Where a decoder begins that makes the frames of the latent frames from `start` on, and keeps nothing."""
        found = max(0, start - self.back)
        if not self.pairs:
            return found
        return 0 if found < 3 else found - 1 + found % 2

    def end(self, stop: int) -> int:
        """How many latent frames of a video it takes to make the frames of the first `stop`, unless it ends before."""
        return max(3, stop + 1 - stop % 2) if self.pairs else stop + self.ahead


@dataclass(frozen=True)
class Excerpt:
    """Which frames are asked for, of a latent that is a part of a video: those of its latent frames from `start` up to
    `stop`, counted in the video. first: how many of them come before the latent; ends: the video ends with it."""

    first: int
    start: int
    stop: int
    ends: bool = False

    def whole(self, length: int) -> bool:
        """Whether that is the whole video, of a latent of so many frames."""
        return self.ends and self.first == self.start == 0 and self.stop == length

    def frames(self, compression: int) -> slice:
        """The frames that are asked for, of those that the latent decodes to by itself, as if it began a video."""
        a, b = (1 + compression * (place - self.first - 1) for place in (self.start, self.stop))
        return slice(max(0, a), max(0, b))


@dataclass(frozen=True, eq=False)
class Trail:
    """What a decoder keeps from one part of a video for the next, so that it need not look back: after how many latent
    frames, and what its convolutions saw last; for each tile, in each precision. Without it more is decoded, and the
    frames are the same."""

    kept: dict[Hashable, tuple[int, Any]] = field(default_factory=dict)
