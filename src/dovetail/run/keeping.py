"""A run in a folder: begun, gone on with after whatever stopped it, finished."""

import os
import shutil
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from dovetail import recipe as recipes
from dovetail.core.stages import Sequel, Stage
from dovetail.core.still import Still
from dovetail.core.windows import along
from dovetail.errors import OutputError, RecipeError, RunWarning
from dovetail.recipe import Recipe
from dovetail.recipe.denoisers import sizes
from dovetail.run.cast import Cast, Codec, load
from dovetail.run.decoding import Clock, Decoding, Holding, still_of
from dovetail.run.events import End, Latent, Piece, Step
from dovetail.run.folder import EVERY, Folder, Origin
from dovetail.run.growing import Film, Grown, grown
from dovetail.run.lessening import advising
from dovetail.run.manifest import compressions, machine, record, sources, spent, versions, weights_of
from dovetail.run.onward import goes_on
from dovetail.run.outlook import latent_of
from dovetail.run.playing import Ready, by_turns, ready
from dovetail.run.pulse import Pulse
from dovetail.run.sealed import DamagedError, read_json
from dovetail.run.states import Standing
from dovetail.video import Frames, checked_output, enlarged, save_indexed, writing
from dovetail.video.encoders import warn_of_waiting
from dovetail.video.places import suffix_of

PAUSE = 1.0
"""Seconds between steps that are kept, at least: what is taken in less is sooner taken again than written."""


def folder_of(target: str | Path) -> Path:
    """Where a run is kept whose video goes there, unless another place is named: OUT.run beside OUT.mp4."""
    return Path(target).with_suffix(".run")


def comes_in_pieces(recipe: Recipe, cast: Cast) -> bool:
    """Whether a run's video comes in more than one piece, so that what is finished of it is worth keeping."""
    last, frames = recipe.chain[-1], latent_of(recipe, cast.codec.space)[0]
    windows = along(frames, last.window or frames, last.hop, last.offset)
    return sum(1 for _ in islice(windows, 2)) > 1


def worth_keeping(recipe: Recipe, cast: Cast) -> bool:
    """Whether a run is gone on with where it was stopped: its video comes in pieces, or a stage holds all of it and
    shows it to an expert in windows, so that every step is long."""
    frames = latent_of(recipe, cast.codec.space)[0]
    joint = (stage for stage in recipe.chain if stage.window is None)
    return comes_in_pieces(recipe, cast) or any(size < frames for stage in joint for size in sizes(stage.denoise))


def keep(
    recipe: Recipe,
    target: str | Path,
    folder: str | Path | None = None,
    cast: Cast | None = None,
    given: Mapping[str, Any] | None = None,
    pulse: Pulse | None = None,
) -> Iterator[Step | Piece | End]:
    """Run a recipe in a folder, or go on with it there; at the end the video is at `target`.

    Killed at any moment and begun again, it makes the same bytes as if it had not been. Pieces are those that were not
    in the growing video yet. folder: OUT.run beside the target without it. given: what another run gave, see `Origin`.
    pulse: as in `play`. Raises what `play` raises, and OutputError
    for a folder of another recipe, version or weights, one that another process works in, and a disk that is full.
    Warns with RunWarning of what was damaged and is made again, and of a long video whose file is made in memory.
    """
    place = Folder(folder_of(target) if folder is None else Path(folder))
    place.refuse(target)
    checked_output(target, recipe.video.fps)
    warn_of_waiting(suffix_of(target), recipe.video.frames)
    yield from _as_begun(_played(recipe, place, Path(target), cast, given, pulse), place)


def _played(
    recipe: Recipe,
    place: Folder,
    target: Path,
    cast: Cast | None,
    given: Mapping[str, Any] | None,
    pulse: Pulse | None,
) -> Generator[Step | Piece | End, None, None]:
    """A run in its folder, which nobody else is at meanwhile."""
    with place.locked():
        run = ready(recipe, load(recipe) if cast is None else cast, pulse=pulse)
        try:
            with advising(recipe, run.cast.fit):
                yield from _Kept.of(place, run, target, given).events()
        except DamagedError as error:
            raise OutputError(f"{place}: {error}, though it was whole a moment ago; resume the run") from None


