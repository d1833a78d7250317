"""What makes a network smaller on its device, or faster there; each is one word in a recipe (docs/memory.md)."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from dovetail.errors import ExtraError, RecipeError, nearest
from dovetail.experts.blocks import blocks_of
from dovetail.experts.checkpoint import quietly

STORES = {"float8": torch.float8_e4m3fn}
"""In what weights may wait that are widened for each layer's work."""

QUANTIZE = ("torchao-int8", "torchao-float8", "bitsandbytes-int8", "bitsandbytes-nf4")
"""Quantisation through diffusers, by the package that does it."""


@dataclass(frozen=True)
class Tuning:
    """How a network is kept and called, which changes nothing of what its recipe means.

    store: a key of STORES; each layer's weights are widened while it works. quantize: one of QUANTIZE. channels_last:
    the memory layout of convolutions over pictures. attention: a backend of diffusers. compile: by torch.compile.
    offload: blocks wait in the computer's memory and come one after another.
    """

    store: str | None = None
    quantize: str | None = None
    channels_last: bool = False
    attention: str | None = None
    compile: bool = False
    offload: bool = False

    @property
    def stays(self) -> bool:
        """Whether the network can only be where it was loaded to."""
        return (self.quantize or "").startswith("bitsandbytes")


def quantization(who: str, word: str | None, dtype: torch.dtype) -> dict[str, Any]:
    """What from_pretrained is told to quantise a network; nothing without a word. Raises ExtraError, RecipeError."""
    if word is None:
        return {}
    if word not in QUANTIZE:
        raise RecipeError(f"{who}: unknown quantize '{word}'; {nearest(word, QUANTIZE)}")
    package, _, kind = word.partition("-")
    if find_spec(package) is None:
        raise ExtraError(f"{who} asks for quantize: {word}, and the package {package} is not installed", package)
    if package == "bitsandbytes" and not torch.cuda.is_available():
        raise RecipeError(
            f"{who} asks for quantize: {word}, which needs a CUDA device; torchao-int8 works on a CPU too"
        )
    import diffusers

    if package == "torchao":
        kinds = import_module("torchao.quantization")
        chosen = kinds.Int8WeightOnlyConfig if kind == "int8" else kinds.Float8WeightOnlyConfig
        return {"quantization_config": diffusers.TorchAoConfig(chosen())}
    told = (
        {"load_in_8bit": True}
        if kind == "int8"
        else {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    )
    return {"quantization_config": diffusers.BitsAndBytesConfig(**told)}


def tune(who: str, module: Any, tuning: Tuning, dtype: torch.dtype, device: torch.device) -> None:
    """Change a loaded network of diffusers as it is asked for. Raises RecipeError for what it cannot do.

    who: who it is, in messages. device: where its blocks come to, if they wait elsewhere (`offload`).
    """
    if tuning.channels_last:
        _channels_last(who, module)
    if tuning.attention is not None:
        _attention(who, module, tuning.attention)
    if tuning.store is not None:
        if tuning.store not in STORES:
            raise RecipeError(f"{who}: unknown store '{tuning.store}'; {nearest(tuning.store, STORES)}")
        if tuning.quantize is not None:
            raise RecipeError(f"{who}: weights are kept in 8 bits or quantised, not both; say store or quantize")
        if device.type == "mps":
            raise RecipeError(
                f"{who}: store: {tuning.store} is not to be had on Apple's MPS, which has no numbers of 8 bits; leave out "
                "store, or say device: cpu"
            )
        with quietly():
            module.enable_layerwise_casting(storage_dtype=STORES[tuning.store], compute_dtype=dtype)
    if tuning.offload:
        offload(who, module, tuning, device)
    if tuning.compile:
        _compile(module)


def offload(who: str, module: Any, tuning: Tuning, device: torch.device) -> None:
    """Let a network's blocks come to the device one after another; on CUDA the next one while one works."""
    if tuning.stays:
        raise RecipeError(f"{who}: quantize: {tuning.quantize} cannot be moved, so its blocks cannot come in turns")
    with quietly():
        module.enable_group_offload(
            onload_device=device,
            offload_type="block_level",
            num_blocks_per_group=1,
            use_stream=device.type == "cuda",
        )


def _channels_last(who: str, module: nn.Module) -> None:
    flat = [weight for weight in module.parameters() if weight.dim() == 4]
    if not flat:
        raise RecipeError(
            f"{who} is a {type(module).__name__}, which has no convolutions over pictures, so channels_last says nothing to "
            "it; it is for UNets and image autoencoders"
        )
    for weight in flat:
        weight.data = weight.data.contiguous(memory_format=torch.channels_last)


def _attention(who: str, module: Any, backend: str) -> None:
    """Set who computes a network's attention. diffusers would make it everyone's that names none, so that is undone."""
    from diffusers.models import attention_dispatch

    # A backend from the hub is code that somebody else may change.
    known = [one.value for one in attention_dispatch.AttentionBackendName if not one.value.endswith("_hub")]
    if backend not in known:
        raise RecipeError(f"{who}: unknown attention '{backend}'; {nearest(backend, known)}")
    if not any(hasattr(getattr(part, "processor", None), "_attention_backend") for part in module.modules()):
        raise RecipeError(
            f"{who} is a {type(module).__name__}, whose attention diffusers leaves to torch, so attention: {backend} says "
            "nothing to it; Wan and LTX-Video take it"
        )
    registry: Any = attention_dispatch._AttentionBackendRegistry
    before = registry._active_backend
    try:
        with quietly():
            module.set_attention_backend(backend)
    except (RuntimeError, ImportError, ValueError) as error:
        raise RecipeError(f"{who}: attention: {backend} is not to be had here: {error}") from None
    finally:
        registry.set_active_backend(before)


def _compile(module: Any) -> None:
    """Compile a stack's blocks, which are alike, so that one is compiled for all; anything else as a whole."""
    if hasattr(module, "decoder"):
        module.decoder.compile()
        return
    name = blocks_of(module)
    for part in [module] if name is None else getattr(module, name):
        part.compile()


def tuning_of(spec: Mapping[str, Any]) -> Tuning:
    """The tuning that a recipe's expert or codec asks for."""
    found = {key: spec[key] for key in Tuning.__dataclass_fields__ if spec.get(key) is not None}
    return Tuning(**found)
