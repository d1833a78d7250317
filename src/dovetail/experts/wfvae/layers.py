"""Layers of WF-VAE, on clips "b c f h w" that come whole or piece by piece.

Each is shown a clip and a `Past`. Those that look back in time see the frames before the piece in it, and leave there
what they must see of this one; the others make nothing of it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, scaled_dot_product_attention, silu

EPS = 1e-6
"""What norms add to a variance."""


@dataclass
class Past:
    """What layers saw last of the frames before a piece, in the order in which they are asked.

    before: as the piece before has left it; None where the video begins. now: what is left for the next one.
    """

    before: Sequence[Tensor] | None = None
    now: list[Tensor] = field(default_factory=list)

    def behind(self, x: Tensor, kernel: int, stride: int) -> Tensor:
        """x behind the frames that a kernel sees beside its own; where the video begins these are its first."""
        seen = self.before[len(self.now)] if self.before is not None else x[:, :, :1].expand(-1, -1, kernel - 1, -1, -1)
        whole = torch.cat((seen, x), 2)
        self.now.append(whole[:, :, whole.shape[2] - (kernel - stride) :].clone())
        return whole


class Stack(nn.ModuleList):
    """One layer after another."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__(layers)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        for layer in self:
            x = layer(x, past)
        return x


class FrameConv(nn.Conv2d):
    """A convolution over single frames."""

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        rows: Tensor = super().forward(rearrange(x, "b c f h w -> (b f) c h w"))
        return rearrange(rows, "(b f) c h w -> b c f h w", f=x.shape[2])


class CausalConv(nn.Module):
    """A convolution that sees this frame and those before, as many as its kernel has; the same stride in all
    dimensions."""

    def __init__(self, before: int, after: int, kernel: int = 3, stride: int = 1, padding: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv = nn.Conv3d(before, after, kernel, stride=stride, padding=(0, padding, padding))

    def forward(self, x: Tensor, past: Past) -> Tensor:
        out: Tensor = self.conv(x if self.kernel == 1 else past.behind(x, self.kernel, self.stride))
        return out


class Norm(nn.Module):
    """A norm over the channels of each cell."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, EPS)

    def forward(self, x: Tensor) -> Tensor:
        seen: Tensor = self.norm(rearrange(x, "b c ... -> b ... c"))
        return rearrange(seen, "b ... c -> b c ...")


class Resnet(nn.Module):
    """A residual block of two convolutions: over frames before, or within frames."""

    def __init__(self, before: int, after: int, over_time: bool = True) -> None:
        super().__init__()
        self.norm1, self.norm2 = Norm(before), Norm(after)
        self.conv1 = CausalConv(before, after) if over_time else FrameConv(before, after, 3, padding=1)
        self.conv2 = CausalConv(after, after) if over_time else FrameConv(after, after, 3, padding=1)
        self.nin_shortcut = None if before == after else CausalConv(before, after, 1, padding=0)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        hidden = self.conv1(silu(self.norm1(x)), past)
        hidden = self.conv2(silu(self.norm2(hidden)), past)
        out: Tensor = hidden + (x if self.nin_shortcut is None else self.nin_shortcut(x, past))
        return out


class Attention(nn.Module):
    """Attention of a frame's cells to one another, with one head, added to them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = Norm(width)
        self.q, self.k, self.v, self.proj_out = (CausalConv(width, width, 1, padding=0) for _ in range(4))

    def forward(self, x: Tensor, past: Past) -> Tensor:
        given, frames, height = self.norm(x), x.shape[2], x.shape[3]
        q, k, v = (rearrange(to(given, past), "b c f h w -> (b f) 1 (h w) c") for to in (self.q, self.k, self.v))
        seen = scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj_out(rearrange(seen, "(b f) 1 (h w) c -> b c f h w", f=frames, h=height), past)
        return x + out


class Half(nn.Module):
    """Half the height and width, and, over time, half the frames but for the first."""

    def __init__(self, width: int, over_time: bool) -> None:
        super().__init__()
        self.conv = CausalConv(width, width, stride=2, padding=0) if over_time else FrameConv(width, width, 3, stride=2)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        out: Tensor = self.conv(pad(x, (0, 1, 0, 1)), past)
        return out


class Double(nn.Module):
    """Twice the height and width, of frames that are there already. smooth: between cells, not in steps."""

    def __init__(self, width: int, smooth: bool) -> None:
        super().__init__()
        self.smooth = smooth
        self.conv = CausalConv(width, width) if smooth else FrameConv(width, width, 3, padding=1)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        grown = interpolate(x, scale_factor=(1, 2, 2), mode="trilinear" if self.smooth else "nearest")
        out: Tensor = self.conv(grown, past)
        return out


def between(x: Tensor, before: Tensor | None, after: Tensor | None) -> Tensor:
    """Two frames for each of x "b c f h w", which are a quarter of the frame before and of the one after; at an end of
    the video, where there is none, they are the frame itself.

    >>> between(torch.tensor([0.0, 4.0, 8.0]).view(1, 1, 3, 1, 1), None, None).flatten().tolist()
    [0.0, 1.0, 3.0, 5.0, 7.0, 8.0]
    """
    left = torch.cat((x[:, :, :1] if before is None else before, x[:, :, :-1]), 2)
    right = torch.cat((x[:, :, 1:], x[:, :, -1:] if after is None else after), 2)
    return torch.stack((x.lerp(left, 0.25), x.lerp(right, 0.25)), 3).flatten(2, 3)
