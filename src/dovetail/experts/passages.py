"""Passages: frames of one row that attend to words of their own.

Cross-attention looks words up for each token by itself, so tokens of different frames can be shown different texts in
one call, while all that is between frames stays as it is: AnimateDiff's users know it as prompt travel. A network is
handed the texts of a row one behind another; for the length of a call each of its cross-attentions shows every frame
the one that is told of it. Joint attention (CogVideoX), whose words and tokens are one sequence, has no such place.

Why, and what it is worth: docs/decisions/0036-told-by-frame.md.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dovetail.core.denoiser import Parts

CROSS = "attn2"
"""What diffusers' blocks, and ours, call the attention over words."""


@contextmanager
def relayed(module: nn.Module, rows: Sequence[Parts]) -> Iterator[None]:
    """While it lasts, cross-attentions of the module show each frame of a row the words of its part.

    The words that the module is given are "b (p n) c": the texts of a row's parts one behind another, padded at the end
    to as many as the longest row has; masks likewise.
    """
    crossed = [(layer, vars(layer).get("forward")) for name, layer in module.named_modules() if _crosses(name)]
    for layer, _ in crossed:
        setattr(layer, "forward", _Relay(layer.forward, tuple(rows)))  # noqa: B010  (mypy knows it as a method)
    try:
        with _uncompiled(module):
            yield
    finally:
        for layer, own in crossed:
            if own is None:
                del layer.forward
            else:
                setattr(layer, "forward", own)  # noqa: B010


def _uncompiled(module: nn.Module) -> AbstractContextManager[Any]:
    """Compiled parts run as they are written meanwhile, or each passage would be compiled anew."""
    compiled = hasattr(module, "_orig_mod") or any(part._compiled_call_impl is not None for part in module.modules())
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def _crosses(name: str) -> bool:
    return name.rpartition(".")[2] == CROSS


@dataclass(frozen=True)
class _Relay:
    """A cross-attention that is asked part by part. Tokens are "b (f s) c", or "(b f) s c" where frames are rows."""

    attend: Callable[..., Tensor]
    rows: Sequence[Parts]

    def __call__(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        if encoder_hidden_states is None:  # It attends to itself.
            return self.attend(hidden_states, None, attention_mask, *args, **kwargs)
        tokens = hidden_states.reshape(len(self.rows), -1, hidden_states.shape[-1])
        cells = tokens.shape[1] // sum(frames for _, frames in self.rows[0])
        length = encoder_hidden_states.shape[1] // max(map(len, self.rows))
        copies = len(encoder_hidden_states) // len(self.rows)  # where frames are rows, each has its own
        out = torch.empty_like(tokens)
        for row, parts in enumerate(self.rows):
            start, own = 0, slice(row * copies, row * copies + 1)
            for part, (_, frames) in enumerate(parts):
                here, told = slice(start, start + frames * cells), slice(part * length, (part + 1) * length)
                words = encoder_hidden_states[own, told]
                mask = None if attention_mask is None else attention_mask[own, ..., told]
                out[row : row + 1, here] = self.attend(tokens[row : row + 1, here], words, mask, *args, **kwargs)
                start = here.stop
        return out.reshape(hidden_states.shape)
