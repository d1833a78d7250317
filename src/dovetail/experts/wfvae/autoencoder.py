"""WF-VAE: encoder, decoder, and both as a model of diffusers'.

What is over time looks back only, but for one step of the decoder: where frames are doubled, a latent frame becomes two,
and the second of them is a quarter of the next latent frame. So in pieces a decoder is a latent frame behind what it has
been shown, and what it makes is what it makes of the whole.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn.functional import silu

from dovetail.core.excerpts import Reach
from dovetail.experts.wfvae.facts import COMPRESSION, SCALE
from dovetail.experts.wfvae.layers import (
    Attention,
    CausalConv,
    Double,
    FrameConv,
    Half,
    Norm,
    Past,
    Resnet,
    Stack,
    between,
)
from dovetail.experts.wfvae.wavelets import PLANE, VOLUME, bands, joined

COLOURS, FLAT, DEEP = 3, 12, 24
"""Channels of a video, of the bands of its frames, and of the bands of itself."""


class Encoder(nn.Module):
    """Frames "b 3 f h w" to means and deviations "b c f h w". base: the narrowest width; flow: channels in which each
    band of the low band comes beside the network; depth: residual blocks on each level."""

    def __init__(self, channels: int, base: int, flow: int, depth: int) -> None:
        super().__init__()
        flat = [Resnet(base, base, over_time=False) for _ in range(depth)]
        deep = [Resnet(2 * base, 2 * base) for _ in range(depth)]
        self.down1 = Stack([FrameConv(DEEP, base, 3, padding=1), *flat, Half(base, over_time=False)])
        self.down2 = Stack([FrameConv(base + flow, 2 * base, 3, padding=1), *deep, Half(2 * base, over_time=True)])
        self.connect_l1, self.connect_l2 = (FrameConv(width, flow, 3, padding=1) for width in (FLAT, DEEP))
        wide = 4 * base
        self.mid = Stack([Resnet(2 * base + flow, wide), Attention(wide), Resnet(wide, wide)])
        self.norm_out, self.conv_out = Norm(wide), CausalConv(wide, 2 * channels)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        """A piece of a video: one frame or four more than one where it begins, four or more times four behind that."""
        bottom = bands(past.behind(x, 2, 2), VOLUME)
        low = bands(bottom[:, :COLOURS], PLANE)
        lower = bands(past.behind(low[:, :COLOURS], 2, 2), VOLUME)
        x = torch.cat((self.down1(bottom, past), self.connect_l1(low)), 1)
        x = torch.cat((self.down2(x, past), self.connect_l2(lower)), 1)
        out: Tensor = self.conv_out(silu(self.norm_out(self.mid(x, past))), past)
        return out


class Decoder(nn.Module):
    """Codes "b c f h w" to frames "b 3 f h w". flow: channels that leave the network for the low bands."""

    def __init__(self, channels: int, base: int, flow: int, depth: int, connect: int) -> None:
        super().__init__()
        self.flow = flow
        wide, middle = 4 * base, 2 * base
        self.conv_in = CausalConv(channels, wide)
        self.mid = Stack([Resnet(wide, wide), Attention(wide), Resnet(wide, wide + flow)])
        slow = [Resnet(wide, wide) for _ in range(depth)]
        self.up2 = Stack([*slow, Double(wide, smooth=True), Resnet(wide, wide + flow)])
        fast = [Resnet(wide if number == 0 else middle, middle) for number in range(depth)]
        self.up1 = Stack([*fast, Double(middle, smooth=False), Resnet(middle, middle)])
        self.layer = Stack([Resnet(middle, base), Resnet(base, base)])
        self.connect_l1, self.connect_l2 = (
            Stack([*(Resnet(flow, flow) for _ in range(connect)), FrameConv(flow, width, 3, padding=1)])
            for width in (FLAT, DEEP)
        )
        self.norm_out, self.conv_out = Norm(base), FrameConv(base, DEEP, 3, padding=1)

    def forward(
        self, code: Tensor, kept: Mapping[str, Any] | None = None, ends: bool = True
    ) -> tuple[Tensor, dict[str, Any]]:
        """The frames of codes that come after those that were shown before, and what is kept for the next ones.

        kept: of those before; None where the video begins. ends: whether it ends with these codes; if not, the frames of
        the last code are left for the next call, which may then end the video with no codes at all.
        """
        was = {} if kept is None else kept
        slow, fast = Past(was.get("slow")), Past(was.get("fast"))
        hidden, low = self._slow(code, slow) if code.shape[2] else (None, None)
        hidden, low = (_behind(was.get(name), new) for name, new in (("hidden", hidden), ("low", low)))
        stop = hidden.shape[2] - (0 if ends else 1)
        doubled = self._doubled(hidden, stop, kept is None, was.get("before"))
        frames = self._fast(doubled, _pairs(low[:, :, :stop], kept is None), fast)
        left = {"hidden": hidden[:, :, stop:].clone(), "low": low[:, :, stop:].clone()}
        # The first latent frame is one frame, and no other is mixed with it.
        before = None if kept is None and stop == 1 else hidden[:, :, stop - 1 : stop].clone()
        return frames, {"slow": slow.now, "fast": fast.now, "before": before, **left}

    def _slow(self, code: Tensor, past: Past) -> tuple[Tensor, Tensor]:
        """What is done latent frame by latent frame: what is doubled then, and the lowest bands."""
        x = self.mid(self.conv_in(code, past), past)
        low: Tensor = self.connect_l2(x[:, -self.flow :], past)
        x = x[:, : -self.flow]
        for layer in self.up2[:-2]:
            x = layer(x, past)
        return x, low

    @staticmethod
    def _doubled(x: Tensor, stop: int, begins: bool, before: Tensor | None) -> Tensor:
        """Two frames for each of x up to `stop`; one for the first of the video."""
        after = x[:, :, stop : stop + 1] if stop < x.shape[2] else None
        if not begins:
            return between(x[:, :, :stop], before, after)
        return torch.cat((x[:, :, :1], between(x[:, :, 1:stop], None, after)), 2) if stop > 1 else x[:, :, :1]

    def _fast(self, x: Tensor, low: Tensor, past: Past) -> Tensor:
        """What is done with two frames for each latent frame, and four in the end. low: what the lowest bands make."""
        begins = past.before is None
        for layer in self.up2[-2:]:
            x = layer(x, past)
        flat = joined(_added(self.connect_l1(x[:, -self.flow :], past), low), PLANE)
        x = self.layer(self.up1(x[:, : -self.flow], past), past)
        return _pairs(_added(self.conv_out(silu(self.norm_out(x))), flat), begins)

    @property
    def reach(self) -> Reach:
        """How many latent frames before and after one its frames are made of."""
        slow = _looks(self.conv_in, self.mid, *self.up2[:-2])
        fast = _looks(*self.up2[-2:], self.up1, self.layer)
        # Of latent frame j two are made, 2 j - 1 and 2 j; any, m, is made of the latent frames from floor(m / 2) on.
        return Reach(slow + (fast + 2) // 2, 1)


def _looks(*parts: nn.Module) -> int:
    """How many frames before one convolutions look at, one after another."""
    return sum(it.kernel - it.stride for part in parts for it in part.modules() if isinstance(it, CausalConv))


def _behind(held: Tensor | None, new: Tensor | None) -> Tensor:
    found = [part for part in (held, new) if part is not None]
    return torch.cat(found, 2)


def _pairs(x: Tensor, begins: bool) -> Tensor:
    """What has these bands over time; where a video begins, its first frame is there once."""
    return joined(x, VOLUME)[:, :, 1 if begins else 0 :]


def _added(x: Tensor, low: Tensor) -> Tensor:
    """Bands x with something on the lowest."""
    return torch.cat((x[:, :COLOURS] + low, x[:, COLOURS:]), 1)


class WFVAEModel(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """WF-VAE; parameters are named as in the authors' config. latent = (code - shift) * scale, channel by channel. The
    wavelets' filters, which files may hold, are constants of the code.

    >>> with torch.device("meta"):
    ...     module = WFVAEModel()
    >>> sum(p.numel() for p in module.parameters()), module.decoder.reach
    (147347660, Reach(back=32, ahead=1, pairs=False))
    """

    _skip_layerwise_casting_patterns: ClassVar[tuple[str, ...]] = ("norm",)

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        latent_dim: int = 8,
        base_channels: int = 128,
        encoder_num_resblocks: int = 2,
        encoder_energy_flow_hidden_size: int = 64,
        decoder_num_resblocks: int = 2,
        decoder_energy_flow_hidden_size: int = 128,
        connect_res_layer_num: int = 2,
        scale: tuple[float, ...] | None = None,
        shift: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        self.register_to_config(scale=list(scale or (SCALE,) * latent_dim), shift=list(shift or (0.0,) * latent_dim))
        self.encoder = Encoder(latent_dim, base_channels, encoder_energy_flow_hidden_size, encoder_num_resblocks)
        self.decoder = Decoder(
            latent_dim, base_channels, decoder_energy_flow_hidden_size, decoder_num_resblocks, connect_res_layer_num
        )

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """The codes "b c f h w" of frames "b 3 f h w" in [-1, 1], as a distribution. Of 4k + 1 frames, the first alone
        and then four at a time, so that what it works in does not grow with the video."""
        past, pieces = Past(), []
        for piece in (x[:, :, :1], *(torch.split(x[:, :, 1:], COMPRESSION, 2) if x.shape[2] > 1 else ())):
            pieces.append(self.encoder(piece, past))
            past = Past(past.now)
        found = DiagonalGaussianDistribution(torch.cat(pieces, 2))
        return AutoencoderKLOutput(latent_dist=found) if return_dict else (found,)

    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """The frames "b 3 f h w" of codes "b c f h w": of k + 1 codes, 4k + 1."""
        frames = torch.cat(list(self.pieces(z)), 2)
        return DecoderOutput(sample=frames) if return_dict else (frames,)

    def pieces(self, z: Tensor) -> Iterator[Tensor]:
        """What `decode` makes, code by code: one frame, then four at a time."""
        kept = None
        for number in range(z.shape[2]):
            frames, kept = self.after(z[:, :, number : number + 2], kept)
            yield frames

    def after(self, code: Tensor, kept: Mapping[str, Any] | None) -> tuple[Tensor, dict[str, Any]]:
        """The frames of the first of one or two codes, and what is kept for those of the second, with which it is called
        next; one alone ends the video."""
        found: tuple[Tensor, dict[str, Any]] = self.decoder(
            code if kept is None else code[:, :, 1:], kept, ends=code.shape[2] == 1
        )
        return found
