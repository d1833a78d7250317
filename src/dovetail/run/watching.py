"""Networks counted and timed; when one fails, the error says at which step; when one does with less, that is written
down."""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

from torch import Tensor

from dovetail.core.denoiser import Condition, Denoiser, Network, NoSignalError
from dovetail.core.path import Split
from dovetail.core.sampler import Solver, State, Walk
from dovetail.core.stages import Leaving, Segment, Sequel, Stage
from dovetail.errors import NetworkError, RecipeError, RoomError
from dovetail.recipe.planning import Count, Ledger
from dovetail.run.pulse import Pulse


@dataclass(frozen=True, eq=False)
class Timed:
    """A network, counted and timed; its answer must be finite."""

    name: str
    network: Network
    ledger: Ledger
    pulse: Pulse = field(default_factory=Pulse)

    def __call__(self, x: Tensor, time: float, conditions: Sequence[Condition], frames: Tensor) -> Tensor:
        begun = perf_counter()
        out = self.pulse.asked(self.network, x, time, conditions, frames)
        if not bool(out.isfinite().all()):
            raise NetworkError(self.name, time, weights=getattr(self.network, "weights", None))
        self.ledger[self.name] += Count(1, len(x) * x.shape[2], perf_counter() - begun)
        return out

    def without(self, skipped: tuple[int, ...]) -> "Timed":
        from dovetail.experts.blocks import shortened

        return replace(self, network=shortened(self.network, skipped))

    def parted(self, reused: tuple[int, ...], notes: Any) -> tuple["Timed", "Timed"]:
        from dovetail.experts.blocks import parted

        whole, part = parted(self.network, reused, notes)
        return replace(self, network=whole), replace(self, network=part)

    @property
    def scheduler(self) -> Any:
        return getattr(self.network, "scheduler", None)

    @property
    def even(self) -> bool:
        return getattr(self.network, "even", False)


@dataclass(eq=False)
class Lessened:
    """What experts and codec did with less at once than they were asked to, for lack of memory, as a run goes on. A run
    of which something is said here need not have the bytes of one that had the room.

    parts: all that may run short; known: how much each has said.
    """

    parts: tuple[Any, ...]
    said: list[str]
    known: list[int]

    @classmethod
    def of(cls, networks: Iterable[Any], codec: Any) -> "Lessened":
        """What the same experts and codec did in runs before is true of this one, too."""
        parts = tuple(part for part in (*networks, codec) if hasattr(part, "shortages"))
        found = cls(parts, [], [0] * len(parts))
        found.note("before this run")
        return found

    def note(self, where: str) -> list[str]:
        """Write down what is new; what that is."""
        new = [f"{where}: {one}" for part, n in zip(self.parts, self.known, strict=True) for one in part.shortages[n:]]
        self.known = [len(part.shortages) for part in self.parts]
        self.said += new
        return new


def _placed(error: NetworkError | RoomError | NoSignalError, stage: Stage, t: float) -> Exception:
    """The error with its stage and step."""
    step = stage.ladder.levels.index(t) + 1
    if not isinstance(error, NoSignalError):
        return error.at(stage.name, step)
    return RecipeError(
        f"chain.{stage.name}.ladder: step {step}: {error}; let the ladder begin where that network does, as trailing and own "
        "do, which take its own timesteps"
    )


@dataclass(frozen=True)
class _Watched:
    """A stage's denoiser; when a network fails in it, the error says at which step."""

    stage: Stage = field(repr=False, compare=False)
    denoise: Denoiser

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        try:
            return self.denoise(x, t, frames)
        except (NetworkError, RoomError, NoSignalError) as error:
            raise _placed(error, self.stage, t) from None


@dataclass(frozen=True)
class _WatchedLeaving:
    """A stage's denoiser that leaves levels along noise of its own; what sees in it is watched."""

    denoise: _Watched
    of: Leaving

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        return self.leave(self.denoise(x, t, frames), x, t, frames)

    def leave(self, seen: Split, x: Tensor, t: float, frames: Tensor) -> Split:
        return self.of.leave(seen, x, t, frames)


@dataclass(frozen=True)
class _WatchedSequel:
    """A stage's sequel; what it makes each window with is watched."""

    stage: Stage = field(repr=False, compare=False)
    denoise: Sequel

    def after(self, before: Segment | None) -> Denoiser | Walk:
        return _parts_watched(self.stage, self.denoise.after(before))


@dataclass(frozen=True)
class _WatchedWalk:
    """A stage's walk; when a network fails in it, the error says at which step."""

    stage: Stage = field(repr=False, compare=False)
    of: Walk

    def walk(
        self, x: Tensor, frames: Tensor, levels: Sequence[float], solver: Solver, before: Sequence[State] = ()
    ) -> Generator[State, Tensor | None, Tensor]:
        going, sent = self.of.walk(x, frames, levels, solver, before), None
        for t in levels:
            try:
                state = going.send(sent)
            except StopIteration as end:
                found: Tensor = end.value
                return found
            except (NetworkError, RoomError, NoSignalError) as error:
                raise _placed(error, self.stage, t) from None
            sent = yield state
        raise AssertionError("a walk ends at the last level")


def _parts_watched(stage: Stage, whole: Denoiser | Walk) -> Denoiser | Walk:
    """What a stage does, watched."""
    if isinstance(whole, Leaving):
        return _WatchedLeaving(_Watched(stage, whole.denoise), whole)
    return _WatchedWalk(stage, whole) if isinstance(whole, Walk) else _Watched(stage, whole)


def watched(stage: Stage) -> Stage:
    """The stage; when a network fails in it, the error says at which step."""
    whole = stage.denoise
    seen = _WatchedSequel(stage, whole) if isinstance(whole, Sequel) else _parts_watched(stage, whole)
    return replace(stage, denoise=seen)
