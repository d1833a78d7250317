"""Latents to frames, piece by piece."""

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter

import torch

from dovetail.core import chain
from dovetail.run.cast import Codec
from dovetail.run.events import Piece, Step
from dovetail.video import Video

CONTEXT = 4
"""Latent frames that a video autoencoder is shown again before a piece, so that what it makes joins the piece before."""


def decoded(events: Iterator[Step | chain.Done], codec: Codec, clock: "Clock") -> Iterator[Step | Piece]:
    """Latents to frames, piece by piece; a codec that looks back in time sees the end of the piece before again."""
    compression, tail, made = codec.space.compression or 1, None, 0
    for event in events:
        if isinstance(event, Step):
            yield event
            continue
        shown = event.video if tail is None else torch.cat([tail, event.video], 2)
        with clock:
            pixels = codec.decode(shown)
        if tail is not None:
            pixels = pixels[:, -event.video.shape[2] * compression :]
        tail = shown[:, :, -CONTEXT:] if compression > 1 else None
        frames = Video.of(pixels, 1.0).frames
        yield Piece(frames, made, event.video)
        made += len(frames)


@dataclass
class Clock:
    """Seconds spent inside its blocks."""

    seconds: float = 0.0
    begun: float = 0.0

    def __enter__(self) -> None:
        self.begun = perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += perf_counter() - self.begun
