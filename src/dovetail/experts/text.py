"""Words to embeddings, exactly as the stock pipelines make them."""

import html
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dovetail.errors import PromptWarning
from dovetail.experts.adapter import Embedding

Found = TypeVar("Found")
STAYS = 2**29
"""Bytes up to which a text model stays in memory: room for it costs less than the time to load it for each new text."""


@dataclass(eq=False)
class Borrowed:
    """A text model's network, in memory until it has read, and loaded once more when it is asked again: it reads for
    seconds, and may be larger than the experts. Without `again`, which loads it, it stays, and so does a small one.

    >>> with torch.device("meta"):
    ...     lent = Borrowed(nn.Linear(20_000, 10_000), again=lambda: nn.Linear(2, 2))
    >>> lent.known("width", lambda network: network.in_features)
    20000
    >>> lent.give_back()
    >>> lent.known("width", lambda network: network.in_features), lent.there
    (20000, False)
    >>> lent.network.in_features
    2
    >>> lent.give_back()
    >>> lent.there
    True
    """

    _network: nn.Module | None
    again: Callable[[], nn.Module] | None = None
    _known: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def there(self) -> bool:
        """Whether it is in memory now."""
        return self._network is not None

    @property
    def network(self) -> nn.Module:
        """The network, loaded if it was given back. Raises WeightsError where its weights are gone meanwhile."""
        if self._network is None:
            assert self.again is not None
            self._network = self.again()
        return self._network

    @property
    def leaves(self) -> bool:
        """Whether it goes when it has read: it can be loaded again, and is large."""
        return self.again is not None and (self._network is None or _bytes(self._network) > STAYS)

    def give_back(self) -> None:
        """Let its memory go, if it leaves."""
        if self.leaves:
            self._network = None

    def known(self, what: str, find: Callable[[nn.Module], Found]) -> Found:
        """What `find` says of the network; of one that was given back, what it said last."""
        if self.there or what not in self._known:
            self._known[what] = find(self.network)
        found: Found = self._known[what]
        return found


def borrowed_of(network: Any) -> Borrowed | None:
    """The text model of an expert's network; None if it has none."""
    found: Borrowed | None = getattr(getattr(network, "text", None), "borrowed", None)
    return found


def _bytes(network: nn.Module) -> int:
    return sum(weight.nbytes for weight in network.parameters())


@dataclass(frozen=True, eq=False)
class Clip:
    """CLIP's text model: padded to the limit; the padding is masked only where the model asks for it."""

    tokenizer: Any
    borrowed: Borrowed
    expert: str = ""

    @property
    def limit(self) -> int:
        """The most tokens it reads, marks at the ends included."""
        return int(self.tokenizer.model_max_length)

    @torch.no_grad()
    def __call__(self, text: str) -> Embedding:
        """The last hidden states "1 limit d". Warns with PromptWarning about words beyond the limit."""
        read = _read(self, text)
        masked = getattr(self.borrowed.network.config, "use_attention_mask", False)
        return (self.borrowed.network(read.input_ids, attention_mask=read.attention_mask if masked else None)[0],)


@dataclass(frozen=True, eq=False)
class T5:
    """T5's encoder: padded to the limit; the padding is seen by the encoder. As LTX-Video uses it, `masked`, it is
    hidden from the network by a mask; as CogVideoX does, the network sees it too."""

    tokenizer: Any
    borrowed: Borrowed
    expert: str = ""
    limit: int = 128
    masked: bool = True

    @torch.no_grad()
    def __call__(self, text: str) -> Embedding:
        """The last hidden states "1 limit d" and, if `masked`, a mask "1 limit", True where there are words. Warns with
        PromptWarning about words beyond the limit."""
        read = _read(self, text)
        hidden = self.borrowed.network(read.input_ids)[0]
        return (hidden, read.attention_mask.bool()) if self.masked else (hidden,)


@dataclass(frozen=True, eq=False)
class UMT5:
    """UMT5's encoder as Wan uses it: the padding is hidden from the encoder, and is zero for the network, which has no
    mask."""

    tokenizer: Any
    borrowed: Borrowed
    expert: str = ""
    limit: int = 512

    @torch.no_grad()
    def __call__(self, text: str) -> Embedding:
        """The last hidden states "1 limit d". Warns with PromptWarning about words beyond the limit."""
        read = _read(self, cleaned(text))
        hidden: Tensor = self.borrowed.network(read.input_ids, read.attention_mask)[0]
        return (hidden * read.attention_mask[..., None].to(hidden.dtype),)


@dataclass(frozen=True, eq=False)
class MT5:
    """mT5's encoder as Open-Sora Plan uses it: the padding is hidden from the encoder and, by a mask, from the network.
    Texts are read as they are."""

    tokenizer: Any
    borrowed: Borrowed
    expert: str = ""
    limit: int = 512

    @torch.no_grad()
    def __call__(self, text: str) -> Embedding:
        """The last hidden states "1 limit d" and a mask "1 limit", True where there are words. Warns with PromptWarning
        about words beyond the limit."""
        read = _read(self, text)
        return self.borrowed.network(read.input_ids, read.attention_mask)[0], read.attention_mask.bool()


def cleaned(text: str) -> str:
    """A text as WanPipeline cleans it: no HTML entities, single spaces and, where ftfy is installed, Unicode mended.

    >>> cleaned("  a cat &amp;amp; a\\n dog ")
    'a cat & a dog'
    """
    if find_spec("ftfy") is not None:
        text = import_module("ftfy").fix_text(text)
    return re.sub(r"\s+", " ", html.unescape(html.unescape(text))).strip()


def _read(text_model: Clip | T5 | UMT5 | MT5, text: str) -> Any:
    """Tokens and mask, padded to the model's limit, on its device. Warns about words beyond the limit."""
    from diffusers.utils.torch_utils import get_module_execution_device

    tokenizer, limit = text_model.tokenizer, text_model.limit
    if rest := beyond(tokenizer, text, limit):
        warnings.warn(
            f"expert '{text_model.expert}' reads {limit} tokens; it does not see the end of this prompt: {rest!r}",
            PromptWarning,
            stacklevel=3,
        )
    read = tokenizer(text, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
    return read.to(
        get_module_execution_device(text_model.borrowed.network)
    )  # Weights may be elsewhere, until it is called.


def beyond(tokenizer: Any, text: str, limit: int) -> str:
    """The end of `text` that a tokenizer cuts off, as it was written; "" when all of it is read.

    The last of the `limit` tokens that are read is the end mark.
    """
    places = tokenizer(text, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    return "" if len(places) <= limit else text[places[limit - 1][0] :]
