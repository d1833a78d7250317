"""Cheaper candidates made of a transformer, sharing its weights: without some of its blocks, or with what they did one
look ago in their place.

    h' = h + (b_j(... b_i(h_0)) - h_0)      the middle of a look in full, at h_0, goes on in the look after it

What blocks add to the hidden state changes slowly along a ladder: DeepCache (Ma et al., 2023, arXiv:2312.00858) uses
that in U-Nets, and others in transformers. A look that reused leaves nothing, so nothing is ever older than one look.
"""

import copy
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from dovetail.core.denoiser import Condition, Network
from dovetail.errors import RecipeError
from dovetail.experts.adapter import Adapter
from dovetail.experts.moving import in_groups

LISTS = ("blocks", "transformer_blocks")
"""What diffusers calls a transformer's blocks (Wan; LTX-Video and CogVideoX)."""


def blocks_of(module: nn.Module) -> str | None:
    """The name of a network's own list of blocks; None for a network that is no plain stack of them."""
    return next((name for name in LISTS if isinstance(getattr(module, name, None), nn.ModuleList)), None)


def shortened(network: Network, skipped: tuple[int, ...]) -> Network:
    """A network without these blocks; what wraps a network may have a `without` of its own. Raises RecipeError."""
    own: Callable[[tuple[int, ...]], Network] | None = getattr(network, "without", None)
    if own is not None:
        return own(skipped)
    if not isinstance(network, Adapter):
        raise RecipeError(f"{type(network).__name__} experts have no blocks, so none can be skipped")
    return without(network, skipped)


def without(adapter: Adapter, skipped: tuple[int, ...]) -> Adapter:
    """The same network, these blocks (from 0) left out; weights are shared, not copied.

    Raises RecipeError for a network that is no stack of blocks, and for blocks that it does not have.
    """
    blocks = _stack(adapter, skipped, "skip")
    made = _with(adapter, [block for i, block in enumerate(blocks) if i not in skipped])
    # Where the one ran short of memory, both do with less from then on, and the run is told.
    object.__setattr__(made, "shortages", adapter.shortages)
    return made


def _stack(adapter: Adapter, chosen: tuple[int, ...], verb: str) -> list[nn.Module]:
    """A network's blocks; raises RecipeError unless the chosen ones (from 0) are among them, and leave some."""
    name = blocks_of(adapter.module)
    if name is None:
        raise RecipeError(
            f"expert '{adapter.name}' ({adapter.family}) is no stack of blocks of one size, so there are none to {verb}"
        )
    blocks = list(getattr(adapter.module, name))
    if not all(0 <= block < len(blocks) for block in chosen) or len(set(chosen)) >= len(blocks):
        raise RecipeError(f"expert '{adapter.name}' has the blocks 0..{len(blocks) - 1}; cannot {verb} {list(chosen)}")
    return blocks


def _with(adapter: Adapter, blocks: Sequence[nn.Module]) -> Adapter:
    """The same network over other blocks."""
    other, name = copy.copy(adapter.module), blocks_of(adapter.module)
    # A copied module shares its table of parts with the whole one.
    other._modules = dict(adapter.module._modules)
    other._modules[str(name)] = nn.ModuleList(blocks)
    if in_groups(adapter.module):
        raise RecipeError(
            f"expert '{adapter.name}' has its blocks come to the device in turns (offload), so none can be left out or "
            "reused; leave out offload, or skip and reuse"
        )
    made = replace(adapter, module=other)
    # What was read for the one is read for the other; the text model may have left the device since.
    object.__setattr__(made, "_said", adapter._said)
    return made


