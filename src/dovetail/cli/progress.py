"""What is seen of a run while it goes on: a bar with what is being done, and a picture of what there is."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from time import perf_counter

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from dovetail.cli.captions import captions
from dovetail.errors import OutputError
from dovetail.run import Piece, Pulse, Step
from dovetail.video import Frames, Video, evenly, save_image

COLUMNS = 8
"""Frames in a row of a preview."""

WIDEST = 192
"""Pixels of a frame in a preview, at most, along its longer side."""

SELDOM = 30.0
"""Seconds from one line to the next where there is no terminal."""


@dataclass(eq=False)
class Bar:
    """One bar for some runs. shares: what is done of each; frames: how many are finished."""

    progress: Progress
    task: TaskID
    shares: dict[int, float] = field(default_factory=dict)
    frames: int = 0
    pulse: Pulse = field(default_factory=Pulse)
    begun: float = field(default_factory=perf_counter)
    last: Step | None = None
    first: tuple[float, float] | None = None
    """When the first step had been taken, and what was done then: of a run that is gone on with, much."""

    def show(self, run: int, event: Step | Piece) -> None:
        """Stage, segment and step; finished frames per second; the time that is left."""
        if isinstance(event, Piece):
            self.frames += len(event.frames)
            return
        self.shares[run], self.last = event.share, event
        self.progress.update(self.task, description=self.said(event))
        self.move()
        self.first = self.first or (perf_counter(), self.done)

    @property
    def done(self) -> float:
        """Runs that are done, the steps that are taken of others among them, and the one under way."""
        return sum(self.shares.values()) + self.pulse.share

    def move(self) -> None:
        self.progress.update(self.task, completed=self.done)

    def line(self) -> None:
        """The same as text, where there is no terminal but a file perhaps."""
        total = self.progress.tasks[self.task].total
        if self.first is None or self.last is None or total is None:
            return
        (begun, before), left = self.first, ""
        if before < self.done < total:
            seconds = (perf_counter() - begun) * (total - self.done) / (self.done - before)
            left = f", {max(1, round(seconds / 60))} min left"
        self.progress.console.print(f"{self.done / total:.0%} {self.said(self.last)}{left}")

    def said(self, event: Step) -> str:
        """What a step is, and how fast frames come.

        >>> console = Console(quiet=True)
        >>> bar = Bar(Progress(console=console), TaskID(0), frames=30, begun=perf_counter() - 10)
        >>> bar.said(Step("refine", 13, 190, 0.07, (8, 23), segment=3, segments=38))
        'refine 13/190, segment 3/38, 3.0 fps'
        """
        seconds = perf_counter() - self.begun
        segment = f", segment {event.segment}/{event.segments}" if event.segments > 1 else ""
        speed = f", {self.frames / seconds:.1f} fps" if self.frames else ""
        return f"{escape(event.stage)} {event.step}/{event.steps}{segment}{speed}"


@contextmanager
def bar(console: Console, runs: int, pulse: Pulse | None = None) -> Iterator[Bar]:
    """A bar on a terminal, which moves inside of steps as well; a line now and then where there is none."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f}%"))
    shown = (*columns, TimeRemainingColumn())
    with Progress(*shown, console=console, transient=True, disable=not console.is_terminal) as progress:
        found = Bar(progress, progress.add_task("preparing", total=float(runs)), pulse=pulse or Pulse())
        with _often(found.move) if console.is_terminal else _often(found.line, SELDOM):
            yield found


@contextmanager
def _often(act: Callable[[], None], seconds: float = 0.5) -> Iterator[None]:
    """Act again and again meanwhile, from a thread of its own."""
    ended = Event()

    def on() -> None:
        while not ended.wait(seconds):
            act()

    beside = Thread(target=on, daemon=True)
    beside.start()
    try:
        yield
    finally:
        ended.set()
        beside.join()


@dataclass(eq=False)
class Preview:
    """A contact sheet of a video while it is made, written anew after every piece: above, frames evenly apart from the
    first on; below, the newest piece. A preview that cannot be written stops no run.

    told: the first frame of each event of a story, and its text, which stands below the frames that show it.
    """

    path: Path
    told: Sequence[tuple[int, str]] = ()
    kept: dict[int, Frames] = field(default_factory=dict)
    every: int = 1

    def add(self, piece: Piece) -> None:
        self._show(_small(piece.frames), piece.first)

    def whole(self, film: Iterable[Frames]) -> None:
        """A video that is finished; below, its last frames."""
        first, last = 0, None
        with suppress(OutputError):
            for frames in film:
                small = _small(frames)
                self._keep(small, first)
                first += len(small)
                last = (small if last is None else np.concatenate([last, small]))[-COLUMNS:]
        if last is not None:
            self._show(last, first - len(last))

    def earlier(self, film: Iterable[Frames], piece: Piece) -> None:
        """What stands before the first piece that came since a run was gone on with: frames of its film, larger ones
        perhaps."""
        first, (height, width) = 0, piece.frames.shape[1:3]
        with suppress(OutputError):
            for frames in film:
                self._keep(_small(Video(frames[: piece.first - first], 1.0).resized(height, width).frames), first)
                first += len(frames)
                if first >= piece.first:
                    return

    def _show(self, newest: Frames, first: int) -> None:
        self._keep(newest, first)
        rows = self._row(self.kept) + self._row(dict(enumerate(newest, first)))
        with suppress(OSError):
            save_image(np.concatenate(rows), self.path)

    def _keep(self, frames: Frames, first: int) -> None:
        """Keep a few of these frames, evenly apart over all there are."""
        self.kept |= {i: one for i, one in enumerate(frames, first) if i % self.every == 0}
        while len(self.kept) > 2 * COLUMNS:
            self.every *= 2
            self.kept = {i: one for i, one in self.kept.items() if i % self.every == 0}

    def _row(self, frames: Mapping[int, Frames]) -> list[Frames]:
        """So many frames by their numbers, side by side, evenly apart, black where there are too few; and captions."""
        numbers = sorted(frames)
        picked = [numbers[i] for i in evenly(len(numbers), COLUMNS)]
        shown = [frames[i] for i in picked]
        shown += [np.zeros_like(shown[0])] * (COLUMNS - len(shown))
        row = [np.concatenate([np.pad(one, ((1, 1), (1, 1), (0, 0))) for one in shown], axis=1)]
        if self.told:
            texts = [text_at(self.told, i) for i in picked]
            row.append(captions(texts + [""] * (COLUMNS - len(texts)), row[0].shape[1] // COLUMNS))
        return row


def text_at(told: Sequence[tuple[int, str]], frame: int) -> str:
    """The text of the event that a frame shows.

    >>> text_at([(0, "it stands still"), (16, "it moves up")], 16)
    'it moves up'
    """
    return next((text for first, text in reversed(told) if first <= frame), "")


def _small(frames: Frames) -> Frames:
    """Frames no larger than a preview shows them."""
    height, width = frames.shape[1:3]
    scale = WIDEST / max(height, width)
    if scale >= 1:
        return frames
    return Video(frames, 1.0).resized(max(1, round(height * scale)), max(1, round(width * scale))).frames
