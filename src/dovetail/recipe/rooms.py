"""Where stages work whose latents are not all the same, and how a plan goes from one such room to the next."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from dovetail.recipe.models import Recipe

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Room:
    """Latents in which one or several stages of a recipe work. frames, pixels: of the video there; channels, latent: of
    its latent, frames, height and width; called: its autoencoder."""

    frames: int
    pixels: tuple[int, int]
    channels: int
    latent: tuple[int, int, int]
    called: str = ""

    @property
    def framewise(self) -> bool:
        """Whether each frame of the video is one of the latent."""
        return self.frames == self.latent[0]


def frame_by_frame(one: Room, two: Room) -> bool:
    """Whether a bridge between two rooms takes single frames; otherwise it takes the whole video at once."""
    return one.framewise and two.framewise


@dataclass(frozen=True)
class Hollow:
    """A bridge between stand-ins. whole: whether it takes the whole video at once; came: how many latent frames came to
    it, each time."""

    length: int
    whole: bool
    came: list[int] = field(default_factory=list, compare=False)

    def __call__(self, video: "Tensor") -> "Tensor":
        self.came.append(video.shape[2])
        return video.new_zeros(*video.shape[:2], self.length, *video.shape[3:]) if self.whole else video


def hollow(recipe: Recipe, rooms: Mapping[str, Room]) -> dict[str, Hollow]:
    """Bridges between stand-ins, by the stages that they lead into."""
    found = {}
    for before, stage in pairwise(recipe.chain):
        if stage.bridge is not None and rooms:
            one, two = rooms[before.stage], rooms[stage.stage]
            found[stage.stage] = Hollow(two.latent[0], not frame_by_frame(one, two))
    return found
