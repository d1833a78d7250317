"""Networks that are asked a noise share for each frame, as FIFO-Diffusion asks them. Kim et al., 2024, arXiv:2405.11473.

Wan's and LTX-Video's take a time for each token, of which image to video makes use. That they can be asked so does not say
that they learned to: in the clips of most of them all frames were equally noisy. The paper asks such networks all the same.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from dovetail.core.denoiser import Condition, Expert, Timeline, predicts_flow
from dovetail.errors import RecipeError
from dovetail.experts.adapter import Adapter

PER_TOKEN = ("wan", "ltx")
"""Families whose networks take a time for each token."""


@dataclass(frozen=True)
class Diagonal:
    """A `dovetail.methods.fifo.Look` over a flow expert: path latent "b c f h w", a noise share for each frame "b f", which
    may be 0, and global frames "b f" to x0.

    story: what each clip is asked to show at its centre, without fades. guidance: classifier-free, 1.0 is none.
    Raises RecipeError for an expert of another family, or one that predicts no flow.

    >>> from dovetail import recipe, run
    >>> cast = run.load(recipe.load("sprites-flowblending"))
    >>> look = Diagonal(cast.experts["large"], Timeline.of("a red circle moving right"), guidance=3.0)
    >>> look(torch.randn(1, 16, 4, 8, 8), torch.tensor([[0.0, 0.3, 0.6, 0.9]]), torch.arange(4)[None]).shape
    torch.Size([1, 16, 4, 8, 8])
    """

    expert: Expert
    story: Timeline
    guidance: float = 1.0

    def __post_init__(self) -> None:
        network, name = self.expert.network, self.expert.name
        if (
            not isinstance(network, Adapter)
            or network.family not in PER_TOKEN
            or self.expert.target is not predicts_flow
        ):
            raise RecipeError(
                f"expert '{name}' is asked one time for a whole clip; a noise share for each frame is for flow experts of "
                f"the families {' and '.join(PER_TOKEN)}, and for exact ones, by their own `expect`"
            )
        if self.story.fade:
            raise RecipeError(
                "a clip of frames that are not equally noisy is told one event: leave out the story's fade"
            )

    def __call__(self, x: Tensor, t: Tensor, frames: Tensor) -> Tensor:
        conditions = [cast(Condition, self.story.at(row)) for row in frames.cpu()]
        if self.guidance == 1.0:
            velocity = self._velocity(x, t, conditions, frames)
        else:
            twice, shares, both = (part.repeat(2, *[1] * (part.ndim - 1)) for part in (x, t, frames))
            away, towards = self._velocity(twice, shares, [Condition()] * len(x) + conditions, both).chunk(2)
            velocity = away.lerp(towards, self.guidance)
        return x - t.to(x)[:, None, :, None, None] * velocity

    def _velocity(self, x: Tensor, t: Tensor, conditions: list[Condition], frames: Tensor) -> Tensor:
        times = torch.tensor([[self.expert.schedule.native(share) for share in row] for row in t.tolist()])
        network = self.expert.network
        assert isinstance(network, Adapter)
        return network(x, times, conditions, frames)
