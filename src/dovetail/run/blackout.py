"""Decoders that overflow in half precision: their frames are NaN, which files show as black."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from dovetail.errors import DecodeError, RunWarning

HALVES = (torch.float16, torch.bfloat16)

T = TypeVar("T")


def visible(pixels: Tensor) -> bool:
    """Whether pixels in [-1, 1] are numbers, and not black altogether."""
    return bool(pixels.isfinite().all()) and bool((pixels > -1).any())


def seen(codec: Any, make: Callable[[Any], tuple[T, bool]]) -> T:
    """What `make` makes with a codec; it also says whether that is visible.

    If it is not, and the codec works in half precision, it is made again in float32, with a RunWarning. What is black
    then, is black. Raises DecodeError for frames that are no numbers even so.
    """
    made, right = make(codec)
    half = getattr(codec, "dtype", None)
    if right or half not in HALVES:
        return made
    if any(part.element_size() == 1 for part in codec.module.parameters()):
        return made  # Weights that are kept in 8 bits are widened to the codec's own precision alone.
    with _single(codec.module):
        single = replace(codec, dtype=torch.float32)
        single.shortages[:] = codec.shortages
        made, right = make(single)
        codec.shortages[:] = single.shortages
    name = str(half).removeprefix("torch.")
    if right:
        warnings.warn(
            f"codec '{codec.weights}' decoded to black or to no numbers in {name}, so it was done again in float32; "
            "--set codec.dtype=float32 does so from the start",
            RunWarning,
            stacklevel=2,
        )
    return made


def numbers(pixels: Tensor, codec: Any) -> None:
    """Raise DecodeError for frames that are no numbers, from a codec that works in float32."""
    if getattr(codec, "dtype", None) not in HALVES and not pixels.isfinite().all():
        raise DecodeError(str(getattr(codec, "weights", "codec")))


@contextmanager
def _single(module: Any) -> Iterator[None]:
    """The module in float32, for a while. Halves are exact in it, so they come back as they were."""
    were = [(part, part.dtype) for part in (*module.parameters(), *module.buffers()) if part.is_floating_point()]
    try:
        for part, _ in were:
            part.data = part.data.float()
        yield
    finally:
        for part, dtype in were:
            part.data = part.data.to(dtype)
