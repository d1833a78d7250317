"""Words to embeddings, exactly as the stock pipelines make them."""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dovetail.errors import PromptWarning
from dovetail.experts.adapter import Embedding


@dataclass(frozen=True, eq=False)
class Clip:
    """CLIP's text model: padded to the limit; the padding is masked only where the model asks for it."""

    tokenizer: Any
    encoder: nn.Module
    expert: str = ""

    @property
    def limit(self) -> int:
        """The most tokens it reads, marks at the ends included."""
        return int(self.tokenizer.model_max_length)

    @torch.no_grad()
    def __call__(self, text: str) -> Embedding:
        """The last hidden states "1 limit d". Warns with PromptWarning about words beyond the limit."""
        if rest := beyond(self.tokenizer, text, self.limit):
            warnings.warn(
                f"expert '{self.expert}' reads {self.limit} tokens; it does not see the end of this prompt: {rest!r}",
                PromptWarning,
                stacklevel=2,
            )
        read = self.tokenizer(
            text, padding="max_length", max_length=self.limit, truncation=True, return_tensors="pt"
        ).to(next(self.encoder.parameters()).device)
        masked = getattr(self.encoder.config, "use_attention_mask", False)
        return (self.encoder(read.input_ids, attention_mask=read.attention_mask if masked else None)[0],)


def beyond(tokenizer: Any, text: str, limit: int) -> str:
    """The end of `text` that a tokenizer cuts off, as it was written; "" when all of it is read.

    The last of the `limit` tokens that are read is the end mark.
    """
    places = tokenizer(text, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    return "" if len(places) <= limit else text[places[limit - 1][0] :]