def inner(blocks: int) -> tuple[int, ...]:
    """The middle half in one piece, for reuse: never the first block, nor the last. Of three blocks or more.

    >>> inner(12)
    (3, 4, 5, 6, 7, 8)
    """
    edge = max(1, blocks // 4)
    return tuple(range(edge, blocks - edge))


def middle(blocks: int) -> tuple[int, ...]:
    """Every other block of the middle half, which networks miss least.

    >>> middle(12)
    (3, 5, 7)
    """
    return inner(blocks)[::2]


Notes = deque[Tensor]
"""What a middle added to the hidden state, and behind it to that of the words where blocks change it (CogVideoX), for
each call of the module in a look, in order."""


class _Writing(nn.Module):
    """Blocks in a row that write down what they add."""

    def __init__(self, blocks: Sequence[nn.Module], notes: Notes) -> None:
        super().__init__()
        self.blocks, self.notes = nn.ModuleList(blocks), notes

    def forward(self, *told: Any, **named: Any) -> Any:
        before: Any = _hidden(told, named)
        after = before
        for block in self.blocks:
            now = dict(zip((HIDDEN, WORDS), after if isinstance(after, tuple) else (after,), strict=False))
            after = block(after, *told[1:], **named) if told else block(**named | now)
        if isinstance(after, tuple):
            before = before, named[WORDS]
        self.notes.append(_joined(after) - _joined(before))
        return after


class _Reading(nn.Module):
    """The note of what blocks added, in their place."""

    def __init__(self, notes: Notes) -> None:
        super().__init__()
        self.notes = notes

    def forward(self, *told: Any, **named: Any) -> Any:
        before, note = _hidden(told, named), self.notes.popleft()
        if note.shape[1] == before.shape[1]:
            return before + note
        places = before.shape[1]
        return before + note[:, :places], named[WORDS] + note[:, places:]


HIDDEN, WORDS = "hidden_states", "encoder_hidden_states"


def _joined(state: Any) -> Tensor:
    """What a block hands on, in one: "b n d"."""
    return torch.cat(state, 1) if isinstance(state, tuple) else state


def _hidden(told: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    """The hidden state, first of what a block is told (Wan) or by its name (LTX-Video, CogVideoX)."""
    found = told[0] if told else named[HIDDEN]
    assert isinstance(found, Tensor)
    return found


def parted(network: Network, reused: tuple[int, ...], notes: Notes) -> tuple[Network, Network]:
    """A network that notes what these blocks do, and one that has the notes in their place; what wraps a network may
    have a `parted` of its own. Raises RecipeError for blocks that are not one piece of a stack."""
    own: Callable[[tuple[int, ...], Notes], tuple[Network, Network]] | None = getattr(network, "parted", None)
    if own is not None:
        return own(reused, notes)
    if not isinstance(network, Adapter):
        raise RecipeError(f"{type(network).__name__} experts have no blocks, so there are none to reuse")
    blocks, first, last = _stack(network, reused, "reuse"), reused[0], reused[-1]
    if reused != tuple(range(first, last + 1)):
        raise RecipeError(f"expert '{network.name}': blocks to reuse follow one another; {list(reused)} do not")
    ahead, middle_, behind = blocks[:first], blocks[first : last + 1], blocks[last + 1 :]
    # What one try has noted would be read with the next, so these never try again with fewer rows.
    whole = replace(network, divides=False)
    object.__setattr__(whole, "_said", network._said)
    writing = _with(whole, [*ahead, _Writing(middle_, notes), *behind])
    return writing, _with(whole, [*ahead, _Reading(notes), *behind])


@dataclass(frozen=True, eq=False)
class Shared:
    """What looks in full leave to those that reuse: by texts, frames and size, the native time and the notes."""

    whole: Network
    part: Network
    notes: Notes
    left: dict[Any, tuple[float, tuple[Tensor, ...]]] = field(default_factory=dict)

    @classmethod
    def of(cls, network: Network, reused: tuple[int, ...]) -> "Shared":
        notes: Notes = deque()
        return cls(*parted(network, reused, notes), notes)

    def drop(self, time: float) -> None:
        """Forget what lies below a noise level: a walk that is there now never saw it."""
        for key in [key for key, (at, _) in self.left.items() if at < time]:
            del self.left[key]


@dataclass(frozen=True, eq=False)
class Reusing:
    """A network that takes its middle from the look in full before, if there was one at more noise and it has not
    been reused; otherwise, and always unless `reuses`, it looks in full and leaves its middle to the next.

    The one memory in a denoiser: a run that is resumed begins with a look in full.
    """

    shared: Shared
    reuses: bool

    def __call__(self, x: Tensor, time: float, conditions: Sequence[Condition], frames: Tensor) -> Tensor:
        shared = self.shared
        shared.drop(time)
        shared.notes.clear()
        key = (tuple(conditions), tuple(map(tuple, frames.tolist())), tuple(x.shape))
        at, notes = shared.left.pop(key, (time, ()))
        if self.reuses and at > time:
            shared.notes.extend(notes)
            return shared.part(x, time, conditions, frames)
        out = shared.whole(x, time, conditions, frames)
        shared.left[key] = (time, tuple(shared.notes))
        return out
