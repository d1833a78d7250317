"""A transformer without some of its blocks: a cheaper candidate made of an expert, sharing its weights."""

import copy
from collections.abc import Callable
from dataclasses import replace

from torch import nn

from dovetail.core.denoiser import Network
from dovetail.errors import RecipeError
from dovetail.experts.adapter import Adapter

LISTS = ("blocks", "transformer_blocks")
"""What diffusers calls a transformer's blocks (Wan, LTX-Video)."""


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
    name = blocks_of(adapter.module)
    if name is None:
        raise RecipeError(
            f"expert '{adapter.name}' ({adapter.family}) is no stack of blocks of one size, so none can be skipped"
        )
    blocks = getattr(adapter.module, name)
    if not all(0 <= block < len(blocks) for block in skipped) or len(set(skipped)) >= len(blocks):
        raise RecipeError(f"expert '{adapter.name}' has the blocks 0..{len(blocks) - 1}; cannot skip {list(skipped)}")
    short = copy.copy(adapter.module)
    # A copied module shares its table of parts with the whole one.
    short._modules = dict(adapter.module._modules)
    short._modules[name] = nn.ModuleList(block for i, block in enumerate(blocks) if i not in skipped)
    return replace(adapter, module=short)


def middle(blocks: int) -> tuple[int, ...]:
    """Every other block of the middle half, which networks miss least.

    >>> middle(12)
    (3, 5, 7)
    """
    return tuple(range(blocks // 4, blocks - blocks // 4 - (blocks % 4 > 0), 2))
