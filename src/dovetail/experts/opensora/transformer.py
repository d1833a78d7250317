"""Open-Sora Plan v1.3's network: a stack of blocks over the tokens of a clip "b c f h w"."""

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention import FeedForward
from diffusers.models.embeddings import PixArtAlphaTextProjection
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import AdaLayerNormSingle
from einops import rearrange
from torch import Tensor, nn

from dovetail.experts.opensora import facts
from dovetail.experts.opensora.attention import Groups, TokenAttention, WordAttention
from dovetail.experts.opensora.places import Turns, turns


class Patches(nn.Module):
    """A token for each square of cells of each latent frame: "b c f h w" -> "b (f h w) c", in order of time, height,
    width."""

    def __init__(self, before: int, after: int, side: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(before, after, side, stride=side)

    def forward(self, x: Tensor) -> Tensor:
        rows: Tensor = self.proj(rearrange(x, "b c f h w -> (b f) c h w"))
        return rearrange(rows, "(b f) c h w -> b (f h w) c", b=len(x))


class Block(nn.Module):
    """What tokens learn of each other, of the words, and each of itself. The noise level shifts, scales and gates the
    first and the last, as in PixArt (Chen et al., 2023, arXiv:2310.00426); words come with neither norm nor gate."""

    def __init__(self, width: int, heads: int, eps: float, groups: Groups) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps, elementwise_affine=False)
        self.attn1 = TokenAttention(width, heads, groups)
        self.attn2 = WordAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps, elementwise_affine=False)
        self.ff = FeedForward(width, activation_fn="gelu-approximate")
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)

    def forward(self, x: Tensor, words: Tensor, mask: Tensor | None, time: Tensor, turned: Turns) -> Tensor:
        """x "b n c", words "b l c", mask "b l", time "b (6 c)"."""
        told = self.scale_shift_table + rearrange(time, "b (six c) -> b six c", six=6)
        shift, scale, gate, shift_ff, scale_ff, gate_ff = told.chunk(6, 1)
        x = x + gate * self.attn1(self.norm1(x) * (1 + scale) + shift, turned)
        x = x + self.attn2(x, words, mask)
        out: Tensor = x + gate_ff * self.ff(self.norm2(x) * (1 + scale_ff) + shift_ff)
        return out


class OpenSoraT2V_v1_3(ModelMixin, ConfigMixin):  # type: ignore[misc]  # noqa: N801  (its name in published configs)
    """Open-Sora Plan v1.3's network for texts; parameters are named as in its config.json. Sizes are the published ones.

    >>> with torch.device("meta"):
    ...     network = OpenSoraT2V_v1_3()
    >>> sum(p.numel() for p in network.parameters()), len(network.state_dict())
    (2771981600, 687)
    """

    _skip_layerwise_casting_patterns = ("pos_embed", "norm", "adaln_single")

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        num_attention_heads: int = 24,
        attention_head_dim: int = 96,
        in_channels: int = 8,
        out_channels: int = 8,
        num_layers: int = 32,
        cross_attention_dim: int = 2304,
        attention_bias: bool = True,
        sample_size_h: int | None = None,
        sample_size_w: int | None = None,
        sample_size_t: int | None = None,
        patch_size: int = 2,
        patch_size_t: int = 1,
        activation_fn: str = "gelu-approximate",
        dropout: float = 0.0,
        only_cross_attention: bool = False,
        double_self_attention: bool = False,
        upcast_attention: bool = False,
        norm_elementwise_affine: bool = False,
        norm_eps: float = 1e-6,
        caption_channels: int = 4096,
        interpolation_scale_h: float = 1.0,
        interpolation_scale_w: float = 1.0,
        interpolation_scale_t: float = 1.0,
        sparse1d: bool = True,
        sparse_n: int = 4,
    ) -> None:
        super().__init__()
        config: Any = self.config
        if (wrong := facts.odd(config)) is not None:
            raise ValueError(f"no such {facts.KIND}: {wrong}")
        width = num_attention_heads * attention_head_dim
        self.pos_embed = Patches(in_channels, width, patch_size)
        self.adaln_single = AdaLayerNormSingle(width)
        self.caption_projection = PixArtAlphaTextProjection(caption_channels, width)
        ways = [_groups(config, block) for block in range(num_layers)]
        self.transformer_blocks = nn.ModuleList([Block(width, num_attention_heads, norm_eps, way) for way in ways])
        self.norm_out = nn.LayerNorm(width, 1e-6, elementwise_affine=False)
        self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.proj_out = nn.Linear(width, patch_size**2 * out_channels)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """The velocity of a clip. hidden_states "b c f h w", timestep "b", encoder_hidden_states "b l d": one text per
        clip; encoder_attention_mask "b l": 1 or True where there are words."""
        config: Any = self.config
        side = config.patch_size
        frames, height, width = hidden_states.shape[2], *(cells // side for cells in hidden_states.shape[3:])
        x = self.pos_embed(hidden_states)
        time, at_end = self.adaln_single(timestep, batch_size=len(x), hidden_dtype=x.dtype)
        words = self.caption_projection(encoder_hidden_states)
        mask = None if encoder_attention_mask is None else encoder_attention_mask.bool()
        scales = (config.interpolation_scale_t, config.interpolation_scale_h, config.interpolation_scale_w)
        turned = turns((frames, height, width), config.attention_head_dim, scales, x.dtype, x.device)
        for block in self.transformer_blocks:
            x = block(x, words, mask, time, turned)
        shift, scale = (self.scale_shift_table + at_end[:, None]).chunk(2, 1)
        x = self.proj_out(self.norm_out(x) * (1 + scale) + shift)
        shape = {"f": frames, "h": height, "w": width, "p": side, "q": side}
        out = rearrange(x, "b (f h w) (p q c) -> b c f (h p) (w q)", **shape)
        return Transformer2DModelOutput(sample=out) if return_dict else (out,)


def _groups(config: Any, block: int) -> Groups:
    """Which tokens meet in a block, counted from 0."""
    if not facts.sparse(config, block):
        return Groups()
    return Groups("runs" if block % 2 else "fourths", config["sparse_n"])