def resume(folder: str | Path, cast: Cast | None = None, pulse: Pulse | None = None) -> Iterator[Step | Piece | End]:
    """Go on with the run in a folder. Raises and warns as `keep`."""
    place = Folder(Path(folder))
    recipe = _recipe_of(place)
    place.refuse_moved(recipe)
    yield from keep(recipe, place.target, place.path, cast, place.given, pulse)


def _recipe_of(folder: Folder) -> Recipe:
    """The recipe in a folder. Raises OutputError where it is one of another version, which this one cannot read."""
    try:
        return folder.read()
    except RecipeError:
        then, now = folder.origin(), versions()
        if then is None or then.versions == now:
            raise
        was = ", ".join(f"{name} {version}" for name, version in then.versions.items() if version != now.get(name))
        raise OutputError(
            f"{folder} holds a run of another version, whose recipe this one does not know: it was begun by {was}. Go on "
            "with that, or take another name (-o or --run)"
        ) from None


Happened = TypeVar("Happened")


def _as_begun(events: Generator[Happened, None, None], folder: Folder) -> Iterator[Happened]:
    """Sums on a CPU may hang on how many threads share them, so a run goes on with as many as it began with. Between its
    events there are as many as whoever asks for these has."""
    begun = None
    with suppress(DamagedError, KeyError):
        begun = read_json(folder.manifest)["threads"]
    with closing(events):
        while True:
            with _threads(begun):
                event = next(events, None)
            if event is None:
                return
            yield event


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """So many threads, for a while; None is as many as there are."""
    now = torch.get_num_threads()
    try:
        torch.set_num_threads(now if count is None else count)
        yield
    finally:
        torch.set_num_threads(now)


LESS = "less at once"
"""In a folder's log: something was done with less at once than asked, for lack of memory."""


