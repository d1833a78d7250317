"""What networks do while a step is under way: to be read from elsewhere, and to be stopped from there."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dovetail.core.denoiser import Condition, Network
from dovetail.errors import StoppedError


@dataclass(eq=False)
class Pulse:
    """Of one run, or of several that take turns. A run yields after each step, and a step of a method that shows a long
    video in windows, again and again, asks its networks hundreds of times; what it has come to meanwhile stands here,
    for another thread, or for what a signal calls.

    frames: that networks have seen since the last step, both branches of guidance counted; of: that they see in a whole
    run, as planned.

    >>> pulse = Pulse(frames=30, of=400)
    >>> pulse.share
    0.075
    >>> pulse.stop()
    >>> pulse.beat(16)
    Traceback (most recent call last):
    dovetail.errors.StoppedError: stopped in the middle of a step
    """

    frames: int = 0
    of: int = 1
    stopped: bool = False

    @property
    def share(self) -> float:
        """Of a run's network work, what was done since the last step."""
        return min(1.0, self.frames / self.of)

    def stop(self) -> None:
        """End the run before its networks look again; it then raises StoppedError, and what it has kept stays."""
        self.stopped = True

    def beat(self, frames: int) -> None:
        """Some frames were seen. Raises StoppedError once it is stopped."""
        if self.stopped:
            raise StoppedError("stopped in the middle of a step")
        self.frames += frames

    def asked(
        self, network: Network, x: Tensor, time: float, conditions: Sequence[Condition], frames: Tensor
    ) -> Tensor:
        """What a network answers, a beat for each part of the batch that it takes at once."""
        # Asked of its class: a wrapper that passes on what it has not, is asked itself.
        if not hasattr(type(network), "answers"):
            out = network(x, time, conditions, frames)
            self.beat(len(x) * x.shape[2])
            return out
        parts = []
        for part in network.answers(x, time, conditions, frames):  # type: ignore[attr-defined]
            parts.append(part)
            self.beat(len(part) * part.shape[2])
        return torch.cat([part.to(x.device) for part in parts])
