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


def seen(codec: Any, stream: Callable[[Any], Iterator[Tensor]], make: Callable[[Tensor], T]) -> list[T]:
    """What `make` makes of each piece of the pixels in [-1, 1] that a codec streams, with black for what is no number.

    If a piece is not visible and the codec works in half precision, the whole stream is decoded again in float32, with a
    RunWarning; what is still black then stays black. Raises DecodeError for pixels that are no numbers even in float32,
    or if the weights cannot be widened.
    """
    made, right = _made(codec, stream(codec), make)
    half = getattr(codec, "dtype", None)
    if right or half not in HALVES or not _widens(codec.module):
        return made
    with _single(codec.module):
        single = replace(codec, dtype=torch.float32)
        single.shortages[:] = codec.shortages
        made, right = _made(single, stream(single), make)
        codec.shortages[:] = single.shortages
    name = str(half).removeprefix("torch.")
    if right:
        warnings.warn(
            f"codec '{codec.weights}' decoded to black or to no numbers in {name}, so it was done again in float32; "
            "--set codec.dtype=float32 (of a pipeline: pipe.vae.to(torch.float32)) does so from the start",
            RunWarning,
            stacklevel=2,
        )
    return made


def _made(codec: Any, stream: Iterator[Tensor], make: Callable[[Tensor], T]) -> tuple[list[T], bool]:
    """What is made of each piece, before the next is decoded, and whether all pieces are visible."""
    made, right = [], []
    for pixels in stream:
        numbers(pixels, codec)
        right.append(visible(pixels))
        made.append(make(pixels.nan_to_num(-1.0)))
    return made, all(right)


def numbers(pixels: Tensor, codec: Any) -> None:
    """Raise DecodeError for frames that are no numbers, from a codec that works in float32 or cannot."""
    dtype = getattr(codec, "dtype", None)
    if dtype in HALVES and _widens(codec.module):
        return
    if not pixels.isfinite().all():
        name = str(dtype).removeprefix("torch.") if dtype in HALVES else "float32"
        raise DecodeError(str(getattr(codec, "weights", "codec")), name)


def _hooks(module: Any) -> list[tuple[Any, Any]]:
    """Parts of a module that hooks of diffusers are on, and these."""
    found = [(part, getattr(part, "_diffusers_hook", None)) for part in module.modules()]
    return [(part, hook) for part, known in found if known is not None for hook in known.hooks.values()]


def _widens(module: Any) -> bool:
    """Whether a module's weights can be in float32 for a while: not if they are quantised, or brought in half precision
    from elsewhere at each call. Weights kept in 8 bits can, where a hook widens them for each layer's work."""
    hooks = _hooks(module)
    if any(getattr(getattr(hook, "group", None), "stream", None) is not None for _, hook in hooks):
        return False
    cast = {id(weight) for part, hook in hooks if hasattr(hook, "compute_dtype") for weight in part.parameters()}
    return all(
        type(weight.data) is Tensor
        and weight.device.type != "meta"
        and (weight.element_size() > 1 or id(weight) in cast)
        for weight in module.parameters()
    )


@contextmanager
def _single(module: Any) -> Iterator[None]:
    """The module in float32, for a while. Halves and 8 bits are exact in it, so they come back as they were."""
    parts = (*module.parameters(), *module.buffers())
    # What is kept in 8 bits stays so; its hooks widen it.
    were = [(part, part.dtype) for part in parts if part.is_floating_point() and part.element_size() > 1]
    hooks = [(hook, hook.compute_dtype) for _, hook in _hooks(module) if hasattr(hook, "compute_dtype")]
    try:
        for part, _ in were:
            part.data = part.data.float()
        for hook, _ in hooks:
            hook.compute_dtype = torch.float32
        yield
    finally:
        for part, dtype in were:
            part.data = part.data.to(dtype)
        for hook, dtype in hooks:
            hook.compute_dtype = dtype
