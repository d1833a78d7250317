"""Latents to frames and back: image autoencoders in chunks of frames, video autoencoders the whole video at once or,
with what they keep of the frames before, in pieces of their own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor

from dovetail.core.denoiser import timeline
from dovetail.core.excerpts import Excerpt, Reach, Trail
from dovetail.core.noise import Noise
from dovetail.errors import EncodeError, RecipeError, WeightsError, nearest
from dovetail.experts.checkpoint import Checkpoint, Location, at_hand, find, model
from dovetail.experts.decoders import COGVIDEOX, LTX, WAN, WFVAE, follow, reach_of
from dovetail.experts.halving import LEAST, Shortage, halving, sparing
from dovetail.experts.moving import present
from dovetail.experts.placement import device_of, dtype_of
from dovetail.experts.single_file import SingleFile
from dovetail.experts.space import LatentSpace, space_of
from dovetail.experts.tensors import is_file
from dovetail.experts.tuning import Tuning, tune

CHUNK = 16
"""Frames that an image autoencoder is given at once, unless asked otherwise."""


@dataclass(frozen=True, eq=False)
class Codec:
    """An AutoencoderKL, which knows single frames only. chunk: how many of them it is given at once. tiles: latent
    cells along each side of what is decoded at once; None is all. Both are less once that did not fit in its device's
    memory (`shortages`)."""

    weights: str
    module: Any = field(repr=False)
    space: LatentSpace
    chunk: int
    device: torch.device
    dtype: torch.dtype
    tiles: int | None = None
    stays: ClassVar[bool] = False
    shortages: list[Shortage] = field(default_factory=list, init=False, repr=False)

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return self.space.channels

    @property
    def factor(self) -> int:
        """Pixels per latent cell, along height and along width."""
        return int(2 ** (len(self.module.config.block_out_channels) - 1))

    @property
    def _scaling(self) -> tuple[float, float]:
        """latent = (code - shift) * scale."""
        return float(self.module.config.scaling_factor), float(self.module.config.shift_factor or 0)

    def decode(self, latent: Tensor) -> Tensor:
        """Frames "b f c h w" in [-1, 1], float32, on the device of the latent "b c f h w"."""
        return torch.cat(list(self.stream(latent)), 1)

    def stream(self, latent: Tensor) -> Iterator[Tensor]:
        """What `decode` gives, some frames at a time: pieces "b f c h w" in order."""
        if latent.shape[1] != self.channels:
            raise RecipeError(f"codec '{self.weights}' decodes {self.channels} channels, not {latent.shape[1]}")
        yield from sparing(self, latent, self._chunks)

    @property
    def at_once(self) -> int | None:
        """Latent cells along each side of what is decoded at once, as things stand."""
        return _now(self.shortages, "cells a side", self.tiles)

    def _most(self, videos: int) -> int:
        """Frames of so many videos that are given at once, as things stand."""
        return max(1, (_now(self.shortages, "frames", self.chunk) or 1) // videos)

    def _chunks(self, latent: Tensor) -> Iterator[Tensor]:
        for piece in torch.split(latent, self._most(len(latent)), 2):
            yield self._less(self._decode, piece, 1)

    def _less(self, act: Callable[[Tensor], Tensor], of: Tensor, along: int) -> Tensor:
        """What is made of some frames "b c f h w" (`along` that dimension), of half as many at once where memory does
        not suffice."""

        def made(frames: int) -> Tensor:
            return torch.cat([act(part) for part in torch.split(of, frames, 2)], along)

        who, what, size = f"codec '{self.weights}'", f"one frame of {of.shape[4]}x{of.shape[3]}", self._most(len(of))
        return halving(made, min(of.shape[2], size), who, "frames", self.shortages, what, self.device)

    @torch.no_grad()
    def _decode(self, latent: Tensor) -> Tensor:
        scale, shift = self._scaling
        rows = rearrange(latent / scale + shift, "b c f h w -> (b f) c h w").to(self.device, self.dtype)
        frames: Tensor = self.module.decode(rows, return_dict=False)[0].to(latent.device, torch.float32)
        return rearrange(frames.clamp(-1, 1), "(b f) c h w -> b f c h w", b=len(latent))

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """The latent "b c f h w" (the posterior's mean) of frames "b f c h w" in [-1, 1].

        Height and width must be multiples of `factor`. Raises RecipeError, EncodeError.
        """
        height, width = frames.shape[-2:]
        if height % self.factor or width % self.factor:
            raise RecipeError(
                f"codec '{self.weights}' needs height and width in multiples of {self.factor}, not {height}x{width}"
            )
        rows = rearrange(frames, "b f c h w -> 1 c (b f) h w")
        with present(self.module, self.device):
            codes = [self._less(self._encode, piece, 0) for piece in torch.split(rows, self._most(1), 2)]
        scale, shift = self._scaling
        latent = rearrange((torch.cat(codes) - shift) * scale, "(b f) c h w -> b c f h w", b=len(frames))
        return _numbers(latent, self.weights, self.dtype)

    def _encode(self, frames: Tensor) -> Tensor:
        """Codes "f c h w" of frames "1 c f h w"."""
        rows = rearrange(frames, "1 c f h w -> f c h w").to(self.device, self.dtype)
        codes: Tensor = self.module.encode(rows).latent_dist.mode().to(frames.device, torch.float32)
        return codes


@dataclass(frozen=True, eq=False)
class Conditioning:
    """How a decoder that was trained to end the denoising is used: latents get a last share of noise, and it is told
    so.

    timestep: the share that it is told; noise: the share that is added; both in [0, 1]. The noise is fixed, by the
    place of a latent frame in the video. LTX-Video 0.9.1 and later; the values are its authors'.
    """

    timestep: float = 0.05
    noise: float = 0.025


@dataclass(frozen=True, eq=False)
class VideoCodec:
    """An AutoencoderKLWan, AutoencoderKLLTXVideo, AutoencoderKLCogVideoX or WFVAEModel: the first latent frame is one
    frame, each other is `compression`.

    mean, deviation: latent = (code - mean) / deviation, "c". conditioning: for decoders that take a timestep. tiles:
    as `Codec`'s.
    """

    weights: str
    module: Any = field(repr=False)
    space: LatentSpace
    mean: Tensor = field(repr=False)
    deviation: Tensor = field(repr=False)
    device: torch.device
    dtype: torch.dtype
    conditioning: Conditioning | None = None
    tiles: int | None = None
    stays: ClassVar[bool] = False
    shortages: list[Shortage] = field(default_factory=list, init=False, repr=False)

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return self.space.channels

    @property
    def factor(self) -> int:
        """Pixels per latent cell, along height and along width."""
        assert self.space.factor is not None
        return self.space.factor

    @property
    def compression(self) -> int:
        """Frames per latent frame, but for the first."""
        assert self.space.compression is not None
        return self.space.compression

    def decode(self, latent: Tensor) -> Tensor:
        """Frames "b f c h w" in [-1, 1], float32, on the device of the latent "b c f h w": of n latent frames
        (n - 1) * compression + 1."""
        return torch.cat(list(self.stream(latent)), 1)

    def stream(self, latent: Tensor) -> Iterator[Tensor]:
        """What `decode` gives, piece by piece "b f c h w": CogVideoX's and WF-VAE's in the pieces that their decoders
        take, the others' in one."""
        yield from sparing(self, self._code(latent), self._pieces)

    @property
    def reach(self) -> Reach:
        """How far its decoder looks in time."""
        return reach_of(self.module)

    def part(self, latent: Tensor, asked: Excerpt, trail: Trail) -> Iterator[Tensor]:
        """Some frames of a video, as the whole video decodes to: pieces "b f c h w" in order. The latent reaches as far
        to both sides of them as `reach` tells, or to the ends of the video."""
        yield from sparing(self, self._code(latent, asked.first), lambda code: self._parts(code, asked, trail))

    def _code(self, latent: Tensor, first: int = 0) -> Tensor:
        """What the decoder is shown of a latent before which there are `first` latent frames."""
        if latent.shape[1] != self.channels:
            raise RecipeError(f"codec '{self.weights}' decodes {self.channels} channels, not {latent.shape[1]}")
        code = self._moved(latent, self.deviation, self.mean)
        if self.conditioning is None:
            return code
        # Before it is cut into tiles, which would have noise of their own.
        noise = Noise(0, "decode").like(code, timeline(latent.shape[2], first).expand(len(latent), -1))
        return code.lerp(noise, self.conditioning.noise)

    @property
    def at_once(self) -> int | None:
        """Latent cells along each side of what is decoded at once, as things stand."""
        return _now(self.shortages, "cells a side", self.tiles)

    def _pieces(self, code: Tensor) -> Iterator[Tensor]:
        given = code.to(self.device, self.dtype)
        for frames in pieces_of(self.module, given, *self._told(len(code))):
            yield self._shown(frames, code.device)

    def _parts(self, code: Tensor, asked: Excerpt, trail: Trail) -> Iterator[Tensor]:
        given = code.to(self.device, self.dtype)
        pieces: Iterator[Tensor]
        if self.space.vae == LTX:
            wanted = asked.frames(self.compression)
            pieces = (frames[:, :, wanted] for frames in _whole(self.module, given, *self._told(len(code))))
        else:
            # A tile is a view of the code, and begins elsewhere in it than others of its size.
            tile = (self.dtype, tuple(code.shape[3:]), code.storage_offset())
            pieces = follow(self.module, given, asked, trail, tile, self.compression)
        for frames in pieces:
            yield self._shown(frames, code.device)

    def _told(self, videos: int) -> list[Tensor]:
        """What a decoder is told beside the code."""
        if self.conditioning is None:
            return []
        return [torch.full((videos,), self.conditioning.timestep, device=self.device, dtype=self.dtype)]

    @staticmethod
    def _shown(frames: Tensor, device: torch.device) -> Tensor:
        return rearrange(frames.to(device, torch.float32).clamp(-1, 1), "b c f h w -> b f c h w")

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """The latent "b c f h w" (the posterior's mean) of frames "b f c h w" in [-1, 1].

        Height and width must be multiples of `factor`, frames one more than a multiple of `compression`. Raises
        RecipeError, EncodeError.
        """
        length, _, height, width = frames.shape[1:]
        if height % self.factor or width % self.factor:
            raise RecipeError(
                f"codec '{self.weights}' needs height and width in multiples of {self.factor}, not {height}x{width}"
            )
        if (length - 1) % self.compression:
            raise RecipeError(f"codec '{self.weights}' encodes {self.compression}k + 1 frames, not {length}")
        who, what = f"codec '{self.weights}'", f"{length} frames of {width}x{height} to encode"
        with present(self.module, self.device):
            code = halving(lambda _: self._encode(frames), 1, who, "videos", self.shortages, what, self.device)
        return _numbers(self._moved(code, 1 / self.deviation, -self.mean / self.deviation), self.weights, self.dtype)

    def _encode(self, frames: Tensor) -> Tensor:
        rows = rearrange(frames, "b f c h w -> b c f h w").to(self.device, self.dtype)
        code: Tensor = self.module.encode(rows).latent_dist.mode().to(frames.device, torch.float32)
        return code

    @staticmethod
    def _moved(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """x * scale + shift, channel by channel."""
        return x.float() * scale.to(x.device)[:, None, None, None] + shift.to(x.device)[:, None, None, None]


def _numbers(latent: Tensor, weights: str, dtype: torch.dtype) -> Tensor:
    """A latent, if it is one; an expert would be blamed for it later. Raises EncodeError."""
    if not bool(latent.isfinite().all()):
        raise EncodeError(weights, str(dtype).removeprefix("torch."))
    return latent


def _now(shortages: Sequence[Shortage], unit: str, asked: int | None) -> int | None:
    """How much of a unit is done at once, as things stand."""
    return next((one.now for one in reversed(shortages) if one.unit == unit), asked)


@torch.no_grad()
def _whole(module: Any, code: Tensor, *extra: Tensor) -> Iterator[Tensor]:
    """Frames "b c f h w" of codes "b c f h w", in one piece."""
    with torch.random.fork_rng([code.device] if code.device.type == "cuda" else []):
        # LTX-Video 0.9.1's decoder draws noise of its own, from torch's stream.
        _seed(code.device)
        frames = module.decode(code, *extra, return_dict=False)[0]
    yield frames


def _seed(device: torch.device) -> None:
    """Begin one device's stream anew, and no other's."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(0)
    else:
        torch.default_generator.manual_seed(0)


def pieces_of(module: Any, code: Tensor, *extra: Tensor) -> Iterator[Tensor]:
    """Frames "b c f h w" of codes "b c f h w", in the pieces that a video autoencoder's decoder takes: CogVideoX's and
    WF-VAE's go on from one to the next, others make one. extra: what it is told beside the code."""
    kind, whole = type(module).__name__, Excerpt(0, 0, code.shape[2], ends=True)
    if kind not in (COGVIDEOX, WFVAE):
        return _whole(module, code, *extra)
    compression = space_of({**module.config, "_class_name": kind}).compression
    assert compression is not None
    return follow(module, code, whole, Trail(), None, compression)


def load_codec(
    weights: str,
    *,
    subfolder: str | None = None,
    base: str | None = None,
    revision: str | None = None,
    variant: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    chunk: int | None = None,
    decode_timestep: float | None = None,
    decode_noise_scale: float | None = None,
    tiles: int | None = None,
    tuning: Tuning | None = None,
    waiting: bool = False,
) -> Codec | VideoCodec:
    """The codec of a checkpoint: the autoencoder (one of `KINDS`) in its `subfolder`.

    weights: a folder, a hub id, "sprites/NAME", or one file of an autoencoder or of a whole model (see `single_file`;
    `base` as for `load`). subfolder: "" is the checkpoint itself; None is the checkpoint itself if it is a single
    network, else its vae/. chunk: frames per call, at least 1, of an image autoencoder. decode_timestep,
    decode_noise_scale: see `Conditioning`. tiles: latent cells along each side of what is decoded at once, at least 4;
    all without it. tuning: how the network is kept and called. waiting: its weights stay in the computer's memory but
    for when they are needed. Raises RecipeError for an option that the autoencoder does not have, WeightsError for
    weights that are missing or unsafe to open.
    """
    if chunk is not None and chunk < 1:
        raise RecipeError(f"chunk is a number of frames, at least 1, not {chunk}")
    if tiles is not None and tiles < LEAST:
        raise RecipeError(f"tiles are latent cells along a side, at least {LEAST}, not {tiles}")
    checkpoint, subfolder = located(Location(weights, subfolder, base, revision, variant))
    config = checkpoint.config(subfolder)
    kind = str(config.get("_class_name"))
    if kind not in KINDS:
        raise RecipeError(f"'{weights}' has a {kind} in {subfolder}/; {nearest(kind, KINDS)}")
    conditioning = _conditioning(weights, config, decode_timestep, decode_noise_scale)
    if kind != "AutoencoderKL" and chunk is not None:
        raise RecipeError(f"'{weights}' has a {kind}, which decodes a whole video at once, so it takes no chunk")
    module, place = _module(kind, checkpoint, subfolder, dtype), (device_of(device), dtype_of(dtype))
    tune(f"codec '{weights}'", module, Tuning() if tuning is None else tuning, place[1], place[0])
    module = module if waiting else module.to(place[0])
    with checkpoint.making(subfolder, "autoencoder"):
        space_of(config)
    space = space_of(config, lambda *starts: checkpoint.tensors(subfolder, starts))
    with checkpoint.making(subfolder, "autoencoder"):
        return codec_of(module, space, *place, weights=weights, conditioning=conditioning, chunk=chunk, tiles=tiles)


def codec_of(
    module: Any,
    space: LatentSpace,
    device: torch.device,
    dtype: torch.dtype,
    *,
    weights: str = "(in memory)",
    conditioning: Conditioning | None = None,
    chunk: int | None = None,
    tiles: int | None = None,
) -> Codec | VideoCodec:
    """The codec of an autoencoder (one of `KINDS`), wherever it is now. weights: what messages call it; device, dtype:
    what it is shown is moved there; the rest as for `load_codec`. Raises ValueError for statistics of other channels."""
    if type(module).__name__ == "AutoencoderKL":
        return Codec(weights, module, space, CHUNK if chunk is None else chunk, device, dtype, tiles)
    mean, deviation = _statistics(module)
    if {mean.shape, deviation.shape} != {(space.channels,)}:
        found = f"{mean.numel()} means and {deviation.numel()} deviations"
        raise ValueError(f"{found}, where its latents have {space.channels} channels")
    return VideoCodec(weights, module, space, mean, deviation, device, dtype, conditioning, tiles)


KINDS = ("AutoencoderKL", WAN, LTX, COGVIDEOX, WFVAE)
"""The autoencoders that a codec can be made of."""


def space_at(at: Location) -> LatentSpace:
    """The latents of a checkpoint's codec, as far as its config tells, from this machine or the hub's cache. Raises
    WeightsError where it is in neither."""
    if (found := seen(at)) is None:
        raise WeightsError(f"'{at.weights}' is not on this machine")
    checkpoint, subfolder = found
    config = checkpoint.config(subfolder)
    with checkpoint.making(subfolder, "autoencoder"):
        return space_of(config)


def located(at: Location) -> tuple[Checkpoint | SingleFile, str]:
    """The checkpoint, and the folder of its autoencoder in it."""
    checkpoint = find(at, _parts(at))
    return checkpoint, folder_in(checkpoint, at)


def seen(at: Location) -> tuple[Checkpoint | SingleFile, str] | None:
    """The same of what is on this machine or in the hub's cache; None where nothing is."""
    checkpoint = at_hand(at, _parts(at))
    return None if checkpoint is None else (checkpoint, folder_in(checkpoint, at))


def _parts(at: Location) -> list[str]:
    return folders(None if is_file(at.weights) else at.subfolder)


def folders(subfolder: str | None) -> list[str]:
    """Where an autoencoder may lie in a checkpoint: in the folder that is asked for, or else in vae/ or at the top."""
    return ["vae", ""] if subfolder is None else [subfolder]


def folder_in(checkpoint: Checkpoint | SingleFile, at: Location) -> str:
    """Where the autoencoder lies in a checkpoint that was found."""
    if isinstance(checkpoint, SingleFile) or is_file(at.weights):
        return "vae"
    if at.subfolder is None:
        return "" if (checkpoint.path / "config.json").is_file() else "vae"
    return at.subfolder


def _module(kind: str, checkpoint: Checkpoint | SingleFile, subfolder: str, dtype: str) -> Any:
    if kind == WFVAE:
        return _wfvae(checkpoint, subfolder, dtype_of(dtype))
    return model(codec_class(kind), checkpoint, subfolder, dtype_of(dtype))


def _wfvae(checkpoint: Checkpoint | SingleFile, subfolder: str, dtype: torch.dtype) -> Any:
    """WF-VAE out of its own files, or out of one file in the sizes of its base."""
    from dovetail.experts.wfvae.weights import autoencoder, sizes

    config = sizes(checkpoint.config(subfolder), f"{subfolder or 'the folder'} of '{checkpoint.weights}'")
    if isinstance(checkpoint, SingleFile) and not checkpoint.holds(subfolder):
        assert isinstance(checkpoint.base, Checkpoint)
        checkpoint = checkpoint.base
    file = checkpoint.file if isinstance(checkpoint, SingleFile) else checkpoint.file(subfolder)
    return autoencoder(config, file, dtype)


def codec_class(kind: str) -> Any:
    """The class of an autoencoder by its name, one of `KINDS`: one of diffusers, or one that diffusers has not."""
    if kind == WFVAE:
        from dovetail.experts.wfvae.autoencoder import WFVAEModel

        return WFVAEModel
    import diffusers

    return getattr(diffusers, kind)


def _conditioning(
    weights: str, config: Mapping[str, Any], timestep: float | None, noise: float | None
) -> Conditioning | None:
    if config.get("timestep_conditioning"):
        given = {"timestep": timestep, "noise": noise}
        return Conditioning(**{name: value for name, value in given.items() if value is not None})
    if timestep is None and noise is None:
        return None
    raise RecipeError(
        f"the decoder of '{weights}' takes no timestep, so decode_timestep and decode_noise_scale say nothing to it"
    )


def _statistics(module: Any) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel of a video autoencoder's codes, float32."""
    if type(module).__name__ == LTX:
        return module.latents_mean.float(), module.latents_std.float() / module.config.scaling_factor
    if type(module).__name__ == COGVIDEOX:
        channels = module.config.latent_channels
        return torch.zeros(channels), torch.full((channels,), 1 / module.config.scaling_factor)
    if type(module).__name__ == WFVAE:
        return torch.tensor(module.config.shift, dtype=torch.float32), 1 / torch.tensor(module.config.scale)
    return torch.tensor(module.config.latents_mean), torch.tensor(module.config.latents_std)
