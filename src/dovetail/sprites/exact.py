"""Exact experts: the best possible denoiser of a finite set of renders, in closed form.

Nothing here is trained, and nothing here is presented as a trained network. Where a video is one of
v_1 .. v_n, all equally likely, the answer that every network strives for is known:

    E[x0 | x] = sum_i softmax_i(-|x - (1 - t) v_i|^2 / (2 t^2)) v_i

So a method can be watched with experts that make no mistakes but those of their kind: the spatial
one knows sharp frames and no motion, the control one sharp clips, the temporal one degraded clips.
`candidates` is their capacity.

The candidates of a prompt are cuts of a few endless scenes that fit it, one cut per frame of a
scene's cycle, so together they cover every place that its object comes by. All kinds know
the same scenes (of one seed), cut at phases of their own.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol
from warnings import warn

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import avg_pool2d

from dovetail.core.denoiser import Condition, Expert, predicts_x0
from dovetail.core.schedules import Schedule, VariancePreserving
from dovetail.errors import PromptWarning, RecipeError, nearest
from dovetail.experts.space import LatentSpace
from dovetail.sprites.degrade import degrade
from dovetail.sprites.world import DIRECTIONS, GRAMMAR, Dice, Scene, ask, imagine, render

SCHEDULES: dict[str, Schedule] = {
    "spatial": VariancePreserving.betas("scaled_linear", 0.00085, 0.012),
    "control": VariancePreserving.betas("linear", 0.00085, 0.012),
    "temporal": VariancePreserving.betas("linear", 1e-4, 2e-2),
}
"""Each kind's schedule: Stable Diffusion's, AnimateDiff's and LaVie's betas, as in the ConFiner paper."""

LOOKS: dict[str, Callable[[Tensor], Tensor]] = {
    "spatial": lambda frames: frames,
    "control": lambda frames: frames,
    "temporal": degrade,
}
"""What each kind believes that frames look like."""


class Encoder(Protocol):
    """What exact experts need of a codec, which must encode every frame by itself."""

    @property
    def space(self) -> LatentSpace: ...

    @property
    def factor(self) -> int: ...

    def encode(self, frames: Tensor) -> Tensor:
        """Frames "b f c h w" in [-1, 1] -> latent "b c f h w"."""
        ...


@dataclass(frozen=True)
class PixelCodec:
    """A latent space without weights: small frames, each pixel the average of factor x factor.

    It can stand where a `dovetail.experts.Codec` stands.

    >>> codec = PixelCodec(factor=4)
    >>> latent = codec.encode(torch.zeros(1, 2, 3, 64, 64))
    >>> latent.shape, codec.decode(latent).shape
    (torch.Size([1, 3, 2, 16, 16]), torch.Size([1, 2, 3, 64, 64]))
    """

    factor: int = 2
    """Pixels per latent cell, along height and along width; 1 is the identity."""
    channels: int = 3
    weights: str = "pixels"

    @property
    def space(self) -> LatentSpace:
        return LatentSpace(self.channels, self.weights, self.factor, scaling=1.0, shift=0.0)

    def encode(self, frames: Tensor) -> Tensor:
        """The latent "b c f h w" of frames "b f c h w". Height and width must be multiples of `factor`."""
        height, width = frames.shape[-2:]
        if height % self.factor or width % self.factor:
            raise RecipeError(f"pixels need height and width in multiples of {self.factor}, not {height}x{width}")
        small = avg_pool2d(rearrange(frames, "b f c h w -> (b f) c h w"), self.factor)
        return rearrange(small, "(b f) c h w -> b c f h w", b=len(frames))

    def decode(self, latent: Tensor) -> Tensor:
        """Frames "b f c h w" in [-1, 1] of a latent "b c f h w", every cell a square."""
        large = latent.repeat_interleave(self.factor, 3).repeat_interleave(self.factor, 4)
        return rearrange(large.clamp(-1, 1), "b c f h w -> b f c h w")

    def stream(self, latent: Tensor) -> Iterator[Tensor]:
        """What `decode` gives, here in one piece."""
        yield self.decode(latent)


@dataclass(frozen=True, eq=False)
class Scenes:
    """Encoded scenes, end to end, and where the candidate clips start in them.

    tape: "m d", one flat latent per frame; power: |frame|^2 / 2 of each, "m"; starts: "n", indices.
    """

    tape: Tensor
    power: Tensor
    starts: Tensor

    def to(self, x: Tensor) -> "Scenes":
        return Scenes(self.tape.to(x.device), self.power.to(x.device), self.starts.to(x.device))

    def expect(self, x: Tensor, t: float | Tensor) -> Tensor:
        """E[x0 | x] for clips "b c f h w" at noise share t in [0, 1], or of each frame, "b f"; below 1e-6 the nearest
        candidate."""
        t = t.to(x.device).double().clamp_min(1e-6)[..., None] if isinstance(t, Tensor) else max(t, 1e-6)
        rows = rearrange(x.double(), "b c f h w -> b f (c h w)")
        # -|x - (1 - t) v|^2 / (2 t^2) without |x|^2, which all share; frame by frame, then summed along
        # each cut. In double: near t = 0 the sums are large and their differences decide.
        near = ((rows @ self.tape.T.double()) * (1 - t) - self.power * (1 - t) ** 2) / t**2
        cuts = self.starts[:, None] + torch.arange(x.shape[2], device=x.device)
        fits = near.gather(2, cuts.T.expand(len(x), -1, -1)).sum(1)
        weight = fits.softmax(1)[:, None, :].expand(-1, x.shape[2], -1)
        shares = torch.zeros_like(near).scatter_add(2, cuts.T.expand(len(x), -1, -1), weight)
        _, c, _, h, w = x.shape
        return rearrange(shares.to(self.tape) @ self.tape, "b f (c h w) -> b c f h w", c=c, h=h, w=w).to(x)


KEPT = 16
"""Texts and sizes whose candidates an expert keeps, some ten megabytes each: those asked for last."""


@dataclass(frozen=True, eq=False)
class Exact:
    """The network of an exact expert: native latent and time in, E[x0 | x] out.

    It has learned nothing: `weights` says what it knows instead. Candidates are rendered and encoded
    when a text and a size are first asked for, and the latest are kept. batch: rows looked at together.
    """

    name: str
    kind: str
    candidates: int
    seed: int
    codec: Encoder = field(repr=False)
    schedule: Schedule = field(repr=False)
    batch: int = 64
    family: ClassVar[str] = "exact"
    parameters: ClassVar[int] = 0
    _known: dict[tuple[str, int, int], Scenes] = field(default_factory=dict, init=False, repr=False)

    @property
    def space(self) -> LatentSpace:
        return self.codec.space

    @property
    def weights(self) -> str:
        return f"none: {self.candidates} {self.kind} renders of seed {self.seed}"

    @property
    def max_frames(self) -> int | None:
        return 1 if self.kind == "spatial" else None

    def __call__(self, x: Tensor, time: float, conditions: Sequence[Condition], frames: Tensor) -> Tensor:
        """x: native latent "b c f h w"; conditions: one per row. Scenes have no end, so global frames do
        not matter. Raises RecipeError for a video that does not fit the expert."""
        self._check(x)
        t = self.schedule.share(time)
        return self.expect(x / self.schedule.scale(t), t, conditions)

    def expect(self, x: Tensor, t: float | Tensor, conditions: Sequence[Condition]) -> Tensor:
        """E[x0 | x] for path latents "b c f h w" at a noise share, or one of each frame, "b f"."""
        seen = torch.empty_like(x)
        for text in {condition.text for condition in conditions}:
            scenes = self.scenes(text, x.shape[2], x.shape[3]).to(x)
            rows = torch.tensor([i for i, condition in enumerate(conditions) if condition.text == text])
            for piece in torch.split(rows.to(x.device), self.batch):
                seen[piece] = scenes.expect(x[piece], t[piece.to(t.device)] if isinstance(t, Tensor) else t)
        return seen

    def scenes(self, text: str, length: int, side: int) -> Scenes:
        """The candidates for a text (empty: anything) as clips of `length` frames, `side` latent cells wide."""
        found = self._known.pop((text, length, side), None)
        if found is None:
            found = self._encoded(text, length, side)
        self._known[text, length, side] = found
        while len(self._known) > KEPT:
            del self._known[next(iter(self._known))]
        return found

    @torch.no_grad()
    def _encoded(self, text: str, length: int, side: int) -> Scenes:
        asked, strange = ask(text)
        if strange:
            warn(f"expert '{self.name}' does not know {', '.join(strange)}. It knows:\n{GRAMMAR}", PromptWarning, 2)
        tape: list[Tensor] = []
        starts: list[int] = []
        while len(starts) < self.candidates:
            number = 100_003 * self.seed + len(tape)
            scene = imagine(asked, number)
            cuts = min(cycle(scene), self.candidates - len(starts))
            first = int(Dice(7 * number + list(LOOKS).index(self.kind)).uniform(0, 1000))
            frames = LOOKS[self.kind](render(scene, range(first, first + cuts - 1 + length), side * self.codec.factor))
            used = sum(len(part) for part in tape)
            starts += range(used, used + cuts)
            tape.append(rearrange(self.codec.encode(frames[None]), "1 c f h w -> f (c h w)"))
        flat = torch.cat(tape).float()
        return Scenes(flat, flat.double().square().sum(1) / 2, torch.tensor(starts))

    def _check(self, x: Tensor) -> None:
        _, channels, frames, height, width = x.shape
        if frames > 1 and self.max_frames == 1:
            raise RecipeError(
                f"expert '{self.name}' (exact, spatial) sees 1 frame at once, not {frames}. "
                "Show it the video frame by frame: wrap it in framewise"
            )
        if channels != self.space.channels or height != width:
            raise RecipeError(
                f"expert '{self.name}' (exact) works on square latents of {self.space.channels} channels, "
                f"not {channels}x{height}x{width}"
            )


def cycle(scene: Scene) -> int:
    """After how many frames, about, a scene is back where it was. A frame is two half widths wide."""
    if scene.motion in DIRECTIONS:
        return round(2 / scene.speed)
    return round(scene.period) if scene.motion == "pulsing" else 1


def load(
    name: str,
    kind: str,
    *,
    candidates: int = 256,
    seed: int = 0,
    codec: Encoder | None = None,
    schedule: Schedule | None = None,
) -> Expert:
    """An exact expert, which needs no guidance. Its network is an `Exact`.

    kind: spatial (sharp frames), control (sharp clips) or temporal (degraded clips). candidates: how
    many of them it knows per prompt. seed: of the world, the same for experts that are joined. codec:
    the latent space it lives in, `PixelCodec()` by default. schedule: the kind's own by default.
    Raises RecipeError for an unknown kind or no candidates.
    """
    if kind not in SCHEDULES:
        raise RecipeError(f"unknown kind '{kind}' of exact expert '{name}'; {nearest(kind, SCHEDULES)}")
    if candidates < 1:
        raise RecipeError(f"exact expert '{name}' needs at least 1 candidate, not {candidates}")
    schedule = SCHEDULES[kind] if schedule is None else schedule
    network = Exact(name, kind, candidates, seed, PixelCodec() if codec is None else codec, schedule)
    return Expert(name, schedule, predicts_x0, network)
