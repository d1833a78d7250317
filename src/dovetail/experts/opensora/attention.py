"""Open-Sora Plan's attention: over all tokens, or over every fourth in one of two ways, and over words.

Tokens lie by time, height, width. With n = 4, of the tokens 0, 1, 2, ..

    fourths:  0 4 8 12 ..                      each meets every fourth one from itself
    runs:     0 1 2 3  16 17 18 19  32 ..      runs of four: each meets its own run and every fourth run from there

and both cost a quarter. Blocks take turns in them, so what two tokens know of each other comes round in two blocks. Where
tokens are no multiple of n * n, empty ones follow at the end, which no other meets.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from dovetail.experts.opensora.places import Turns

Way = Literal["all", "fourths", "runs"]

APART: dict[Way, tuple[str, str]] = {
    "all": ("b g h d", "b h g d"),
    "fourths": ("b (g n) h d", "(b n) h g d"),
    "runs": ("b (g m n) h d", "(b m) h (g n) d"),
}
"""How tokens stand in a row, and in the groups in which they meet."""


@dataclass(frozen=True)
class Groups:
    """Which tokens meet. n: the number of groups, and for runs their length too.

    >>> row = torch.arange(32)[None, :, None, None]
    >>> Groups("fourths", 4).apart(row)[1].flatten().tolist()
    [1, 5, 9, 13, 17, 21, 25, 29]
    >>> Groups("runs", 4).apart(row)[1].flatten().tolist()
    [4, 5, 6, 7, 20, 21, 22, 23]
    """

    way: Way = "all"
    n: int = 1

    @property
    def axes(self) -> dict[str, int]:
        """Lengths that patterns of APART do not tell."""
        return {"all": {}, "fourths": {"n": self.n}, "runs": {"m": self.n, "n": self.n}}[self.way]

    def empty(self, tokens: int) -> int:
        """How many empty tokens follow so many.

        >>> Groups("runs", 4).empty(33), Groups("fourths", 4).empty(32), Groups().empty(33)
        (15, 0, 0)
        """
        return 0 if self.way == "all" else -tokens % self.n**2

    def apart(self, x: Tensor) -> Tensor:
        """Tokens "b n h d" in their groups, "rows h g d", with empty ones where they are needed."""
        row, groups = APART[self.way]
        return rearrange(pad(x, (0, 0, 0, 0, 0, self.empty(x.shape[1]))), f"{row} -> {groups}", **self.axes)

    def back(self, x: Tensor, tokens: int) -> Tensor:
        """The tokens of groups "rows h g d" in a row again, "b tokens h d"."""
        row, groups = APART[self.way]
        return rearrange(x, f"{groups} -> {row}", **self.axes)[:, :tokens]

    def there(self, x: Tensor) -> Tensor | None:
        """Which tokens of a row like "b n h d" are none of the empty ones, by group, "rows 1 1 g"; None if there are no
        empty ones."""
        if not self.empty(x.shape[1]):
            return None
        mask = torch.ones(*x.shape[:2], 1, 1, dtype=torch.bool, device=x.device)
        return self.apart(mask).transpose(2, 3)


class Projections(nn.Module):
    """The four maps of an attention, by the names that diffusers has for them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Identity()])

    def split(self, x: Tensor) -> Tensor:
        """Heads "b n h d" of "b n (h d)"."""
        return rearrange(x, "b n (h d) -> b n h d", h=self.heads)

    def joined(self, heads: Tensor) -> Tensor:
        """The answer "b n c" of heads "b n h d"."""
        out: Tensor = self.to_out[0](rearrange(heads, "b n h d -> b n (h d)"))
        return out


class TokenAttention(Projections):
    """Attention of a clip's tokens over each other, x "b n c"."""

    def __init__(self, width: int, heads: int, groups: Groups) -> None:
        super().__init__(width, heads)
        self.groups = groups

    def forward(self, x: Tensor, turned: Turns) -> Tensor:
        # Tokens are turned by where they lie in the clip, before they are grouped.
        q, k, v = turned(self.split(self.to_q(x))), turned(self.split(self.to_k(x))), self.split(self.to_v(x))
        mask = self.groups.there(v)
        q, k, v = (self.groups.apart(part) for part in (q, k, v))
        seen = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.joined(self.groups.back(seen, x.shape[1]))


class WordAttention(Projections):
    """Attention of tokens "b n c" over words "b l c"; mask "b l", True where there are words, or None for everywhere.

    Which tokens meet does not matter here: each meets all words.
    """

    def forward(self, x: Tensor, words: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (self.split(part).transpose(1, 2) for part in (self.to_q(x), self.to_k(words), self.to_v(words)))
        seen = scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask[:, None, None])
        return self.joined(seen.transpose(1, 2))
