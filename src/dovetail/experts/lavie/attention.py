"""LaVie's transformer block: over the cells of a frame, over the words, over time.

Over time a cell looks at itself in all frames. Where these lie is told twice: queries and keys are turned by an angle
that grows with the frame, and each distance has a bias of its own in each head,

    score[i, j] = <turned(q, i), turned(k, j)> / sqrt(d) + bias[bucket(j - i)]

so only distances count, and a window may begin at any frame.
"""

import math

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

TURNED = 32
"""Numbers of a head that are turned, whatever its width."""

BUCKETS, FARTHEST = 32, 32
"""Biases of a head, half of them for frames behind; the distance from which on all have the last one."""


def turned(x: Tensor, frequencies: Tensor) -> Tensor:
    """Rotary positions (Su et al., 2021, arXiv:2104.09864), x "... f d": of frame i, the neighbours 2k and 2k + 1 are
    turned by the angle i * frequencies[k]; what lies behind the last pair stays."""
    angle = torch.outer(torch.arange(x.shape[-2], device=x.device), frequencies.float())
    cosine, sine = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    pairs = 2 * len(frequencies)
    a, b = x[..., 0:pairs:2], x[..., 1:pairs:2]
    both = torch.stack((a * cosine - b * sine, b * cosine + a * sine), -1)
    return torch.cat((both.flatten(-2), x[..., pairs:]), -1)


def buckets(frames: int, device: torch.device | str = "cpu") -> Tensor:
    """Which bias frame j has for frame i, "i j": one for each distance below 8, then wider and wider ones.

    >>> buckets(20)[0].tolist()
    [0, 17, 18, 19, 20, 21, 22, 23, 24, 24, 25, 25, 26, 26, 27, 27, 28, 28, 28, 28]
    >>> buckets(20)[:, 0].tolist()
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 12, 12]
    """
    place = torch.arange(frames, device=device)
    ahead = place[None] - place[:, None]
    half, single = BUCKETS // 2, BUCKETS // 4
    apart = ahead.abs()
    wide = (apart.clamp(min=1) / single).log() / math.log(FARTHEST / single) * (half - single)
    far = (single + wide.long()).clamp(max=half - 1)
    return torch.where(apart < single, apart, far) + half * (ahead > 0)


class Rotary(nn.Module):
    """The frequencies by which heads are turned. They are constants, and stand in the checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.freqs = nn.Parameter(10_000 ** -(torch.arange(0, TURNED, 2) / TURNED), requires_grad=False)


class RelativeBias(nn.Module):
    """A bias for each bucket of distances and each head."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.relative_attention_bias = nn.Embedding(BUCKETS, heads)

    def forward(self, frames: int) -> Tensor:
        """ "h i j"."""
        table = self.relative_attention_bias
        biases: Tensor = table(buckets(frames, table.weight.device))
        return rearrange(biases, "i j h -> h i j")


class TemporalAttention(nn.Module):
    """Attention of a cell over time, x "b f c"."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Identity()])
        self.time_rel_pos_bias = RelativeBias(heads)
        self.rotary_emb = Rotary()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (rearrange(to(x), "b f (h d) -> b h f d", h=self.heads) for to in (self.to_q, self.to_k, self.to_v))
        q, k = turned(q, self.rotary_emb.freqs), turned(k, self.rotary_emb.freqs)
        bias = self.time_rel_pos_bias(x.shape[1]).to(q.dtype)
        seen = scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
        out: Tensor = self.to_out[0](rearrange(seen, "b h f d -> b f (h d)"))
        return out


class Block(nn.Module):
    """What a frame's cells learn of each other, of the words, and of themselves at other times."""

    def __init__(self, width: int, heads: int, words: int) -> None:
        super().__init__()
        head = {"heads": heads, "dim_head": width // heads}
        self.attn1, self.norm1 = Attention(width, **head), nn.LayerNorm(width)
        self.attn2, self.norm2 = Attention(width, cross_attention_dim=words, **head), nn.LayerNorm(width)
        self.attn_temp, self.norm_temp = TemporalAttention(width, heads), nn.LayerNorm(width)
        self.ff, self.norm3 = FeedForward(width, activation_fn="geglu"), nn.LayerNorm(width)

    def forward(self, x: Tensor, words: Tensor, frames: int) -> Tensor:
        """x "(b f) n c", words "(b f) l d"."""
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), words)
        cells = x.shape[1]
        x = rearrange(x, "(b f) n c -> (b n) f c", f=frames)
        x = x + self.attn_temp(self.norm_temp(x))
        x = rearrange(x, "(b n) f c -> (b f) n c", n=cells)
        out: Tensor = x + self.ff(self.norm3(x))
        return out


class Transformer(nn.Module):
    """One block over the cells of a clip "b c f h w", added to it; words "b l d" are the same in every frame."""

    def __init__(self, width: int, heads: int, words: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.proj_in, self.proj_out = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([Block(width, heads, words)])

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        frames, height = x.shape[2:4]
        rows = rearrange(x, "b c f h w -> (b f) c h w")
        hidden = rearrange(self.proj_in(self.norm(rows)), "b c h w -> b (h w) c")
        for block in self.transformer_blocks:
            hidden = block(hidden, words.repeat_interleave(frames, 0), frames)
        added: Tensor = self.proj_out(rearrange(hidden, "b (h w) c -> b c h w", h=height))
        return rearrange(rows + added, "(b f) c h w -> b c f h w", f=frames)
