"""Latents to frames, piece by piece: each as soon as all is there that its frames hang together with."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from dovetail.core.excerpts import Excerpt, Reach, Trail
from dovetail.core.still import Still
from dovetail.recipe import Recipe
from dovetail.run.blackout import seen
from dovetail.run.cast import Codec
from dovetail.run.events import Latent, Piece, Step, Turned
from dovetail.video import Frames, Video

T = TypeVar("T")


def decoded(
    events: Iterator[Step | Latent], codec: Codec, clock: "Clock", pieces: int, still: Still | None = None
) -> Iterator[Step | Piece | Turned]:
    """Decode latents as they come, of so many pieces in all; steps pass. After each latent come the pieces that can be
    decoded now, held as `still` says, and then `Turned`."""
    decoding, holding, made, come = Decoding(codec), Holding(still), 0, 0
    for event in events:
        if isinstance(event, Step):
            yield event
            continue
        come += 1
        last = come == pieces
        for frames, latent in holding.add(clock.timed(decoding.add(event.latent, last)), last):
            yield Piece(frames, made, latent)
            made += len(frames)
        yield Turned()


@dataclass(eq=False)
class Decoding:
    """A video that is decoded as its pieces come. A decoder that looks ahead makes frames of a piece only when what it
    looks at is there; of all that has come, no more is kept than what it looks at later.

    latent: "1 c f h w", of the video's latent frames from `first` on; done: how many have become frames.
    """

    codec: Codec
    latent: Tensor | None = None
    first: int = 0
    done: int = 0
    waiting: list[Tensor] = field(default_factory=list)
    trail: Trail = field(default_factory=Trail)

    @property
    def reach(self) -> Reach:
        """How far the codec looks in time; nowhere, if it does not say."""
        return getattr(self.codec, "reach", Reach())

    def add(self, latent: Tensor, last: bool = False) -> Iterator[tuple[Frames, Tensor]]:
        """Take the next piece "1 c f h w", and yield the frames and the latent of each piece that can be decoded now.
        last: the video ends with it."""
        held = latent if self.latent is None else torch.cat([self.latent, latent], 2)
        there, reach = self.first + held.shape[2], self.reach
        self.latent = held
        self.waiting.append(latent)
        while self.waiting and (last or reach.end(self.done + self.waiting[0].shape[2]) <= there):
            piece = self.waiting.pop(0)
            stop = self.done + piece.shape[2]
            end = min(reach.end(stop), there)
            asked = Excerpt(self.first, self.done, stop, last and end == there)
            yield frames_of(self.codec, held[:, :, : end - self.first], asked, self.trail), piece
            begin = reach.begin(stop)
            held, self.first, self.done = held[:, :, begin - self.first :], begin, stop
            self.latent = held.clone()


@dataclass(eq=False)
class Holding:
    """Frames as they come, held to what stands still in the first ones; these wait until all of them are there.

    still: None lets them pass. first: makes the first ones again, where others come, as of a run that is gone on with.
    """

    still: Still | None
    first: Callable[[], Frames] | None = None
    picture: Tensor | None = None
    waiting: list[tuple[Frames, Tensor]] = field(default_factory=list)

    def add(self, made: Iterator[tuple[Frames, Tensor]], last: bool) -> Iterator[tuple[Frames, Tensor]]:
        """Of pieces that come, frames uint8 "f h w c" and latents, those that can be held now. last: the video ends with
        them."""
        if self.still is None:
            yield from made
            return
        for piece in made:
            self.waiting.append(piece)
            yield from self._held(self.still, False)
        yield from self._held(self.still, last)

    def _held(self, still: Still, last: bool) -> Iterator[tuple[Frames, Tensor]]:
        there = sum(len(frames) for frames, _ in self.waiting)
        if self.picture is None and there and (last or self.first is not None or there >= still.frames):
            first = np.concatenate([frames for frames, _ in self.waiting]) if self.first is None else self.first()
            # Of frames as they are, which need a quarter of the memory of their pixels.
            shown = still.picture(torch.from_numpy(first).movedim(-1, 1))
            self.picture = _pixels(shown.movedim(0, -1)[None].numpy())[0]
        while self.waiting and self.picture is not None:
            frames, latent = self.waiting.pop(0)
            yield np.concatenate([_frames(still(_pixels(one[None]), self.picture)[None]) for one in frames]), latent


def still_of(recipe: Recipe) -> Still | None:
    """How a recipe's finished frames are held, if they are."""
    asked = recipe.video.still
    return None if asked is None else Still(asked.frames, asked.within)


def frames_of(codec: Codec, latent: Tensor, asked: Excerpt | None = None, trail: Trail | None = None) -> Frames:
    """The frames uint8 "f h w c" of a latent "1 c f h w"; of a part of a video, those that are asked for."""
    if asked is None or asked.whole(latent.shape[2]) or not hasattr(codec, "part"):
        return np.concatenate(seen(codec, lambda codec: codec.stream(latent), _frames))
    kept = Trail() if trail is None else trail
    return np.concatenate(seen(codec, lambda codec: codec.part(latent, asked, kept), _frames))


def pixels_of(codec: Codec, latent: Tensor) -> Tensor:
    """The pixels "b f c h w" in [-1, 1] that `frames_of` makes frames of."""
    return torch.cat(seen(codec, lambda codec: codec.stream(latent), lambda pixels: pixels), 1)


def _frames(pixels: Tensor) -> Frames:
    """Frames, which need a quarter of the memory of their pixels."""
    return Video.of(pixels, 1.0).frames


def _pixels(frames: Frames) -> Tensor:
    """The pixels "f c h w" in [-1, 1] of frames uint8 "f h w c"."""
    return Video(frames, 1.0).pixels[0]


@dataclass
class Clock:
    """Seconds spent inside its blocks, in all and since a mark."""

    seconds: float = 0.0
    begun: float = 0.0
    marked: float = 0.0

    def __enter__(self) -> None:
        self.begun = perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += perf_counter() - self.begun

    def mark(self) -> None:
        """What comes from here on is counted apart as well."""
        self.marked = self.seconds

    @property
    def since(self) -> float:
        """Seconds since the mark."""
        return self.seconds - self.marked

    def timed(self, made: Iterator[T]) -> Iterator[T]:
        """The same, made inside of a block each."""
        while True:
            with self:
                one = next(made, None)
            if one is None:
                return
            yield one
