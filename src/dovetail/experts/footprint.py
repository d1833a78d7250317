"""How much memory a network works in, beside its weights: counted on meta tensors, without a value computed.

What lives at once is followed tensor by tensor, as torch frees them. Attention is taken to be fused, as it is on GPUs:
its scores are never in memory. What libraries take for themselves (workspaces, what the allocator cannot fill) is not
seen.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dovetail.experts.adapter import Embedding
from dovetail.experts.checkpoint import quietly
from dovetail.experts.codec import pieces_of
from dovetail.experts.decoders import WAN, WFVAE
from dovetail.experts.loading import FAMILIES
from dovetail.experts.outline import Outline, Shape, hollow_of, written
from dovetail.experts.remembered import remembered


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors made meanwhile that are still there."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now, self.most = 0, 0
        # A storage is known by its handle as long as it lives.
        self.seen = {tensor.untyped_storage()._cdata: None for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.seen:
            return
        self.seen[key] = None
        size = storage.nbytes()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._drop, key, size).atexit = False

    def _drop(self, key: int, size: int) -> None:
        self.seen.pop(key, None)
        self.now -= size


class _Fused(TorchFunctionMode):
    """Attention as one operation that keeps its answer alone."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        told = kwargs or {}
        if func is not scaled_dot_product_attention:
            return func(*args, **told)
        query, _, value = (*args, *(told[name] for name in ("query", "key", "value")[len(args) :]))[:3]
        return query.new_empty(*query.shape[:-1], value.shape[-1])


@torch.no_grad()
def held(call: Callable[[], object], known: Iterable[Tensor] = ()) -> int:
    """The most bytes that tensors made by `call` take up at once. known: what was there before and is not counted.

    >>> held(lambda: torch.zeros(10, device="meta") + 1)
    80
    """
    with _Fused(), _Alive(known) as alive:
        call()
    return int(alive.most)


def activations(it: Outline, shape: Shape, rows: int) -> int:
    """What a network works in, for so many rows of latents of this shape at once."""
    words = (it.words.limit, it.words.width, it.words.masked)
    return rows * _looked(it.family, it.kind, _short(it.config), words, shape, it.size)


def latents(shape: Shape, rows: int, size: int) -> int:
    """What is shown to a network, and its answer in float32."""
    channels, frames, height, width = shape
    return rows * channels * frames * height * width * (size + 4)


def reading(it: Outline) -> int:
    """What its text model works in, for one text."""
    return _read(it.words.kind, _short(it.words.config), it.words.limit, it.size)


def decoding(kind: str, config: Mapping[str, Any], shape: Shape, size: int, chunk: int, tiles: int | None) -> int:
    """What an autoencoder works in that decodes latents of this shape, its frames among it.

    chunk: frames that an image autoencoder is given at once; tiles: cells along each side that any is given at once.
    """
    channels, frames, height, width = shape
    if tiles is not None:
        height, width = min(height, tiles), min(width, tiles)
    frames = min(frames, chunk) if kind == "AutoencoderKL" else frames
    # Wan's and WF-VAE's take one latent frame after another. Wan's keeps what it has made, which is copied when more is
    # added to it; what WF-VAE's makes is gone before the next.
    if kind == WFVAE:  # Of the last one nothing more is shown to it.
        frames = min(frames, STEADY + 1)
    more = max(0, frames - STEADY) if kind == WAN else 0
    found = _decoded(kind, written(config), channels, frames - more, size) * height * width // CELLS**2
    each = 4 * 3 * 64 * height * width * size
    return max(found + more * each, 2 * frames * each) if more else found


CELLS = 8
"""Cells a side on which decoders are followed: all that lives in one grows with their number."""

STEADY = 3
"""Latent frames after which Wan's and WF-VAE's decoders do the same for each."""


def blockwise(it: Outline) -> int:
    """Bytes of weights on the device where blocks come in turns: two of them, and all that is no block."""
    return _blockwise(it.kind, _short(it.config)) * it.size


@remembered
def _blockwise(kind: str, config: str) -> int:
    module = hollow_of(kind, config)
    blocks = [block for part in module.children() if isinstance(part, nn.ModuleList) for block in part]
    sizes = sorted(sum(weight.numel() for weight in block.parameters()) for block in blocks)
    whole = sum(weight.numel() for weight in module.parameters())
    return whole - sum(sizes) + sum(sizes[-2:])


def _short(config: Mapping[str, Any]) -> str:
    """A config as text; of a stack of blocks, two, or one of each kind: what lives at once does not grow with how many there
    are."""
    layers, kinds = config.get("num_layers"), 4 if "sparse1d" in config else 2
    return written({**config, "num_layers": min(layers, kinds)} if isinstance(layers, int) else config)


DTYPES = {4: torch.float32, 2: torch.bfloat16}
"""By bytes per number."""


@remembered
def _looked(family: str, kind: str, config: str, words: tuple[int, int, bool], shape: Shape, size: int) -> int:
    rows = 1
    limit, width, masked = words
    module, dtype = _placed(kind, config, size), DTYPES[size]
    with torch.device("meta"):
        x, time = torch.zeros(rows, *shape, dtype=dtype), torch.full((rows,), 500.0)
        hidden, mask = torch.zeros(rows, limit, width, dtype=dtype), torch.ones(rows, limit, dtype=torch.bool)
        text: Embedding = (hidden, mask) if masked else (hidden,)
        known = (*_tensors(module), x, time, hidden, mask)
        return held(lambda: FAMILIES[family].convention(module, x, time, text), known)


@remembered
def _read(kind: str, config: str, limit: int, size: int) -> int:
    module = _placed(kind, config, size)
    with torch.device("meta"):
        ids = torch.zeros(1, limit, dtype=torch.long)
        return held(lambda: module(ids), (*_tensors(module), ids))


@remembered
def _decoded(kind: str, config: str, channels: int, frames: int, size: int) -> int:
    module: Any = _placed(kind, config, size)
    with torch.device("meta"):
        code, told = torch.zeros(1, channels, frames, CELLS, CELLS, dtype=DTYPES[size]), ()
        if kind == "AutoencoderKL":
            rows = torch.zeros(frames, channels, CELLS, CELLS, dtype=DTYPES[size])
            return held(lambda: module.decode(rows, return_dict=False), (*_tensors(module), rows))
        if module.config.get("timestep_conditioning"):
            told = (torch.zeros(1, dtype=DTYPES[size]),)  # type: ignore[assignment]

        def decode() -> None:
            for _ in pieces_of(module, code, *told):
                pass

        return held(decode, (*_tensors(module), code, *told))


@cache
def _placed(kind: str, config: str, size: int) -> nn.Module:
    """A hollow network in the precision it is used in; the one of `hollow_of` stays as it is."""
    module = hollow_of.__wrapped__(kind, config)
    with quietly():
        return module if size == 4 else module.to(DTYPES[size])


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
