"""Whether two experts read a prompt in the same way, as far as that can be told."""

from typing import Any

import torch
from torch import nn

from dovetail.core.denoiser import Expert
from dovetail.errors import SpaceError

SIZES = ("vocab_size", "hidden_size", "d_model", "num_hidden_layers", "num_layers")


def same_text(a: Expert, b: Expert) -> None:
    """Raise SpaceError, saying how they differ, unless two experts have one text encoder.

    Compared are its class, its sizes, and the first rows of its word embedding (to half precision); experts without
    a text encoder agree with everyone, and so do the packaged ones, each of which learned to read the same few words.
    """
    if all(str(getattr(expert.network, "weights", "")).startswith("sprites/") for expert in (a, b)):
        return
    one, two = (getattr(getattr(expert.network, "text", None), "encoder", None) for expert in (a, b))
    if one is None or two is None or one is two:
        return
    differ = [
        f"{what} {x!r} against {y!r}"
        for what, x, y in zip(("class", *SIZES), _traits(one), _traits(two), strict=True)
        if x != y
    ]
    if not differ and not _alike(one, two):
        differ = ["their word embeddings"]
    if differ:
        raise SpaceError(
            f"experts '{a.name}' and '{b.name}' have different text encoders ({'; '.join(differ)}), so they do not read a "
            "prompt in the same way and do not belong in one blend; take experts of one family"
        )


def _traits(encoder: nn.Module) -> list[Any]:
    config: Any = encoder.config
    return [type(encoder).__name__, *(getattr(config, name, None) for name in SIZES)]


def _alike(one: Any, two: Any) -> bool:
    a, b = (encoder.get_input_embeddings().weight[:64].detach().float().cpu() for encoder in (one, two))
    return torch.allclose(a, b, rtol=0.02, atol=0.02 * float(a.std()))