@dataclass(frozen=True, eq=False)
class _Kept:
    """A run and its folder. given: how many pieces another run gave, and which. onward: after which pieces a longer video
    can go on, as far as that is known. logged: what has been, of what was done with less at once."""

    folder: Folder
    run: Ready
    target: Path
    origin: Origin
    clock: Clock = field(default_factory=Clock)
    onward: dict[int, bool] = field(default_factory=dict)
    logged: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, folder: Folder, run: Ready, target: Path, given: Mapping[str, Any] | None) -> "_Kept":
        """Raises OutputError for a folder of another run."""
        origin = Origin(recipes.plain(run.recipe), versions(), weights_of(run.cast), given)
        refuse_others(folder, origin)
        return cls(folder, run, target, origin, logged=set(folder.logged(LESS)))

    @property
    def identity(self) -> str:
        return self.origin.identity

    @property
    def given(self) -> int:
        return 0 if self.origin.given is None else int(self.origin.given["pieces"])

    def events(self) -> Iterator[Step | Piece | End]:
        """Make what is missing, then the video."""
        missing = self._missing()
        _check_room(self.folder, self.run, len(missing) / self.run.pieces, self.target)
        self._note_target()
        self.folder.write(self.origin, self.target, {**self._machine(), **self._sources()})
        film = Film(self.folder.video, self.run.recipe.video.fps, self.identity)
        upon = self._filmed(grown(film.path, self.identity))
        film.cut(upon)
        counts = {"pieces": self.run.pieces, "missing": len(missing), "filmed": upon.pieces}
        self.folder.log("begun", place=str(self.folder.path.absolute()), **counts)
        yield from self._made(missing, film, upon)
        yield self._finished()

    def _filmed(self, upon: Grown) -> Grown:
        """Upon what the video grows on: upon nothing where what its frames are held to is not all in it, as that may have to be
        made again, too."""
        still = still_of(self.run.recipe)
        short = still is not None and upon.frames < min(still.frames, self.run.recipe.video.frames)
        return Grown() if short else upon

    def _note_target(self) -> None:
        """Warn where the folder's video is to go elsewhere than before; `resume` then writes it there."""
        with suppress(OutputError):
            before, now = self.folder.target, Path(os.path.normpath(self.target.absolute()))
            if before != now:
                said = (
                    f"{self.folder} made {before} until now, and makes {now}; for another look at it, `dovetail decode`"
                )
                warnings.warn(said, RunWarning, stacklevel=2)

    def _machine(self) -> dict[str, Any]:
        """Where the run began."""
        now = machine()
        with suppress(DamagedError, KeyError):
            said = read_json(self.folder.manifest)
            then = {key: said[key] for key in now}
            if then["device"] != now["device"]:
                warnings.warn(
                    f"this run began on {then['device']} and goes on on {now['device']}, which may round otherwise",
                    RunWarning,
                    stacklevel=2,
                )
            return then
        return now

    def _sources(self) -> dict[str, Any]:
        """The commits of its weights that the run began with; nothing of a run that did not write them down."""
        with suppress(DamagedError):
            said = read_json(self.folder.manifest)
            return {"commits": said["commits"]} if "commits" in said else {}
        return sources(self.run.recipe)

    def _missing(self) -> set[int]:
        """The pieces that are not there, or damaged."""
        found = set()
        for number in range(self.run.pieces):
            if not self._whole(number):
                found.add(number)
        self._drop_damaged_states()
        last = self.run.pieces - 1
        if not self.folder.state(last).exists():
            found.add(last)
        if lost := [number for number in found if number < self.given]:
            raise OutputError(
                f"{self.folder}: piece {lost[0]} was given by another run and is damaged, so it cannot be made again "
                "here; begin anew with --continue"
            )
        return found

    def _drop_damaged_states(self) -> None:
        for number in self.folder.states():
            path = self.folder.state(number)
            try:
                self.folder.standing(self.identity, number)
            except DamagedError as error:
                self._note(error)
                path.unlink()
        try:
            if self.folder.step.exists():
                self.folder.stepped(self.identity)
        except DamagedError as error:
            self._note(error)
            self.folder.step.unlink()

    def _whole(self, number: int) -> bool:
        try:
            self.folder.piece(self.identity, number)
        except DamagedError as error:
            if self.folder.latent(number).exists():
                self._note(error)
            return False
        return True

    def _note(self, error: DamagedError) -> None:
        self.folder.log("damaged", what=str(error))
        warnings.warn(f"{self.folder}: {error}; it is made again", RunWarning, stacklevel=2)

    def _made(self, missing: set[int], film: Film, upon: Grown) -> Iterator[Step | Piece]:
        """Every piece in order: made if it is missing, filmed if it is not in the video."""
        decoding: Decoding | None = None
        holding = self._holding(upon)
        at, kept, pieces = -1, perf_counter(), self.run.pieces
        events: Iterator[Step | Latent] = iter(())
        for number in range(pieces):
            latent = None
            if number in missing:
                if at != number:
                    stands = self._nearest(number)
                    events, at = self._after(stands), stands.pieces
                while at <= number:
                    event = next(events)
                    if isinstance(event, Step):
                        self._lessened()
                        kept = self._step(event, kept)
                        yield event
                        continue
                    at, latent = event.after.pieces, event.latent
                    self.clock.mark()
                    self.folder.keep(self.identity, latent, event.after, self._staying(event.after))
                    self.folder.log("piece", number=at - 1, frames=event.after.frames, calls=dict(event.after.calls))
            if number < upon.pieces:
                continue
            latent = self.folder.piece(self.identity, number) if latent is None else latent
            if decoding is None:
                decoding = decoding_from(self.folder, self.identity, self.run.cast.codec, upon)
            last = number == pieces - 1
            for frames, piece in holding.add(self.clock.timed(decoding.add(latent, last)), last):
                self._lessened(f"decoding piece {upon.pieces}")
                first, upon = upon.frames, film.add(frames, upon)
                yield Piece(frames, first, piece)

    def _holding(self, upon: Grown) -> Holding:
        """What holds the frames behind a growing video."""
        still = still_of(self.run.recipe)
        if still is None or not upon.frames:
            return Holding(still)
        made = frames_again(self.folder, self.identity, self.run.cast.codec, self.run.pieces)
        return Holding(still, lambda: beginning(made, still.frames))

    def _lessened(self, where: str = "") -> None:
        """Log what was done with less at once than asked."""
        if where:
            self.run.less.note(where)
        for what in sorted(set(self.run.less.said) - self.logged):
            self.folder.log(LESS, what=what)
            self.logged.add(what)

    def _step(self, event: Step, kept: float) -> float:
        """Keep where the run stands after a step, unless that was kept a moment ago; answers when it was kept last."""
        if event.after is None or perf_counter() - kept < PAUSE:
            return kept
        self.folder.keep_step(self.identity, event.after)
        return perf_counter()

    def _after(self, stands: Standing) -> Iterator[Step | Latent]:
        return by_turns(self.run, self.run.walk(stands, self.clock), stands.pieces, sum(stands.steps.values()))

    def _staying(self, after: Standing) -> list[int]:
        """Pieces the states after which stay: the last that was given, and the last from which a longer video can go on."""
        self.onward[after.pieces - 1] = self._goes_on(after)
        old = after.pieces - 3
        last = old >= 0 and self._onward(old) and not self._onward(old + 1)
        return [self.given - 1, *([old] if last else [])]

    def _onward(self, number: int) -> bool:
        if number not in self.onward:
            with suppress(DamagedError):
                self.onward[number] = self._goes_on(self.folder.standing(self.identity, number))
        return self.onward.get(number, False)

    def _goes_on(self, stands: Standing) -> bool:
        assert stands.memory is not None
        return goes_on(self.run.plan.stages, stands.memory, self.run.latent[0])

    def _nearest(self, number: int) -> Standing:
        """Where the run stood last before a piece, as far as that is kept. Raises DamagedError."""
        for before in range(number - 1, max(self.given - 1, 0) - 1, -1):
            if self.folder.state(before).exists():
                return self.folder.standing(self.identity, before)
        if not self.given and self.folder.step.exists():
            return self.folder.stepped(self.identity)
        if self.given:
            raise OutputError(
                f"{self.folder}: the state after piece {self.given - 1} was given by another run and is damaged, so the "
                "run cannot go on; begin anew with --continue"
            )
        return Standing()

    def _finished(self) -> End:
        """The video at its target."""
        last = self.folder.standing(self.identity, self.run.pieces - 1)
        less = [*last.less, *self.folder.logged(LESS), *self.run.less.said]
        joined = compressions(self.run.recipe, self.run.cast)
        inside = record(self.run.recipe, last.calls, joined, less, self.origin.given)
        decoding = self.clock.since
        beside = {**inside, **self._sources(), **spent(last.seconds + decoding, last.networks + decoding)}
        try:
            self._written(inside, beside)
        except OutputError as error:
            raise OutputError(
                f"{error}. The run is whole in {self.folder}, and `dovetail resume` writes its video"
            ) from None
        self.folder.log("finished", video=str(self.target), **spent(last.seconds, last.networks))
        return End(beside)

    def _written(self, inside: Mapping[str, Any], beside: Mapping[str, Any]) -> None:
        if suffix_of(self.target) == ".mp4":
            save_indexed(self.folder.video, self.target, inside, beside)
            return
        with writing(self.target, self.run.recipe.video.fps) as growing:
            for frames in frames_again(
                self.folder, self.identity, self.run.cast.codec, self.run.pieces, still_of(self.run.recipe)
            ):
                growing.add(frames)
            growing.settings, growing.beside = inside, beside


