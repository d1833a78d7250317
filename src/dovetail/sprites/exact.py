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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from warnings import warn

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from dovetail.core.denoiser import Condition, Expert, predicts_x0
from dovetail.core.schedules import Schedule, VariancePreserving
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
    """What exact experts need of a codec. It must encode every frame by itself."""

    @property
    def space(self) -> str:
        """The latent space's name; experts of one space can be joined."""
        ...

    def encode(self, frames: Tensor) -> Tensor:
        """Frames "b 3 f h w" in [-1, 1] -> latent "b c f h w"."""
        ...


@dataclass(frozen=True)
class PixelCodec:
    """A latent space without weights: small frames, averaged from large ones.

    >>> codec = PixelCodec(factor=4)
    >>> codec.decode(codec.encode(torch.zeros(1, 3, 2, 64, 64))).shape
    torch.Size([1, 3, 2, 64, 64])
    """

    factor: int = 2
    """Pixels per latent pixel, along each side; 1 is the identity."""
    channels: int = 3

    @property
    def space(self) -> str:
        return f"pixels/{self.factor}"

    def encode(self, frames: Tensor) -> Tensor:
        """Frames "b 3 f h w" in [-1, 1] -> latent "b 3 f h w", averages of factor x factor pixels."""
        return _each_frame(frames, lambda z: avg_pool2d(z, self.factor))

    def decode(self, latent: Tensor) -> Tensor:
        """Latent "b 3 f h w" -> frames "b 3 f h w", every latent pixel a square."""
        return _each_frame(latent, lambda z: interpolate(z, scale_factor=float(self.factor)))


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

    def expect(self, x: Tensor, t: float) -> Tensor:
        """E[x0 | x] for clips "b c f h w" at noise share t in [0, 1]; below 1e-6 the nearest candidate."""
        t = max(t, 1e-6)
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


@dataclass(frozen=True, eq=False)
class Exact:
    """The network of an exact expert: native latent and time in, E[x0 | x] out.

    It has no parameters: `weights` says what it is instead. Candidates are rendered and encoded
    when a text and a length are first asked for, and kept.
    """

    kind: str
    candidates: int
    seed: int
    codec: Encoder
    schedule: Schedule
    family: str = "exact"
    parameters: int = 0
    batch: int | None = None
    max_frames: int | None = None
    _known: dict[tuple[str, int], Scenes] = field(default_factory=dict, repr=False)

    @property
    def space(self) -> str:
        return self.codec.space

    @property
    def weights(self) -> str:
        return f"none: {self.candidates} renders of seed {self.seed}"

    def __call__(self, x: Tensor, time: float, conditions: Sequence[Condition], frames: Tensor) -> Tensor:
        """x: "b c f h w". Rows may differ in condition; global frames do not matter, as scenes have no end."""
        if self.kind == "spatial" and x.shape[2] != 1:
            raise ValueError(f"an image expert sees one frame at a time, not {x.shape[2]}: wrap it in Framewise")
        t = self.schedule.share(time)
        x = x / self.schedule.scale(t)
        seen = torch.empty_like(x)
        for text in {condition.text for condition in conditions}:
            rows = [i for i, condition in enumerate(conditions) if condition.text == text]
            seen[rows] = self.scenes(text, x.shape[2]).to(x).expect(x[rows], t)
        return seen

    def scenes(self, text: str, length: int) -> Scenes:
        """The candidates for a text (empty: anything) as clips of `length` frames."""
        if (text, length) not in self._known:
            self._known[text, length] = self._encoded(text, length)
        return self._known[text, length]

    def _encoded(self, text: str, length: int) -> Scenes:
        asked, strange = ask(text)
        if strange:
            warn(f"words that sprite experts do not know: {', '.join(strange)}. They know:\n{GRAMMAR}", stacklevel=2)
        tape: list[Tensor] = []
        starts: list[int] = []
        while len(starts) < self.candidates:
            number = 100_003 * self.seed + len(tape)
            scene = imagine(asked, number)
            cuts = min(cycle(scene), self.candidates - len(starts))
            first = int(Dice(7 * number + list(SCHEDULES).index(self.kind)).uniform(0, 1000))
            looks = LOOKS[self.kind](render(scene, range(first, first + cuts - 1 + length)))
            used = sum(len(part) for part in tape)
            starts += range(used, used + cuts)
            latent = self.codec.encode(rearrange(looks, "f c h w -> 1 c f h w"))
            tape.append(rearrange(latent, "1 c f h w -> f (c h w)"))
        flat = torch.cat(tape).float()
        return Scenes(flat, flat.double().square().sum(1) / 2, torch.tensor(starts))


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
    """An exact expert. kind: spatial (sharp frames), control (sharp clips) or temporal (degraded clips).

    codec: the latent space it lives in, `PixelCodec()` by default. schedule: the kind's own by default.
    Raises ValueError for an unknown kind or no candidates.
    """
    if kind not in SCHEDULES:
        raise ValueError(f"unknown kind of exact expert {kind!r}; known: {', '.join(SCHEDULES)}")
    if candidates < 1:
        raise ValueError(f"an exact expert needs one candidate or more, not {candidates}")
    schedule = SCHEDULES[kind] if schedule is None else schedule
    network = Exact(kind, candidates, seed, PixelCodec() if codec is None else codec, schedule)
    return Expert(name, schedule, predicts_x0, network)


def _each_frame(video: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    frames = change(rearrange(video, "b c f h w -> (b f) c h w"))
    return rearrange(frames, "(b f) c h w -> b c f h w", b=len(video))
