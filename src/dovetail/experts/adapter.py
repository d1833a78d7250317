"""The one way in which a pretrained network is called: rows in, rows out.

What differs between families is a `Convention` (how the network wants its tensors) and a `Text`
(how it wants its words). All else is the same for every network and stands here: looking up each
row's text, cutting the batch into pieces, precision, placement, and the check of the answer.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from einops import rearrange
from torch import Tensor, nn

from dovetail.core.denoiser import Asked, Parts, parts_of
from dovetail.errors import NetworkError, RecipeError
from dovetail.experts.halving import Shortage, halving
from dovetail.experts.moving import present
from dovetail.experts.passages import relayed
from dovetail.experts.space import LatentSpace

Embedding = tuple[Tensor, ...]
"""What a network is told about a text, each part with the rows of the batch in front."""


class Text(Protocol):
    """Texts to embeddings."""

    @property
    def limit(self) -> int:
        """The most tokens it reads, marks at the ends included."""
        ...

    def __call__(self, text: str) -> Embedding:
        """The embedding of one text, each part "1 ..."."""
        ...


Convention = Callable[[nn.Module, Tensor, Tensor, Embedding], Tensor]
"""(network, native latent "b c f h w", native time "b", embedding) -> raw prediction "b c f h w"."""


def per_frame(module: nn.Module, x: Tensor, time: Tensor, text: Embedding) -> Tensor:
    """An image network, which has no time axis; rows hold one frame each."""
    return _first(module(x.squeeze(2), time, text[0], return_dict=False)).unsqueeze(2)


def motion(module: nn.Module, x: Tensor, time: Tensor, text: Embedding) -> Tensor:
    """UNetMotionModel: video in, but the text repeated for every frame."""
    words = text[0].repeat_interleave(x.shape[2], 0)
    return _first(module(x, time, words, return_dict=False))


def volume(module: nn.Module, x: Tensor, time: Tensor, text: Embedding) -> Tensor:
    """UNet3DConditionModel, LaVieUNet and WanTransformer3DModel: video in, one text per video."""
    return _first(module(x, time, text[0], return_dict=False))


def masked(module: nn.Module, x: Tensor, time: Tensor, text: Embedding) -> Tensor:
    """OpenSoraT2V_v1_3: video in, one text per video and its mask."""
    hidden, mask = text
    return _first(module(x, time, hidden, mask, return_dict=False))


STAY = 64
"""Texts whose embeddings stay in memory when others are read; T5's take some megabytes each."""


@dataclass(frozen=True)
class Packed:
    """LTXVideoTransformer3DModel: a token per latent cell, the text with its mask, and where tokens lie in seconds and
    pixels. fps: frames per second; compression, factor: the latent space's."""

    fps: float = 25.0
    compression: int = 8
    factor: int = 32

    def __call__(self, module: nn.Module, x: Tensor, time: Tensor, text: Embedding) -> Tensor:
        frames, height, width = x.shape[2:]
        hidden, mask = text
        out = module(
            hidden_states=rearrange(x, "b c f h w -> b (f h w) c"),
            encoder_hidden_states=hidden,
            timestep=time,
            encoder_attention_mask=mask,
            num_frames=frames,
            height=height,
            width=width,
            rope_interpolation_scale=(self.compression / self.fps, self.factor, self.factor),
            return_dict=False,
        )
        return rearrange(_first(out), "b (f h w) c -> b c f h w", f=frames, h=height, w=width)


def frames_first(module: nn.Module, x: Tensor, time: Tensor, text: Embedding) -> Tensor:
    """CogVideoXTransformer3DModel: frames before channels. Where positions are rotary (5B) it is told them, where they
    are sums of sines (2B) it adds them itself; either way a window counts its frames from 0."""
    config: Any = module.config
    out = module(
        hidden_states=rearrange(x, "b c f h w -> b f c h w"),
        encoder_hidden_states=text[0],
        timestep=time,
        image_rotary_emb=_rotary(config, x) if config["use_rotary_positional_embeddings"] else None,
        return_dict=False,
    )
    return rearrange(_first(out), "b f c h w -> b c f h w")


