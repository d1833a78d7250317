"""A denoiser splits a noisy latent into the video and the noise it believes in."""

from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Protocol, cast

import torch
from torch import Tensor

from dovetail.core.path import Split, split
from dovetail.core.schedules import Schedule


class NoSignalError(ZeroDivisionError):
    """A network that predicts noise was shown nothing but noise, so its answer says nothing about the video."""


class Denoiser(Protocol):
    """x: path latent "b c f h w"; t: share of noise in (0, 1]; frames: global frame indices "b f".

    frames are integers and stay on the CPU, wherever x is: noise and prompts read them there, so that no
    step has to wait for a device.
    """

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split: ...


Target = Callable[[float, float], tuple[float, float]]
"""What a network predicts: a * x0 + b * eps, with (a, b) a function of (alpha, sigma)."""


def predicts_x0(alpha: float, sigma: float) -> tuple[float, float]:
    return 1.0, 0.0


def predicts_eps(alpha: float, sigma: float) -> tuple[float, float]:
    return 0.0, 1.0


def predicts_flow(alpha: float, sigma: float) -> tuple[float, float]:
    return -1.0, 1.0


def predicts_v(alpha: float, sigma: float) -> tuple[float, float]:
    return -sigma, alpha


TARGETS: dict[str, Target] = {
    "sample": predicts_x0,
    "epsilon": predicts_eps,
    "flow_prediction": predicts_flow,
    "v_prediction": predicts_v,
}
"""Targets by diffusers' names for prediction_type."""


@dataclass(frozen=True)
class Condition:
    """What one row of a batch is asked to show. event: the number, from 0, of the story's event that the text belongs to;
    None without a story and for negative prompts. Conditions with the same text are equal, whatever their event."""

    text: str = ""
    event: int | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Blend:
    """Conditions that one row is asked to show together, each with its share; shares sum to 1.

    No network sees it: an expert is asked for each of them, and its answers are mixed. Design page:
    docs/decisions/0018-stories.md.
    """

    parts: tuple[tuple[Condition, float], ...]


Parts = tuple[tuple[Condition, int], ...]
"""Conditions of one row, one after another, with their numbers of frames."""


@dataclass(frozen=True)
class Passage:
    """Conditions that one row is asked to show one after another, each for its number of frames.

    Only networks whose `Expert` is asked by frame see it. Design page: docs/decisions/0036-told-by-frame.md.
    """

    parts: Parts


@dataclass(frozen=True)
class Timeline:
    """Conditions over time: `keys` are (first global frame, condition), sorted; the first starts at 0.

    fade: for so many frames around the start of each but the first, it and the one before count together, its share
    rising evenly. A fade as long as a window gives each window's conditions the shares of it that they cover.
    by_frame: experts that can are told of each frame what lies there (`along`), the others what lies at a row's centre.

    >>> Timeline.of("a red circle").at(torch.tensor([0, 1]))
    Condition(text='a red circle')
    >>> story = Timeline(((0, Condition("day")), (4, Condition("night"))), fade=4)
    >>> story.at(torch.arange(1, 5))
    Blend(parts=((Condition(text='day'), 0.75), (Condition(text='night'), 0.25)))
    """

    keys: tuple[tuple[int, Condition], ...]
    fade: float = 0.0
    by_frame: bool = False

    @classmethod
    def of(cls, text: str) -> "Timeline":
        """One prompt for all frames."""
        return cls(((0, Condition(text)),))

    def at(self, frames: Tensor) -> Condition | Blend:
        """What a row with these global frames "f" is asked to show: that which lies at its centre."""
        centre = (int(frames[0]) + int(frames[-1]) + 1) / 2
        risen = [1.0, *(self._risen(centre - start) for start, _ in self.keys[1:]), 0.0]
        shares = [high - low for high, low in pairwise(risen)]
        parts = tuple((key, share) for (_, key), share in zip(self.keys, shares, strict=True) if share > 0)
        return parts[0][0] if len(parts) == 1 else Blend(parts)

    def along(self, frames: Tensor) -> Condition | Passage:
        """What each of a row's global frames "f" is asked to show. A fade has no say in it.

        >>> story = Timeline(((0, Condition("day")), (4, Condition("night"))))
        >>> story.along(torch.arange(1, 6))
        Passage(parts=((Condition(text='day'), 3), (Condition(text='night'), 2)))
        """
        starts = [start for start, _ in self.keys]
        told = [self.keys[bisect(starts, frame) - 1][1] for frame in frames.tolist()]
        parts = tuple((condition, len(list(run))) for condition, run in groupby(told))
        return parts[0][0] if len(parts) == 1 else Passage(parts)

    def _risen(self, since: float) -> float:
        """How much a condition, and those after it, count so many frames after its start."""
        if not self.fade:
            return float(since >= 0)
        return min(max(since / self.fade + 0.5, 0.0), 1.0)


