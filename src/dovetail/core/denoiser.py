"""A denoiser splits a noisy latent into the video and the noise it believes in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from dovetail.core.path import Split, split
from dovetail.core.schedules import Schedule


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
    """What one row of a batch is asked to show."""

    text: str = ""


@dataclass(frozen=True)
class Timeline:
    """Conditions over time: `keys` are (first global frame, condition), sorted; the first starts at 0.

    >>> Timeline.of("a red circle").at(torch.tensor([0, 1]))
    Condition(text='a red circle')
    """

    keys: tuple[tuple[int, Condition], ...]

    @classmethod
    def of(cls, text: str) -> "Timeline":
        """One prompt for all frames."""
        return cls(((0, Condition(text)),))

    def at(self, frames: Tensor) -> Condition:
        """The condition of a row with these global frames "f": the one at its centre."""
        centre = int(frames[len(frames) // 2])
        return [condition for start, condition in self.keys if start <= centre or start == self.keys[0][0]][-1]


Network = Callable[[Tensor, float, Sequence[Condition], Tensor], Tensor]
"""(native latent "b c f h w", native time, a condition per row, frames "b f") -> raw prediction."""


@dataclass(frozen=True)
class Expert:
    """A pretrained network, with all that is needed to understand its answers.

    The network is no part of equality or repr: a tree of denoisers holds values, and an expert is
    known by its name.
    """

    name: str
    schedule: Schedule = field(repr=False)
    target: Target = field(repr=False)
    network: Network = field(repr=False, compare=False)

    def given(self, prompt: "str | Timeline") -> "Prompted":
        return Prompted(self, Timeline.of(prompt) if isinstance(prompt, str) else prompt)

    def see(self, x: Tensor, t: float, conditions: Sequence[Condition], frames: Tensor) -> Split:
        """One call of the network, its answer solved for (x0, eps).

        Two equations, two unknowns: scale * x = alpha x0 + sigma eps, out = a x0 + b eps. Raises
        ZeroDivisionError where they are one (an eps network at zero signal).

        x: path latent "b c f h w"; conditions: one per row; frames: "b f".
        """
        scale = self.schedule.scale(t)
        alpha, sigma = scale * (1 - t), scale * t
        native = scale * x
        out = self.network(native, self.schedule.native(t), conditions, frames)
        a, b = self.target(alpha, sigma)
        both = b * alpha - a * sigma
        return split(x, torch.sub(native * (b / both), out, alpha=sigma / both), t)


@dataclass(frozen=True)
class Prompted:
    """An expert, told what to look for: the leaf of every denoiser."""

    expert: Expert
    prompt: Timeline

    def conditions(self, frames: Tensor) -> tuple[Condition, ...]:
        """The condition of each row."""
        if len(self.prompt.keys) == 1:
            return (self.prompt.keys[0][1],) * len(frames)
        return tuple(self.prompt.at(row) for row in frames.cpu())

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        return self.expert.see(x, t, self.conditions(frames), frames)


def timeline(frames: int, start: int = 0) -> Tensor:
    """Global frame indices "1 f" of a video with one row."""
    return torch.arange(start, start + frames)[None]
