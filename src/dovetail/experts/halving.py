"""Less at once where a device's memory does not suffice: half the rows, half the frames, tiles of half the size.

What was tried is tried again at once, so nothing of a run is lost. But products of matrices round otherwise in other
batches, so a run that had to do with less need not have the bytes of one that had not; it says so.
Design page: docs/decisions/0021-memory.md.
"""

import gc
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from dovetail.core.windows import tile, triangle
from dovetail.errors import RoomError, RoomWarning
from dovetail.experts.moving import present

Made = TypeVar("Made")


@dataclass(frozen=True)
class Shortage:
    """Who did with less from then on: so many of a unit at once, where it was asked to do more."""

    who: str
    unit: str
    asked: int
    now: int

    def __str__(self) -> str:
        return f"{self.who}: {self.asked} {self.unit} at once did not fit in memory; {self.now} from then on"


SHORT = ("out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED")
"""What CUDA and MPS say, and cuBLAS, cuDNN and their like."""


def is_short(error: BaseException) -> bool:
    """Whether an error says that a device's memory did not suffice. Allocators raise OutOfMemoryError; libraries and
    drivers, which take memory beside torch's, only say so.

    >>> is_short(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")), is_short(RuntimeError("shapes differ"))
    (True, False)
    """
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in SHORT)


LEAST = 4
"""Latent cells along each side of the smallest tile."""


def halving(
    act: Callable[[int], Made],
    size: int,
    who: str,
    unit: str,
    shortages: list[Shortage],
    what: str,
    device: torch.device,
    least: int = 1,
) -> Made:
    """What `act` makes with `size` of a unit at once, or, where it runs out of memory, with half as many, and half of that.

    shortages: where that is noted, besides a RoomWarning. what: how an error names `least` of the unit. Raises RoomError
    if even `least` are too much.
    """
    while True:
        try:
            return act(size)
        except RuntimeError as error:
            if not is_short(error):
                raise
        # Outside of the block above, whose error would hold on to what is to be freed.
        released(device)
        if size <= least:
            raise RoomError(who, what, told(device))
        note(Shortage(who, unit, size, size // 2), shortages)
        size //= 2


def note(shortage: Shortage, shortages: list[Shortage]) -> None:
    """Write a shortage down, and say it aloud."""
    shortages.append(shortage)
    warnings.warn(f"{shortage}. The video need not have the bytes that it has elsewhere", RoomWarning, stacklevel=4)


def released(device: torch.device) -> None:
    """Give back what a try that failed has left behind."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def told(device: torch.device) -> str:
    """A device and its memory, in words."""
    if device.type != "cuda":
        return str(device)
    free, whole = torch.cuda.mem_get_info(device)
    return f"{device} ({whole / 1e9:.1f} GB, {free / 1e9:.1f} GB of it free)"


# --- tiles -------------------------------------------------------------------------------------------------------


def tiled(decode: Callable[[Tensor], Tensor], latent: Tensor, size: int, factor: int) -> Tensor:
    """What `decode` gives of a latent "b c f h w", from tiles of `size` cells a side, which overlap by a quarter and
    are blended there: frames "b f c h w", `factor` times as large.

    Each tile needs less memory than the whole. Far from a tile's edges an autoencoder sees what it sees in the whole, but
    for norms and attention over all cells, which see the tile alone.
    """
    total, mass = None, None
    for rows in tile(latent.shape[3], size, size - size // 4):
        for columns in tile(latent.shape[4], size, size - size // 4):
            part = decode(latent[:, :, :, rows, columns])
            height, width = part.shape[3:]
            weight = triangle(height)[:, None] * triangle(width)
            if total is None or mass is None:
                total = part.new_zeros(*part.shape[:3], latent.shape[3] * factor, latent.shape[4] * factor)
                mass = part.new_zeros(total.shape[3:])
            y, x = (slice(along.start * factor, along.stop * factor) for along in (rows, columns))
            total[..., y, x] += weight.to(part) * part
            mass[y, x] += weight.to(part)
    assert total is not None
    assert mass is not None
    return total / mass


def sparing(codec: Any, latent: Tensor, whole: Callable[[Tensor], Iterator[Tensor]]) -> Iterator[Tensor]:
    """What `whole` makes of a latent, piece by piece "b f c h w" in order; in tiles where the codec is asked to, or
    where memory does not suffice, each time of half the size. Raises RoomError where the smallest tile is too much.

    Of a piece that was handed out before memory ran short nothing is handed out again.
    """
    who, made = f"codec '{codec.weights}'", 0
    while True:
        size, seen = codec.at_once, 0
        try:
            with present(codec.module, codec.device):
                pieces = whole(latent) if size is None else _in_tiles(whole, latent, size, codec.factor)
                for piece in pieces:
                    rest = piece[:, max(0, made - seen) :]
                    seen += piece.shape[1]
                    if rest.shape[1]:
                        made += rest.shape[1]
                        yield rest
                return
        except (RuntimeError, RoomError) as error:
            if not isinstance(error, RoomError) and not is_short(error):
                raise
        released(codec.device)
        longest = max(latent.shape[3:])
        now = min(longest, size or longest)
        if now <= LEAST:
            raise RoomError(who, f"{latent.shape[2]} latent frames of {now}x{now} cells", told(codec.device))
        note(Shortage(who, "cells a side", now, max(LEAST, -(-now // 2))), codec.shortages)


def _in_tiles(whole: Callable[[Tensor], Iterator[Tensor]], latent: Tensor, size: int, factor: int) -> Iterator[Tensor]:
    yield tiled(lambda part: torch.cat(list(whole(part)), 1), latent, size, factor)