def decoding_from(folder: Folder, identity: str, codec: Codec, upon: Grown) -> Decoding:
    """What decodes the pieces behind a growing video; a codec that looks back is shown again what lies before them.
    Raises DamagedError."""
    start = codec.space.latent_frames(upon.frames) if upon.frames else 0
    found = Decoding(codec, first=start, done=start)
    begin, number, before = found.reach.begin(start), upon.pieces, list[Tensor]()
    while found.first > begin:
        number -= 1
        before.insert(0, folder.piece(identity, number))
        found.first -= before[0].shape[2]
    if before:
        found.latent, found.first = torch.cat(before, 2)[:, :, begin - found.first :], begin
    return found


def beginning(made: Iterator[Frames], frames: int) -> Frames:
    """The first frames, so many or all that there are; no more pieces are made than it takes."""
    found: list[Frames] = []
    for piece in made:
        found.append(piece)
        if sum(map(len, found)) >= frames:
            break
    return np.concatenate(found)[:frames]


def frames_again(
    folder: Folder, identity: str, codec: Codec, pieces: int, still: Still | None = None
) -> Iterator[Frames]:
    """The frames of a run's first pieces, decoded from its latents and held as `still` says. Raises DamagedError."""
    decoding, holding = Decoding(codec), Holding(still)
    for number in range(pieces):
        last = number == pieces - 1
        made = decoding.add(folder.piece(identity, number), last)
        yield from (frames for frames, _ in holding.add(made, last))