Asked = Condition | Passage
"""What an expert is asked to show in one row; passages are for networks that are told by frame."""


def parts_of(asked: Asked, frames: int) -> Parts:
    """What a row of so many frames is asked to show, part by part."""
    return asked.parts if isinstance(asked, Passage) else ((asked, frames),)


Network = Callable[[Tensor, float, Sequence[Condition], Tensor], Tensor]
"""(native latent "b c f h w", native time, a condition per row, frames "b f") -> raw prediction. That of an expert that is
told `by_frame` takes passages for conditions too."""


@dataclass(frozen=True)
class Expert:
    """A pretrained network, with all that is needed to understand its answers.

    The network is no part of equality or repr: a tree of denoisers holds values, and an expert is
    known by its name. by_frame: whether the network can be asked for a `Passage`.
    """

    name: str
    schedule: Schedule = field(repr=False)
    target: Target = field(repr=False)
    network: Network = field(repr=False, compare=False)
    by_frame: bool = field(default=False, repr=False)

    def given(self, prompt: "str | Timeline") -> "Prompted":
        return Prompted(self, Timeline.of(prompt) if isinstance(prompt, str) else prompt)

    def see(self, x: Tensor, t: float, conditions: Sequence[Asked | Blend], frames: Tensor) -> Split:
        """One call of the network, its answer solved for (x0, eps).

        A row with a blend is asked once for each of its conditions, as rows of the same call.

        Two equations, two unknowns: scale * x = alpha x0 + sigma eps, out = a x0 + b eps. Raises
        NoSignalError where they are one (an eps network at zero signal).

        x: path latent "b c f h w"; conditions: one per row; frames: "b f".
        """
        scale = self.schedule.scale(t)
        alpha, sigma = scale * (1 - t), scale * t
        native = scale * x
        out = self._answer(native, self.schedule.native(t), conditions, frames)
        a, b = self.target(alpha, sigma)
        both = b * alpha - a * sigma
        if not both:
            raise NoSignalError(f"expert '{self.name}' predicts noise, and at share {t:g} x is nothing else")
        return split(x, torch.sub(native * (b / both), out, alpha=sigma / both), t)

    def _answer(self, native: Tensor, time: float, asked: Sequence[Asked | Blend], frames: Tensor) -> Tensor:
        """The network's raw prediction, blends mixed: what is solved for is linear in it, so mixing it mixes that."""
        parts = [one.parts if isinstance(one, Blend) else ((cast(Condition, one), 1.0),) for one in asked]
        conditions = [condition for row in parts for condition, _ in row]
        if len(conditions) == len(asked):
            return self.network(native, time, conditions, frames)
        rows = torch.tensor([i for i, row in enumerate(parts) for _ in row])
        out = self.network(native[rows], time, conditions, frames[rows.to(frames.device)])
        shares = out.new_tensor([share for row in parts for _, share in row])
        mixed = torch.zeros_like(out[: len(asked)])
        return mixed.index_add_(0, rows.to(out.device), out * shares[:, None, None, None, None])


@dataclass(frozen=True)
class Prompted:
    """An expert, told what to look for: the leaf of every denoiser."""

    expert: Expert
    prompt: Timeline

    def conditions(self, frames: Tensor) -> tuple[Asked | Blend, ...]:
        """What each row is asked to show."""
        if len(self.prompt.keys) == 1:
            return (self.prompt.keys[0][1],) * len(frames)
        told = self.prompt.along if self.prompt.by_frame and self.expert.by_frame else self.prompt.at
        return tuple(told(row) for row in frames.cpu())

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        return self.expert.see(x, t, self.conditions(frames), frames)


def timeline(frames: int, start: int = 0) -> Tensor:
    """Global frame indices "1 f" of a video with one row."""
    return torch.arange(start, start + frames)[None]
