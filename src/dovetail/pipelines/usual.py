"""What the stock pipelines of a family do when nothing else is asked."""

from dataclasses import dataclass
from typing import Any

from dovetail.errors import RecipeError


@dataclass(frozen=True)
class Usual:
    """Frames and pixels of a clip, frames per second, guidance, and whether its branches go in one call."""

    frames: int
    height: int
    width: int
    fps: float
    guidance: float
    joint: bool = True

    def video(
        self, frames: int | None, height: int | None, width: int | None, fps: float | None, seed: int
    ) -> dict[str, Any]:
        """`video` of a recipe: what is given, else what is usual."""
        given = {"frames": frames, "height": height, "width": width, "fps": None if fps is None else float(fps)}
        return {**{name: getattr(self, name) if one is None else one for name, one in given.items()}, "seed": seed}


USUAL = {
    "wan": Usual(81, 480, 832, 16.0, 5.0, joint=False),
    "ltx": Usual(161, 512, 704, 25.0, 3.0),
    "cogvideox": Usual(49, 480, 720, 8.0, 6.0),
}
"""The defaults of WanPipeline, LTXPipeline and CogVideoXPipeline in diffusers 0.42; of the first and the last, frames
per second as their examples export."""


def usual_of(family: str) -> Usual:
    """What a family's stock pipeline does. Raises RecipeError for a family that makes no videos by itself."""
    if family not in USUAL:
        raise RecipeError(f"transformer: this pipeline takes one of {', '.join(USUAL)}, not a network of '{family}'")
    return USUAL[family]


IMAGES = Usual(16, 512, 512, 8.0, 7.5)
"""Those of AnimateDiffPipeline for Stable Diffusion 1.5."""
