"""Floating point operations of a network, counted on meta tensors: no weights are touched, and attention is seen.

On the CPU torch's counter misses attention, which there is one fused operation that it has no formula for.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dovetail.core.denoiser import Condition, Expert
from dovetail.experts.adapter import Adapter


@dataclass(frozen=True)
class Operations:
    """Floating point operations; a product and a sum count as two. linear: of tokens with weights (convolutions
    among them), which is what papers often count alone; attention: of tokens with tokens."""

    linear: int = 0
    attention: int = 0

    @property
    def total(self) -> int:
        return self.linear + self.attention

    def __add__(self, other: "Operations") -> "Operations":
        return Operations(self.linear + other.linear, self.attention + other.attention)

    def __mul__(self, times: int) -> "Operations":
        return Operations(self.linear * times, self.attention * times)


ATTENTION = ("bmm", "attention")
"""Parts of the names of torch's operations in which no weights take part."""


def flops(expert: Expert, shape: tuple[int, int, int, int], text: str = "") -> int:
    """Operations for one row: a latent of `shape` (channels, frames, height, width), one text, no guidance.

    A product and a sum count as two. The text model's work is not counted: it is done once per video. An expert that
    is no `Adapter` (an exact one) is run once on zeros.
    """
    network, row = expert.network, torch.zeros(1, *shape)
    if isinstance(network, Adapter):
        return counted(on_meta(network, row, text))

    def look() -> Tensor:
        return network(row, expert.schedule.native(0.5), (Condition(text),), torch.arange(shape[1])[None])

    look()  # What an expert does only once, at its first look, is no cost of a step.
    return counted(look)


def on_meta(adapter: Adapter, row: Tensor, text: str) -> Callable[[], Tensor]:
    """A call of the adapter's network on a row "1 c f h w" without a value in it; the text is read before."""
    words = tuple(part.to("meta") for part in adapter._embedding(text))
    time = torch.full((1,), 500.0, device="meta")
    return partial(adapter.convention, hollow(adapter.module), row.to("meta", adapter.dtype), time, words)


def hollow(module: nn.Module) -> nn.Module:
    """A copy of a module on the meta device. Its tensors are never copied, however large they are."""
    known: dict[int, Any] = {}
    for part in module.modules():
        for value in (*part.parameters(recurse=False), *part.buffers(recurse=False), *vars(part).values()):
            if isinstance(value, nn.Parameter):
                known[id(value)] = nn.Parameter(value.to("meta"), requires_grad=False)
            elif isinstance(value, Tensor):
                known[id(value)] = value.to("meta")
    return copy.deepcopy(module, known)


def counted(call: Callable[[], object]) -> int:
    """Operations that torch counts while `call` runs."""
    return operations(call).total


@torch.no_grad()
def operations(call: Callable[[], object]) -> Operations:
    """The same, linear layers and attention apart."""
    with FlopCounterMode(display=False) as counter:
        call()
    found: Mapping[Any, int] = counter.get_flop_counts().get("Global", {})
    attention = sum(count for kind, count in found.items() if any(word in str(kind) for word in ATTENTION))
    return Operations(sum(found.values()) - attention, attention)
