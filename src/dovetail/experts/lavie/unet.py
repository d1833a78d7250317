"""LaVie's U-Net: the stages of Stable Diffusion's, on clips "b c f h w"."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_3d_condition import UNet3DConditionOutput
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu

from dovetail.experts.lavie.attention import Transformer


@dataclass(frozen=True)
class Sizes:
    """What all stages have in common. time, words: widths of what is told of the noise and of the text."""

    time: int
    words: int
    heads: int
    groups: int
    eps: float


def framewise(module: nn.Module, x: Tensor) -> Tensor:
    """A layer that knows single frames, on each frame of a clip."""
    rows: Tensor = module(rearrange(x, "b c f h w -> (b f) c h w"))
    return rearrange(rows, "(b f) c h w -> b c f h w", f=x.shape[2])


class Resnet(nn.Module):
    """A residual block. Its norms are over the whole clip, its convolutions over each frame."""

    def __init__(self, before: int, after: int, sizes: Sizes) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(sizes.groups, before, sizes.eps)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.time_emb_proj = nn.Linear(sizes.time, after)
        self.norm2 = nn.GroupNorm(sizes.groups, after, sizes.eps)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.conv_shortcut = None if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        hidden = framewise(self.conv1, silu(self.norm1(x)))
        hidden = hidden + self.time_emb_proj(silu(time))[:, :, None, None, None]
        hidden = framewise(self.conv2, silu(self.norm2(hidden)))
        return hidden + (x if self.conv_shortcut is None else framewise(self.conv_shortcut, x))


class Resize(nn.Module):
    """A convolution that halves height and width, or follows their growth."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return framewise(self.conv, x)


class Stage(nn.Module):
    """Residual blocks, each with a transformer behind it if the stage attends.

    widths: channels before and after each block.
    """

    def __init__(self, widths: Sequence[tuple[int, int]], sizes: Sizes, attends: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([Resnet(before, after, sizes) for before, after in widths])
        looks = [Transformer(after, sizes.heads, sizes.words, sizes.groups) for _, after in widths if attends]
        self.attentions = nn.ModuleList(looks)

    def layer(self, number: int, x: Tensor, time: Tensor, words: Tensor) -> Tensor:
        x = self.resnets[number](x, time)
        return self.attentions[number](x, words) if len(self.attentions) else x


class Down(Stage):
    """A stage on the way down; what each layer answers is kept for the way up."""

    def __init__(self, widths: Sequence[tuple[int, int]], sizes: Sizes, attends: bool, last: bool) -> None:
        super().__init__(widths, sizes, attends)
        self.downsamplers = nn.ModuleList([] if last else [Resize(widths[-1][1], 2)])

    def forward(self, x: Tensor, time: Tensor, words: Tensor) -> list[Tensor]:
        kept = []
        for number in range(len(self.resnets)):
            x = self.layer(number, x, time, words)
            kept.append(x)
        for halve in self.downsamplers:
            kept.append(halve(kept[-1]))
        return kept


class Middle(Stage):
    """Two residual blocks with one transformer between them."""

    def __init__(self, width: int, sizes: Sizes) -> None:
        super().__init__([(width, width)], sizes, attends=True)
        self.resnets.append(Resnet(width, width, sizes))

    def forward(self, x: Tensor, time: Tensor, words: Tensor) -> Tensor:
        out: Tensor = self.resnets[1](self.layer(0, x, time, words), time)
        return out


class Up(Stage):
    """A stage on the way up; each layer takes the last of what was kept beside what it is given. size: height and width
    of what comes next."""

    def __init__(self, widths: Sequence[tuple[int, int]], sizes: Sizes, attends: bool, last: bool) -> None:
        super().__init__(widths, sizes, attends)
        self.upsamplers = nn.ModuleList([] if last else [Resize(widths[-1][1], 1)])

    def forward(self, x: Tensor, kept: list[Tensor], time: Tensor, words: Tensor, size: tuple[int, ...]) -> Tensor:
        for number, beside in enumerate(reversed(kept)):
            x = self.layer(number, torch.cat((x, beside), 1), time, words)
        for grow in self.upsamplers:
            # Of odd heights and widths that is not the double.
            x = grow(interpolate(x, size=size))
        return x


class LaVieUNet(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """LaVie's base network; parameters are named as in Stable Diffusion's unet/config.json, `attention_head_dim` being
    the number of heads there as well. Every stage attends but the deepest.

    >>> with torch.device("meta"):
    ...     network = LaVieUNet()
    >>> sum(p.numel() for p in network.parameters())
    909124356
    """

    # A list: diffusers takes a tuple for one name.
    _keep_in_fp32_modules: ClassVar[list[str]] = ["rotary_emb"]
    _skip_layerwise_casting_patterns = ("norm", "rotary_emb")

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 4,
        block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280),
        layers_per_block: int = 2,
        cross_attention_dim: int = 768,
        attention_head_dim: int = 8,
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        first, layers = block_out_channels[0], layers_per_block
        sizes = Sizes(4 * first, cross_attention_dim, attention_head_dim, norm_num_groups, norm_eps)
        self.conv_in = nn.Conv2d(in_channels, first, 3, padding=1)
        self.time_proj = Timesteps(first, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(first, sizes.time)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        deepest, before, kept = len(block_out_channels) - 1, first, [first]
        for depth, after in enumerate(block_out_channels):
            widths = [(before, after), *[(after, after)] * (layers - 1)]
            self.down_blocks.append(Down(widths, sizes, attends=depth < deepest, last=depth == deepest))
            before, kept = after, kept + [after] * (layers + (depth < deepest))
        self.mid_block = Middle(before, sizes)
        for depth, after in reversed([*enumerate(block_out_channels)]):
            widths = []
            for _ in range(layers + 1):
                widths.append((before + kept.pop(), after))
                before = after
            self.up_blocks.append(Up(widths, sizes, attends=depth < deepest, last=depth == 0))
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, first, norm_eps)
        self.conv_out = nn.Conv2d(first, out_channels, 3, padding=1)

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, return_dict: bool = True
    ) -> UNet3DConditionOutput | tuple[Tensor]:
        """The noise in a clip. sample "b c f h w", timestep "b", encoder_hidden_states "b l d": one text per clip."""
        words = encoder_hidden_states
        time = self.time_embedding(self.time_proj(timestep).to(sample.dtype))
        x = framewise(self.conv_in, sample)
        kept = [x]
        for down in self.down_blocks:
            kept += down(kept[-1], time, words)
        x = self.mid_block(kept[-1], time, words)
        layers = self.config["layers_per_block"] + 1
        for up in self.up_blocks:
            # A stage takes nothing out of the list itself: where its weights come by a hook, it is shown a copy.
            kept, beside = kept[:-layers], kept[-layers:]
            x = up(x, beside, time, words, tuple(kept[-1].shape[2:]) if kept else ())
        x = framewise(self.conv_out, silu(self.conv_norm_out(x)))
        return UNet3DConditionOutput(sample=x) if return_dict else (x,)