def _rotary(config: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the tokens' places: frames from 0, height and width from the middle of what the network was
    trained on, to which they are scaled."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    patch = config["patch_size"]
    height, width = x.shape[3] // patch, x.shape[4] // patch
    most_high, most_wide = config["sample_height"] // patch, config["sample_width"] // patch
    scale = min(most_high / height, most_wide / width)
    high, wide = round(scale * height), round(scale * width)
    top, left = round((most_high - high) / 2), round((most_wide - wide) / 2)
    cosines, sines = get_3d_rotary_pos_embed(
        embed_dim=config["attention_head_dim"],
        crops_coords=((top, left), (top + high, left + wide)),
        grid_size=(height, width),
        temporal_size=x.shape[2],
        device=x.device,
    )
    return cosines, sines


def _first(answer: Any) -> Tensor:
    found = answer[0]
    assert isinstance(found, Tensor)
    return found


@dataclass(frozen=True, eq=False)
class Adapter:
    """A network that speaks the language of `dovetail.core.denoiser.Network`.

    batch: rows per call of the module; fewer, once those did not fit in its device's memory (`shortages`). max_frames:
    the longest video it was built for, in latent frames; None is any. patch: height and width of a latent are multiples
    of it. even: its pipeline spaces the noise levels evenly and leaves to the scheduler only to shift them. divides:
    whether fewer rows are tried where many do not fit. stays: it can only be where it was loaded to; waits: it comes by
    itself for a look, where nobody has brought it. scheduler: the checkpoint's scheduler config, as used. space: the
    latents it works on.
    """

    name: str
    family: str
    weights: str
    module: nn.Module = field(repr=False)
    convention: Convention = field(repr=False)
    text: Text = field(repr=False)
    batch: int
    device: torch.device
    dtype: torch.dtype
    scheduler: Mapping[str, Any] = field(repr=False)
    space: LatentSpace = field(repr=False)
    max_frames: int | None = None
    patch: int = 1
    even: bool = False
    divides: bool = True
    stays: bool = False
    waits: bool = False
    shortages: list[Shortage] = field(default_factory=list, init=False, repr=False)
    _said: dict[str, Embedding] = field(default_factory=dict, init=False, repr=False)

    @property
    def parameters(self) -> int:
        """How many numbers the network has learned; the text model's are not among them."""
        return sum(p.numel() for p in self.module.parameters())

    @property
    def text_limit(self) -> int:
        """The most tokens of a prompt that the expert reads, marks at the ends included."""
        return self.text.limit

    def __call__(self, x: Tensor, time: float | Tensor, conditions: Sequence[Asked], frames: Tensor) -> Tensor:
        """The raw prediction, float32, on the device of x.

        x: native latent "b c f h w"; time: native, or "b f" for a network that takes one for each token (`diagonal`);
        conditions: one per row; frames: "b f". Raises RecipeError for a video that does not fit the network,
        NetworkError for NaN or infinity, RoomError for one row that does not fit in the device's memory. Warns with
        RoomWarning of rows at once that do not.
        """
        out = torch.cat([part.to(x.device) for part in self.answers(x, time, conditions, frames)])
        if not out.isfinite().all():
            raise NetworkError(self.name, float(torch.as_tensor(time).max()), weights=self.weights)
        return out

    def answers(self, x: Tensor, time: float | Tensor, conditions: Sequence[Asked], frames: Tensor) -> Iterator[Tensor]:
        """The same, some rows after others, as the module gives them and where it lives."""
        self._check(x)
        done, cells = 0, f"latents of {x.shape[2]} frames of {x.shape[3]}x{x.shape[4]} cells"

        def look(rows: int) -> Tensor:
            some = slice(done, done + rows)
            return self._piece(x[some], time[some] if isinstance(time, Tensor) else time, conditions[some])

        with present(self.module, self.device) if self.waits else nullcontext():
            while done < len(x):
                most = min(self.shortages[-1].now if self.shortages else self.batch, len(x) - done)
                least = 1 if self.divides else most
                who, what = f"expert '{self.name}'", f"{cells}, {least} at once,"
                piece = halving(look, most, who, "rows", self.shortages, what, self.device, least)
                done += len(piece)
                yield piece

    def _piece(self, x: Tensor, time: float | Tensor, conditions: Sequence[Asked]) -> Tensor:
        rows = [parts_of(condition, x.shape[2]) for condition in conditions]
        text, times = self._words(rows), self._times(x, time)
        with relayed(self.module, rows) if max(map(len, rows)) > 1 else nullcontext():
            return self.convention(self.module, x.to(self.device, self.dtype), times, text).float()

    def _times(self, x: Tensor, time: float | Tensor) -> Tensor:
        """One time for each row, or, where frames have their own, for each token."""
        if not isinstance(time, Tensor):
            return torch.full((len(x),), time, device=self.device)
        tokens = (x.shape[3] // self.patch) * (x.shape[4] // self.patch)
        return time.to(self.device).repeat_interleave(tokens, 1)

    def _words(self, rows: Sequence[Parts]) -> Embedding:
        """The texts of each row's parts one behind another, the last again where other rows have more parts."""
        most, said = max(map(len, rows)), []
        for row in rows:
            texts = [condition.text for condition, _ in row]
            told = [self._embedding(text) for text in texts + texts[-1:] * (most - len(texts))]
            said.append(tuple(torch.cat(parts, 1) for parts in zip(*told, strict=True)))
        return tuple(torch.cat(parts) for parts in zip(*said, strict=True))

    def unread(self, texts: Iterable[str]) -> tuple[str, ...]:
        """Those texts that it has not read yet."""
        return tuple(text for text in dict.fromkeys(texts) if text not in self._said)

    def read(self, texts: Iterable[str]) -> None:
        """Read texts before they are asked for, so that the text model can go. Of what it read before, `STAY` texts stay."""
        asked = dict.fromkeys(texts)
        for text in asked:
            said = self._embedding(text)
            del self._said[text]
            self._said[text] = said  # those that were asked for last stand last
        for text in [text for text in self._said if text not in asked][:-STAY]:
            del self._said[text]

    def _embedding(self, text: str) -> Embedding:
        # Encoded alone, so that what a text means does not depend on the texts it came with.
        if text not in self._said:
            self._said[text] = tuple(part.to(self.device) for part in self.text(text))
        return self._said[text]

    def _check(self, x: Tensor) -> None:
        frames, channels = x.shape[2], x.shape[1]
        if self.max_frames is not None and frames > self.max_frames:
            fits = "frame by frame: wrap it in framewise" if self.max_frames == 1 else "in windows: wrap it in windowed"
            raise RecipeError(
                f"expert '{self.name}' ({self.family}) sees at most {self.max_frames} frame(s) at once, "
                f"not {frames}. Show it the video {fits}"
            )
        if channels != self.space.channels:
            raise RecipeError(
                f"expert '{self.name}' ({self.family}) works on latents of {self.space.channels} channels, "
                f"not {channels}"
            )
        if any(side % self.patch for side in x.shape[3:]):
            raise RecipeError(
                f"expert '{self.name}' ({self.family}) cuts latents in patches of {self.patch}x{self.patch}; "
                f"{x.shape[3]}x{x.shape[4]} cells are not so many whole ones"
            )
