"""Whether two experts read a prompt in the same way, as far as that can be told."""

from typing import Any

import torch
from torch import Tensor

from dovetail.core.denoiser import Expert
from dovetail.errors import SpaceError
from dovetail.experts.text import borrowed_of

SIZES = ("vocab_size", "hidden_size", "d_model", "num_hidden_layers", "num_layers")


def same_text(a: Expert, b: Expert) -> None:
    """Raise SpaceError, saying how they differ, unless two experts have one text encoder.

    Compared are its class, its sizes, and the first rows of its word embedding (to half precision); experts without
    a text encoder agree with everyone, and so do the packaged ones, each of which learned to read the same few words.
    """
    if all(str(getattr(expert.network, "weights", "")).startswith("sprites/") for expert in (a, b)):
        return
    one, two = (borrowed_of(expert.network) for expert in (a, b))
    if one is None or two is None or one is two:
        return
    (traits, words), (others, other_words) = (lent.known("words", _words) for lent in (one, two))
    differ = [
        f"{what} {x!r} against {y!r}" for what, x, y in zip(("class", *SIZES), traits, others, strict=True) if x != y
    ]
    if not differ and not _alike(words, other_words):
        differ = ["their word embeddings"]
    if differ:
        raise SpaceError(
            f"experts '{a.name}' and '{b.name}' have different text encoders ({'; '.join(differ)}), so they do not read a "
            "prompt in the same way and do not belong in one blend; take experts of one family"
        )


def _words(encoder: Any) -> tuple[list[Any], Tensor]:
    """A text encoder's class and sizes, and the first rows of its word embedding, which outlive it."""
    traits = [type(encoder).__name__, *(getattr(encoder.config, name, None) for name in SIZES)]
    return traits, encoder.get_input_embeddings().weight[:64].detach().float().cpu().clone()


def _alike(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=0.02, atol=0.02 * float(a.std()))
