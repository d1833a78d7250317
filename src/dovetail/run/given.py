"""What a run is given: a video to start from, and words."""

import hashlib
import warnings
from typing import TYPE_CHECKING

from torch import Tensor

from dovetail.errors import PromptWarning, RecipeError, ShapeWarning
from dovetail.recipe import Recipe, models
from dovetail.video import Video, read

if TYPE_CHECKING:
    from dovetail.run.cast import Codec


def warn_about(recipe: Recipe) -> None:
    """Warn with PromptWarning about words that sprite experts do not know, if they are asked."""
    sprites = [
        spec
        for spec in recipe.experts.values()
        if isinstance(spec, models.Exact) or spec.weights.startswith("sprites/")
    ]
    if not sprites:
        return
    from dovetail.sprites.world import GRAMMAR, ask

    _, strange = ask(recipe.prompt)
    if strange:
        message = f"words that sprite experts do not know: {', '.join(strange)}. They know:\n{GRAMMAR}"
        warnings.warn(message, PromptWarning, stacklevel=3)


def start_of(recipe: Recipe) -> Video | None:
    """The video that the recipe starts from, if it starts from one."""
    if recipe.start is None:
        return None
    video = read(recipe.start.video)
    if recipe.start.digest not in (None, digest(video)):
        raise RecipeError(f"start.video: {recipe.start.video} is not the video it was when this recipe was made")
    if len(video.frames) < recipe.video.frames:
        raise RecipeError(
            f"video.frames: {recipe.video.frames} frames are asked for, but {recipe.start.video} has {len(video.frames)}"
        )
    return video


def encoded(video: Video, recipe: Recipe, codec: "Codec") -> Tensor:
    """The latent of the frames that the recipe takes of a video, at its size."""
    (old_height, old_width), (height, width) = video.size, (recipe.video.height, recipe.video.width)
    if abs(old_height * width / (old_width * height) - 1) > 0.02:  # beyond an odd line that H.264 adds
        message = (
            f"the given video is {old_width}x{old_height} and is stretched to {width}x{height}; to keep its shape, "
            "change video.height and video.width, as far as the experts go along"
        )
        warnings.warn(message, ShapeWarning, stacklevel=3)
    return codec.encode(Video(video.frames[: recipe.video.frames], video.fps).resized(height, width).pixels)


def digest(video: Video) -> str:
    """A short sha256 of the frames."""
    return hashlib.sha256(video.frames.tobytes()).hexdigest()[:16]