def refuse_others(folder: Folder, origin: Origin) -> None:
    """Raise OutputError for a folder of another run, with the reason."""
    then = folder.origin()
    if then is not None and (reasons := then.differs(origin)):
        shown = "; ".join(reasons[:4]) + (f"; and {len(reasons) - 4} more" if len(reasons) > 4 else "")
        raise OutputError(
            f"{folder} holds a run of another recipe, version or weights: {shown}. Take another name (-o or --run), or "
            f"remove that folder{_longer(folder, then, origin)}"
        )
    if then is None and (stranger := folder.stranger(origin.identity)) is not None:
        raise OutputError(
            f"{folder} has no manifest that can be read, and {stranger} is of a run of another recipe, version or weights. "
            "Take another name (-o or --run), or remove that folder"
        )


def _longer(folder: Folder, then: Origin, now: Origin) -> str:
    """The end of a message to those who want a run longer than it is there, if it is one that goes on."""
    more = now.recipe["video"]["frames"] - then.recipe["video"]["frames"]
    if more <= 0 or any(stage["window"] is None for stage in then.recipe["chain"]):
        return ""
    return f"; for a longer video of that run, --continue {folder} --frames {more}"


# --- room on the disk --------------------------------------------------------------------------------------------

BYTES_PER_PIXEL = 0.1
"""Of H.264 at our quality, with room to spare; an estimate."""


def room(run: Ready) -> int:
    """Bytes that a run's folder needs on the disk, estimated."""
    frames, channels, height, width = run.latent
    states = sum(_remembered(stage, frames) for stage in run.plan.stages) * (4 + run.pieces / EVERY)
    return round(4 * channels * height * width * (frames + states) + _filmed(run))


def _filmed(run: Ready) -> float:
    """Bytes of the run's video as an .mp4."""
    size = run.recipe.video
    return BYTES_PER_PIXEL * enlarged(np.zeros((1, size.height, size.width, 3), np.uint8)).size / 3 * size.frames


def _written(run: Ready, target: Path) -> float:
    """Bytes that the finished video takes at its target, at most. An .npz waits as pixels beside its file."""
    size = run.recipe.video
    pixels = 3 * size.height * size.width * size.frames
    return _filmed(run) if suffix_of(target) == ".mp4" else pixels * (2 if suffix_of(target) == ".npz" else 1)


def _remembered(stage: Stage, frames: int) -> float:
    """Latent frames in a stage's state, at most."""
    window, steps = min(stage.window or frames, frames), stage.ladder.steps
    if stage.window is None:
        return window * (2 + 3 * (1 + stage.solver.memory))
    if stage.fuses:
        return window * (2 + 3 * steps * (1 + max(stage.solver.memory, 1)))
    return window * (2 + (3 * steps if isinstance(stage.denoise, Sequel) else 0))


def _check_room(folder: Folder, run: Ready, share: float, target: Path) -> None:
    """Raise OutputError if what is left of a run, and its video, do not fit on their disks."""
    places = {folder.path: room(run) * share, target.absolute().parent: _written(run, target)}
    disks: dict[int, tuple[Path, float]] = {}
    for place, bytes_ in places.items():
        disk = place.stat().st_dev
        first, before = disks.get(disk, (place, 0.0))
        disks[disk] = first, before + bytes_
    for place, needed in disks.values():
        free = shutil.disk_usage(place).free
        if needed > free:
            raise OutputError(
                f"{place}: about {needed / 2**20:,.0f} MB are needed for this run and {free / 2**20:,.0f} MB are free "
                "there; make room, or take another place (-o or --run)"
            )
