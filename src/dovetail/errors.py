"""What can go wrong, as a tree. Every message says where, what came, and what fits.

DovetailError
├── RecipeError    (also ValueError)
├── WeightsError   (also OSError)
├── SpaceError     (also ValueError)
├── NetworkError   (also ArithmeticError)
├── RoomError      (also MemoryError)
├── DecodeError    (also ArithmeticError)
├── EncodeError    (also ArithmeticError)
├── OutputError    (also OSError)
├── StoppedError
└── ExtraError     (also ImportError)
PromptWarning      (a UserWarning)
ShapeWarning       (a UserWarning)
RoomWarning        (a UserWarning)
RunWarning         (a UserWarning)
StoryWarning       (a UserWarning)
StepsWarning       (a UserWarning)
"""

from collections.abc import Iterable
from difflib import get_close_matches
from shlex import quote


class DovetailError(Exception):
    """Anything that this library says on purpose; the command line shows its message alone."""


class RecipeError(DovetailError, ValueError):
    """What was asked for does not exist, or does not fit: an unknown name or key, a value out of range."""


class WeightsError(DovetailError, OSError):
    """Weights are missing or unsafe to open: which, and where to get them."""


class SpaceError(DovetailError, ValueError):
    """Experts that live in different latent spaces were joined."""


class NetworkError(DovetailError, ArithmeticError):
    """A network answered with NaN or infinity: which expert, of which weights, at which native time, stage and step."""

    def __init__(
        self, expert: str, time: float, stage: str | None = None, step: int | None = None, weights: str | None = None
    ) -> None:
        """`stage` and `step` (counted from 1) are None where only the network is known; see `at`. weights: None where it
        has none."""
        super().__init__(expert, time, stage, step, weights)
        self.expert, self.time, self.stage, self.step, self.weights = expert, time, stage, step, weights

    def __str__(self) -> str:
        where = f" in stage '{self.stage}', step {self.step}" if self.stage is not None else ""
        whose = "" if self.weights is None else f" ({self.weights})"
        return (
            f"expert '{self.expert}'{whose} answered with NaN or infinity at its time {self.time:g}{where}. "
            "Often a half-precision overflow: try dtype float32 or bfloat16, or a lower guidance"
        )

    def at(self, stage: str, step: int) -> "NetworkError":
        """The same error, with the stage and step (counted from 1) at which it happened."""
        return NetworkError(self.expert, self.time, stage, step, self.weights)


LESS_ROOM = (
    "What needs less: fewer frames or a smaller size (--frames, video.height, video.width), frames in windows (windowed, or "
    "window on a stage), weights in 16 bits (dtype: bfloat16) or kept in 8 (store: float8), experts in turns (residency: "
    "turns) or in blocks (offload: true), tiles for the codec (codec.tiles: 32); `dovetail plan RECIPE --vram 8GB` counts it"
)
"""What can be done where memory does not suffice in the middle of a run."""


class RoomError(DovetailError, MemoryError):
    """A device's memory does not suffice, for the least that can be done at once: who, what, where, stage and step."""

    def __init__(
        self,
        who: str,
        what: str,
        device: str,
        stage: str | None = None,
        step: int | None = None,
        less: str = LESS_ROOM,
    ) -> None:
        """`stage` and `step` (counted from 1) are None where only the network is known; see `at`. less: what can be
        done, as a sentence."""
        super().__init__(who, what, device, stage, step, less)
        self.who, self.what, self.device, self.stage, self.step, self.less = who, what, device, stage, step, less

    def __str__(self) -> str:
        where = f" in stage '{self.stage}', step {self.step}" if self.stage is not None else ""
        return f"{self.who}: {self.what} do not fit in the memory of {self.device}{where}. {self.less}"

    def at(self, stage: str, step: int) -> "RoomError":
        """The same error, with the stage and step (counted from 1) at which it happened."""
        return RoomError(self.who, self.what, self.device, stage, step, self.less)

    def advised(self, less: str) -> "RoomError":
        """The same error, with other advice."""
        return RoomError(self.who, self.what, self.device, self.stage, self.step, less)


def _verifies(weights: str) -> str:
    """The command that looks at weights, of the hub or not."""
    return f"`dovetail models verify {quote(weights)}`"


class DecodeError(DovetailError, ArithmeticError):
    """A codec made frames that are no numbers, in single precision too if it can be had: which codec, in which precision."""

    def __init__(self, weights: str, dtype: str = "float32") -> None:
        super().__init__(weights, dtype)
        self.weights, self.dtype = weights, dtype

    def __str__(self) -> str:
        remedy = (
            f"its weights are not what they should be: {_verifies(self.weights)} tells, and codec.weights names others"
            if self.dtype == "float32"
            else "its decoder may overflow there, and its weights, as they are kept, cannot be widened for another try: say "
            "codec.dtype=float32 and codec.store=null; of a pipeline, load the vae in float32, neither quantised nor "
            "offloaded part by part"
        )
        return (
            f"codec '{self.weights}' made frames of NaN or infinity in {self.dtype}, so {remedy}. A run that has a folder "
            "keeps its latents: `dovetail decode` makes frames of them again"
        )


class EncodeError(DovetailError, ArithmeticError):
    """A codec made latents that are no numbers of a video that is: which codec, in which precision."""

    def __init__(self, weights: str, dtype: str) -> None:
        super().__init__(weights, dtype)
        self.weights, self.dtype = weights, dtype

    def __str__(self) -> str:
        remedy = (
            f"its weights are not what they should be: {_verifies(self.weights)} tells"
            if self.dtype == "float32"
            else "its encoder overflows there; say codec.dtype: float32"
        )
        return f"codec '{self.weights}' made latents of NaN or infinity in {self.dtype}, so {remedy}"


class OutputError(DovetailError, OSError):
    """The result cannot be written there."""


class StoppedError(DovetailError):
    """A run was stopped from elsewhere, in the middle of a step."""


class ExtraError(DovetailError, ImportError):
    """Something optional is asked for that is not installed: what, and how to get it."""

    def __init__(self, reason: str, extra: str) -> None:
        super().__init__(reason, extra)
        self.reason, self.extra = reason, extra

    def __str__(self) -> str:
        return f"{self.reason}; pip install 'dovetail-video[{self.extra}]' brings it"


class PromptWarning(UserWarning):
    """Part of a prompt will not be seen by an expert."""


class ShapeWarning(UserWarning):
    """A given video is of another shape than the recipe's, and is stretched; or part of it is not taken along."""


class RoomWarning(UserWarning):
    """A device's memory did not suffice, and less is done at once from then on; or nothing tells what an expert needs."""


class RunWarning(UserWarning):
    """Part of a run's folder was damaged and is made again, or the run goes on on another device."""


class StoryWarning(UserWarning):
    """A story leaves something open: a gap, no shared text, an event that an expert is never asked for."""


class StepsWarning(UserWarning):
    """A ladder has another number of steps than its expert was distilled for."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest spelling, if any, and all that is known.

    >>> nearest("wann", ["wan", "ltx"])
    "did you mean 'wan'? Known: ltx, wan"
    """
    options = sorted(known)
    close = get_close_matches(name, options, n=1)
    return (f"did you mean '{close[0]}'? " if close else "") + f"Known: {', '.join(options)}"
